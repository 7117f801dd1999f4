//! `voicelane events`: what happened, and why.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::control::{self, AskError, Body, Event, Events, Request};
use crate::daemon;

use super::RuntimeDir;

/// How often a follower asks.
const PACE: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Go on printing what happens, also across a restart of the service, until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// Print JSON (version 1), one event a line, instead of text.
    #[arg(long)]
    json: bool,
    /// Where a service that does not run has left its events; its runtime directory if not given.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let mut printed = 0;
    loop {
        match ask(args, printed) {
            Ok(Events {
                last_sequence,
                events,
            }) => {
                for event in &events {
                    if !super::stream(&line(event, args.json)?)? {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                printed = last_sequence;
            }
            Err(AskError::NotRunning(_)) if args.follow && printed > 0 => {}
            Err(error @ AskError::NotRunning(_)) => {
                printed = left_behind(args).with_context(|| error.to_string())?;
            }
            Err(error) => return Err(error.into()),
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(PACE);
    }
}

fn ask(args: &EventsArgs, after: u64) -> Result<Events, AskError> {
    let reply = control::ask(&args.runtime.runtime_dir, Request::Events { after })?;
    match reply.body {
        Body::Events(events) if events.last_sequence < after => ask(args, 0),
        Body::Events(events) => Ok(events),
        _ => Err(AskError::Refused("something else".to_owned())),
    }
}

/// Prints what a service that does not run has left, and answers the last number.
fn left_behind(args: &EventsArgs) -> anyhow::Result<u64> {
    let dir = args.state_dir.as_ref().unwrap_or(&args.runtime.runtime_dir);
    let events = daemon::read_events(dir)
        .with_context(|| format!("could not read the events in {}", dir.display()))?;
    eprintln!("voicelane is not running; what it left:");
    for event in &events {
        super::print(&line(event, args.json)?)?;
    }
    Ok(events.last().map_or(0, |event| event.sequence))
}

fn line(event: &Event, json: bool) -> anyhow::Result<String> {
    Ok(if json {
        format!("{}\n", serde_json::to_string(event)?)
    } else {
        format!("{event}\n")
    })
}
