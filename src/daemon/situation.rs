//! What surrounds the data path, as status tells it.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;
use std::time::Instant;

use nix::errno::Errno;

use crate::control::{ConnectionStatus, MappingStatus, Status, TrafficStatus, UplinkStatus};
use crate::engine::Snapshot;
use crate::net::RulePriority;
use crate::relay::OpenError;

/// The world as the shell last saw it.
#[derive(Clone, Debug)]
pub(super) struct Situation {
    /// When media was steered to an uplink for the first time.
    pub(super) ready_since: Option<Instant>,
    pub(super) tun: String,
    pub(super) uplink: Option<UplinkStatus>,
    pub(super) rule_priority: Option<RulePriority>,
    pub(super) warnings: Vec<String>,
}

/// What the kernel refused last, of each kind.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    send: Option<Errno>,
    open: Option<OpenError>,
}

impl Troubles {
    pub(super) fn send_refused(&mut self, error: &io::Error) {
        self.send = error.raw_os_error().map(Errno::from_raw);
    }

    pub(super) fn open_failed(&mut self, error: OpenError) {
        self.open = Some(error);
    }

    fn warnings(&self) -> impl Iterator<Item = String> {
        let send = self.send.map(|errno| {
            format!(
                "the kernel refused to send ({}): {}",
                errno.desc(),
                advice_on_send(errno)
            )
        });
        let open = self.open.as_ref().map(|error| match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        });
        send.into_iter().chain(open)
    }
}

impl Situation {
    /// The situation before the shell has looked at anything.
    pub(super) fn of_tun(tun: &str) -> Self {
        let (ready_since, uplink, rule_priority) = (None, None, None);
        Self {
            ready_since,
            tun: tun.to_owned(),
            uplink,
            rule_priority,
            warnings: Vec::new(),
        }
    }

    /// Joins what the shell, the engine and the relay know.
    pub(super) fn status(&self, snapshot: &Snapshot, troubles: &Troubles, now: Instant) -> Status {
        let counters = &snapshot.counters;
        Status {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self
                .ready_since
                .map_or(0, |since| now.saturating_duration_since(since).as_secs()),
            tun: self.tun.clone(),
            uplink: self.uplink.clone(),
            rule_priority: self.rule_priority.map(|priority| priority.0),
            warnings: self
                .warnings
                .iter()
                .cloned()
                .chain(troubles.warnings())
                .collect(),
            mappings: snapshot
                .mappings
                .iter()
                .map(|mapping| MappingStatus {
                    inside: mapping.inside.to_string(),
                    outside: mapping.outside.map(|outside| outside.to_string()),
                    contacts: mapping.contacts,
                    age_seconds: mapping.age.as_secs(),
                    idle_seconds: mapping.idle.as_secs(),
                })
                .collect(),
            connections: snapshot
                .connections
                .iter()
                .map(|connection| ConnectionStatus {
                    inside: connection.inside.to_string(),
                    remote: connection.remote.to_string(),
                    state: connection.state.label().to_owned(),
                    bytes_out: connection.bytes_out,
                    bytes_in: connection.bytes_in,
                    age_seconds: connection.age.as_secs(),
                    idle_seconds: connection.idle.as_secs(),
                })
                .collect(),
            tcp: counters
                .tcp
                .named()
                .map(|(name, count)| (name.to_owned(), count))
                .into(),
            outbound: TrafficStatus {
                packets: counters.packets_out,
                bytes: counters.bytes_out,
                drops: owned(&counters.dropped_out),
            },
            inbound: TrafficStatus {
                packets: counters.packets_in,
                bytes: counters.bytes_in,
                drops: owned(&counters.dropped_in),
            },
            rejected: counters.rejected,
            errors_returned: counters.errors_returned,
        }
    }
}

fn owned(drops: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    drops
        .iter()
        .map(|(label, count)| ((*label).to_owned(), *count))
        .collect()
}

/// What a refused send most likely means, and what to do.
fn advice_on_send(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => {
            "a firewall on this machine (a VPN's kill switch, most likely) forbids it: ask IT to let the policy's ranges out"
        }
        Errno::ENETUNREACH | Errno::EHOSTUNREACH => "the uplink has no route: is its network down?",
        Errno::ENOBUFS => "the uplink's queue is full: the link is slower than what is sent",
        Errno::EADDRNOTAVAIL | Errno::EINVAL => "the uplink's address has gone: restart voicelane",
        Errno::ENODEV | Errno::ENXIO | Errno::ENETDOWN => "the uplink has gone: restart voicelane",
        _ => "see the kernel's word for it",
    }
}
