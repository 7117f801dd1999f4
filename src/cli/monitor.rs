//! `voicelane monitor`: what changes while one looks: mappings, the uplink, health, and what the service notes of it.
//!
//! It asks twice in a second for the events since, and for the status, and tells the differences. No mapping is missed:
//! each lives for two minutes at least. What happened while nobody looked is not told; `voicelane events` has it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use crate::control::{
    self, AskError, Body, Event, MappingStatus, Request, State, Status, UplinkStatus,
};

use super::RuntimeDir;
use super::mappings::outside;
use super::status::not_told;

/// Time between two looks.
const PACE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct MonitorArgs {
    /// Print JSON (version 1), one object a line, instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtime: RuntimeDir,
}

/// A difference between two looks.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
enum Change {
    /// The service answers, for the first time or again.
    Started {
        state: State,
        tun: String,
    },
    /// The service has ended.
    Stopped,
    /// The service has noted something.
    Event {
        event: Event,
    },
    State {
        from: State,
        to: State,
    },
    Uplink {
        uplink: Option<UplinkStatus>,
        /// IPv6's, where it is another one.
        #[serde(skip_serializing_if = "Option::is_none")]
        uplink_v6: Option<UplinkStatus>,
    },
    WarningBegan {
        warning: String,
    },
    WarningEnded {
        warning: String,
    },
    MappingBegan {
        mapping: MappingStatus,
    },
    MappingMoved {
        mapping: MappingStatus,
    },
    MappingEnded {
        mapping: MappingStatus,
    },
}

/// A change as `--json` prints it.
#[derive(Serialize)]
struct Line<'a> {
    version: u32,
    time: Timestamp,
    #[serde(flatten)]
    change: &'a Change,
}

/// Prints changes until interrupted, or until nobody reads them.
pub(super) fn run(args: &MonitorArgs) -> anyhow::Result<ExitCode> {
    let mut before = None;
    let mut noted = None;
    loop {
        let news = match news(&args.runtime.runtime_dir, &mut noted) {
            Ok(news) => news.into_iter().map(|event| Change::Event { event }),
            Err(error) => return Ok(not_told(&error)),
        };
        let now = match look(&args.runtime.runtime_dir) {
            Ok(now) => now,
            Err(error) => return Ok(not_told(&error)),
        };
        let time = Timestamp::now();
        for change in news.chain(changes(before.as_ref(), now.as_ref())) {
            let (version, change) = (control::VERSION, &change);
            let line = if args.json {
                let line = Line {
                    version,
                    time,
                    change,
                };
                serde_json::to_string(&line)?
            } else {
                format!("{time:.3} {change}")
            };
            if !super::stream(&format!("{line}\n"))? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if before.is_none() && now.is_none() {
            return Ok(not_told(&AskError::NotRunning(
                args.runtime.runtime_dir.join(control::SOCKET),
            )));
        }
        before = now.or(Some(Status::default()));
        sleep(PACE);
    }
}

/// The events since the last look, none at the first; `noted` is the number of the newest.
fn news(runtime_dir: &Path, noted: &mut Option<u64>) -> Result<Vec<Event>, AskError> {
    let after = noted.unwrap_or(u64::MAX);
    let reply = match control::ask(runtime_dir, Request::Events { after }) {
        Err(AskError::NotRunning(_)) => return Ok(Vec::new()),
        reply => reply?,
    };
    let Body::Events(new) = reply.body else {
        return Err(AskError::Refused("something else than events".to_owned()));
    };
    // A smaller number than the one before belongs to a store that began anew.
    *noted = Some(new.last_sequence);
    Ok(new.events)
}

/// The status; none of a service that does not run.
fn look(runtime_dir: &Path) -> Result<Option<Status>, AskError> {
    match control::status(runtime_dir) {
        Err(AskError::NotRunning(_)) => Ok(None),
        status => status.map(Some),
    }
}

/// What lies between two looks, the service first, then its surroundings, then mappings.
fn changes(before: Option<&Status>, now: Option<&Status>) -> Vec<Change> {
    let nothing = Status::default();
    let was_there = before.is_some_and(|before| !before.program_version.is_empty());
    let Some(now) = now else {
        return was_there.then_some(Change::Stopped).into_iter().collect();
    };
    let before = before.unwrap_or(&nothing);
    let mut changes = Vec::new();
    if !was_there {
        changes.push(Change::Started {
            state: now.state,
            tun: now.tun.clone(),
        });
    } else if before.state != now.state {
        changes.push(Change::State {
            from: before.state,
            to: now.state,
        });
    }
    let ways = |status: &Status| (status.uplink.clone(), status.uplink_v6.clone());
    if ways(before) != ways(now) {
        let (uplink, uplink_v6) = ways(now);
        changes.push(Change::Uplink { uplink, uplink_v6 });
    }
    let (old, new) = (essences(before), essences(now));
    let only = |these: &BTreeMap<String, String>, others: &BTreeMap<String, String>| {
        let these = these.iter().filter(|(it, _)| !others.contains_key(*it));
        these
            .map(|(_, warning)| warning.clone())
            .collect::<Vec<_>>()
    };
    let began = only(&new, &old).into_iter();
    changes.extend(began.map(|warning| Change::WarningBegan { warning }));
    let ended = only(&old, &new).into_iter();
    changes.extend(ended.map(|warning| Change::WarningEnded { warning }));

    let (old, new) = (by_inside(before), by_inside(now));
    for (inside, mapping) in &new {
        let mapping = (*mapping).clone();
        match old.get(inside) {
            None => changes.push(Change::MappingBegan { mapping }),
            Some(it) if it.outside != mapping.outside => {
                changes.push(Change::MappingMoved { mapping });
            }
            Some(_) => {}
        }
    }
    let ended = old.iter().filter(|(inside, _)| !new.contains_key(*inside));
    changes.extend(ended.map(|(_, mapping)| Change::MappingEnded {
        mapping: (*mapping).clone(),
    }));
    changes
}

/// The warnings by what they say apart from figures: one that counts is no new one each time.
fn essences(status: &Status) -> BTreeMap<String, String> {
    let warnings = status.warnings.iter();
    warnings
        .map(|warning| {
            let words = warning.chars().filter(|c| !c.is_ascii_digit()).collect();
            (words, warning.clone())
        })
        .collect()
}

fn by_inside(status: &Status) -> BTreeMap<SocketAddr, &MappingStatus> {
    let mappings = status.mappings.iter();
    mappings.map(|mapping| (mapping.inside, mapping)).collect()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { state, tun } => write!(f, "running on {tun}: {}", state.words()),
            Self::Stopped => f.write_str("not running any more"),
            Self::Event { event } => {
                write!(f, "{}: {}: {}", event.kind, event.subject, event.reason)
            }
            Self::State { to, .. } => f.write_str(to.words()),
            Self::Uplink { uplink: None, .. } => f.write_str("no uplink: media stays in the VPN"),
            Self::Uplink {
                uplink: Some(uplink),
                uplink_v6,
            } => {
                write!(f, "uplink {} ({})", uplink.interface, uplink.reason)?;
                match uplink_v6 {
                    Some(v6) => write!(f, ", of IPv6 {} ({})", v6.interface, v6.reason),
                    None => Ok(()),
                }
            }
            Self::WarningBegan { warning } => write!(f, "warning: {warning}"),
            Self::WarningEnded { warning } => write!(f, "no more warning: {warning}"),
            Self::MappingBegan { mapping } => write!(f, "mapping began: {}", endpoints(mapping)),
            Self::MappingMoved { mapping } => write!(f, "mapping moved: {}", endpoints(mapping)),
            Self::MappingEnded { mapping } => write!(f, "mapping ended: {}", endpoints(mapping)),
        }
    }
}

