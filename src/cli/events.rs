//! `voicelane events`: shows the events and their causes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::control::{self, AskError, Body, Event, EventList, Request};
use crate::daemon;

use super::RuntimeDir;

/// The interval of requests with `--follow`.
const INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Keep printing new events until interrupted, across restarts of the service
    #[arg(long, short)]
    follow: bool,
    /// Print JSON (version 1), one event per line
    #[arg(long)]
    json: bool,
    /// Directory of the events of a stopped service; default: the runtime directory
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let mut last_printed = 0;
    let mut is_stopped_reported = false;
    loop {
        match request_events(args, last_printed) {
            Ok(EventList {
                last_sequence,
                events,
            }) => {
                for event in &events {
                    if !super::print_while_read(&line(event, args.json)?)? {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                last_printed = last_sequence;
            }
            // The last events of a service that has ended are in its store.
            Err(AskError::NotRunning(_)) if last_printed > 0 => {
                if let Ok(last) = print_stored(args, last_printed) {
                    last_printed = last;
                }
            }
            Err(error @ AskError::NotRunning(_)) => {
                last_printed = print_stored(args, 0).with_context(|| error.to_string())?;
                if !is_stopped_reported {
                    complain!("{}", stopped(last_printed > 0));
                    is_stopped_reported = true;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(INTERVAL);
    }
}

fn request_events(args: &EventsArgs, after: u64) -> Result<EventList, AskError> {
    let reply = control::ask(&args.runtime.runtime_dir, Request::Events { after })?;
    match reply.body {
        Body::Events(events) if events.last_sequence < after => request_events(args, 0),
        Body::Events(events) => Ok(events),
        _ => Err(AskError::Refused("unexpected reply".to_owned())),
    }
}

/// Prints the stored events after a number, and returns the last number.
fn print_stored(args: &EventsArgs, after: u64) -> anyhow::Result<u64> {
    let dir = args.state_dir.as_ref().unwrap_or(&args.runtime.runtime_dir);
    let events = daemon::read_events(dir)
        .with_context(|| format!("could not read the events in {}", dir.display()))?;
    for event in events.iter().filter(|event| event.sequence > after) {
        super::print(&line(event, args.json)?)?;
    }
    Ok(events.last().map_or(after, |event| event.sequence))
}

/// Returns the note for a service that does not run.
fn stopped(has_events: bool) -> &'static str {
    if has_events {
        "voicelane is not running. The events above are from its last run."
    } else {
        "voicelane is not running. No events of an earlier run are stored."
    }
}

fn line(event: &Event, json: bool) -> anyhow::Result<String> {
    Ok(if json {
        format!("{}\n", serde_json::to_string(event)?)
    } else {
        format!("{event}\n")
    })
}
