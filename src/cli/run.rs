//! `voicelane run`: the service in the foreground.

use std::process::ExitCode;

use clap::Args;

use crate::daemon::{self, Options};

use super::RuntimeDir;
use super::sources::{Files, Overrides};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let config = match args.files.load_trusted(&args.overrides) {
        Ok(config) => config,
        Err(error) => return Ok(error.report()),
    };
    let options = Options {
        runtime_dir: args.runtime.runtime_dir.clone(),
    };
    daemon::run(&config, &options)?;
    Ok(ExitCode::SUCCESS)
}
