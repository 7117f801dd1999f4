//! `voicelane pause` and `voicelane resume`: keep all media in the VPN for a time.

use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;
use jiff::SignedDuration;

use crate::control::{self, Body, LONGEST_PAUSE, Request};

use super::{RuntimeDir, exit};

/// The length of a pause in seconds, if none is given.
const DEFAULT_PAUSE: u64 = 3_600;

#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    /// Length of the pause, at most 24 h, for example 90s, 15m or 2h; default: 1h
    #[arg(value_name = "DURATION", value_parser = seconds)]
    duration: Option<u64>,
    #[command(flatten)]
    runtime: RuntimeDir,
}

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    runtime: RuntimeDir,
}

/// Parses a duration of at least one second.
fn seconds(text: &str) -> anyhow::Result<u64> {
    let duration: SignedDuration = text
        .parse()
        .context("expected a duration with units, for example 90s, 15m or 1h")?;
    let seconds = u64::try_from(duration.as_secs()).unwrap_or(0);
    ensure!(
        (1..=LONGEST_PAUSE).contains(&seconds),
        "expected a duration from 1s to 24h"
    );
    Ok(seconds)
}

pub(super) fn pause(args: &PauseArgs) -> anyhow::Result<ExitCode> {
    let seconds = args.duration.unwrap_or(DEFAULT_PAUSE);
    ask(&args.runtime, Request::Pause { seconds })
}

pub(super) fn resume(args: &ResumeArgs) -> anyhow::Result<ExitCode> {
    ask(&args.runtime, Request::Resume)
}

fn ask(runtime: &RuntimeDir, request: Request) -> anyhow::Result<ExitCode> {
    let reply = match control::ask(&runtime.runtime_dir, request) {
        Ok(reply) => reply,
        Err(error) => return Ok(exit::report(&error, false)),
    };
    super::print(&match reply.body {
        Body::Paused { until } => format!(
            "Paused until {until:.0}: all media stays in the VPN. To end the pause: voicelane resume\n"
        ),
        Body::Resumed {} => {
            "There is no pause. `voicelane status` shows the path of media.\n".to_owned()
        }
        _ => bail!("the service sent an unexpected reply"),
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn durations_have_units_and_bounds() {
        for (text, expected) in [
            ("90s", 90),
            ("15m", 900),
            ("1h", 3_600),
            ("1h30m", 5_400),
            ("24h", 86_400),
        ] {
            assert_eq!(seconds(text).ok(), Some(expected), "{text}");
        }
        for text in ["", "15", "0s", "-1m", "25h", "soon", "9999999999999h"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
