//! `--watch`: repeats the output of a command until interrupted.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;

use super::exit;
use crate::control::AskError;

/// Clears a terminal and moves to its first line (ECMA-48, ED and CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Repeat the output until interrupted
    #[arg(long, short)]
    pub(super) watch: bool,
    /// Time between two outputs
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
}

impl WatchArgs {
    /// Prints the text that `show` returns, once or repeatedly, and returns the exit code of the last one.
    ///
    /// While the service does not answer, a terminal shows the error; elsewhere the same error is printed once.
    ///
    /// # Errors
    /// The error of `show`, or of standard output.
    pub(super) fn repeat(
        &self,
        json: bool,
        show: impl Fn() -> anyhow::Result<Result<(String, ExitCode), AskError>>,
    ) -> anyhow::Result<ExitCode> {
        let clear = self.watch && !json && io::stdout().is_terminal();
        let head = if clear { CLEAR } else { "" };
        let mut last_error = None;
        loop {
            let code = match show()? {
                Ok((text, code)) => {
                    last_error = None;
                    if !super::print_while_read(&format!("{head}{text}"))? {
                        return Ok(code);
                    }
                    code
                }
                Err(error) if clear => {
                    super::print(&format!("{head}{}\n", exit::sentence(&error)))?;
                    ExitCode::from(exit::of_ask_error(&error))
                }
                Err(error) => {
                    let sentence = exit::sentence(&error);
                    if last_error.as_ref() != Some(&sentence) {
                        exit::report(&error, json);
                        last_error = Some(sentence);
                    }
                    ExitCode::from(exit::of_ask_error(&error))
                }
            };
            if !self.watch {
                return Ok(code);
            }
            sleep(Duration::from_secs(self.interval));
        }
    }
}