fn endpoints(mapping: &MappingStatus) -> String {
    format!("{} -> {}", mapping.inside, outside(mapping))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: State, warnings: &[&str], mappings: &[(&str, &str)]) -> Status {
        let mapping = |(inside, outside): &(&str, &str)| MappingStatus {
            inside: inside.parse().expect("an endpoint"),
            outside: outside.parse().ok(),
            egress: "direct".into(),
            failover_cause: None,
            remotes: 1,
            age_seconds: 0,
            idle_seconds: 0,
        };
        Status {
            program_version: "0.1.0".to_owned(),
            tun: "voicelane0".to_owned(),
            state,
            warnings: warnings.iter().map(|it| (*it).to_owned()).collect(),
            mappings: mappings.iter().map(mapping).collect(),
            ..Status::default()
        }
    }

    fn told(before: Option<&Status>, now: Option<&Status>) -> Vec<String> {
        let changes = changes(before, now);
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_lies_between_two_looks_is_told_once() {
        let first = status(
            State::Working,
            &[],
            &[("10.0.0.1:1", "192.0.2.1:1"), ("10.0.0.2:1", "192.0.2.1:2")],
        );
        assert_eq!(
            told(None, Some(&first)),
            [
                "running on voicelane0: working",
                "mapping began: 10.0.0.1:1 -> 192.0.2.1:1",
                "mapping began: 10.0.0.2:1 -> 192.0.2.1:2",
            ]
        );
        assert_eq!(told(Some(&first), Some(&first)), [""; 0]);
        let second = status(
            State::Degraded,
            &["refused (2 times): do something"],
            &[("10.0.0.1:1", "192.0.2.2:1"), ("10.0.0.3:1", "192.0.2.1:3")],
        );
        assert_eq!(
            told(Some(&first), Some(&second)),
            [
                "degraded: see the warnings",
                "warning: refused (2 times): do something",
                "mapping moved: 10.0.0.1:1 -> 192.0.2.2:1",
                "mapping began: 10.0.0.3:1 -> 192.0.2.1:3",
                "mapping ended: 10.0.0.2:1 -> 192.0.2.1:2",
            ]
        );
        let mut third = second.clone();
        third.warnings = vec!["refused (31 times): do something".to_owned()];
        assert_eq!(told(Some(&second), Some(&third)), [""; 0]);
    }

    #[test]
    fn an_end_and_a_new_start_are_told() {
        let running = status(State::NotWorking, &[], &[]);
        assert_eq!(told(Some(&running), None), ["not running any more"]);
        let gone = Status::default();
        assert_eq!(told(Some(&gone), None), [""; 0]);
        assert_eq!(
            told(Some(&gone), Some(&running)),
            ["running on voicelane0: not working: media is in the VPN"]
        );
    }
}
