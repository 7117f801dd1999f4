//! What surrounds the data path, and a view of it all, as status tells it.
//!
//! The thread that carries packets only copies what it knows, the mappings and connections apart, by pages; words are made of it
//! elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::control::{
    ConnectionStatus, FallbackStatus, MappingStatus, SchedulingStatus, State, Status,
    TrafficStatus, UplinkStatus, VpnStatus,
};
use crate::engine::{ConnectionReport, Engine, EngineSnapshot, MappingReport, PAGE};
use crate::net::{Family, RulePriority};
use crate::route::vpn::Vpn;

use super::events::Events;
use super::kernel_errors::KernelErrors;
use super::limits;
use super::realtime::Class;
use super::tun_drops;

/// The world as the shell last saw it.
#[derive(Clone, Debug)]
pub(super) struct ServiceState {
    /// When media was steered to an uplink for the first time.
    pub(super) ready_since: Option<Instant>,
    pub(super) tun: String,
    pub(super) uplink: Option<UplinkStatus>,
    /// IPv6's, where it is another one.
    pub(super) uplink_v6: Option<UplinkStatus>,
    pub(super) vpns: Vec<Vpn>,
    /// The families of which media leaves by the uplink.
    pub(super) captured: Vec<Family>,
    pub(super) rule_priority: Option<RulePriority>,
    /// A gateway's clients of which media leaves by the uplink, by family and interface.
    pub(super) clients: BTreeSet<(Family, String)>,
    pub(super) warnings: Vec<String>,
}

/// What the thread that carries packets knows at one moment.
#[derive(Debug)]
pub(super) struct View {
    pub(super) situation: ServiceState,
    pub(super) snapshot: EngineSnapshot,
    pub(super) troubles: KernelErrors,
    /// Datagrams that found their socket's queue full.
    pub(super) overflowed: u64,
    /// How the thread is scheduled, how often it used up its budget, and how often nobody could relieve it then.
    pub(super) scheduling: (Class, [u64; 2]),
    pub(super) now: Instant,
}

/// Mappings and connections of which the thread that carries packets tells in one go, and the room that they need.
#[derive(Debug)]
pub(super) struct Page {
    /// The first slot.
    pub(super) start: usize,
    mappings: Vec<MappingReport>,
    connections: Vec<ConnectionReport>,
}

impl Page {
    /// An empty page. To fill it takes no more memory.
    pub(super) fn new() -> Self {
        Self {
            start: 0,
            mappings: Vec::with_capacity(PAGE),
            connections: Vec::with_capacity(PAGE),
        }
    }

    /// Copies what stands in the slots.
    pub(super) fn fill(&mut self, engine: &Engine, now: Instant) {
        let slots = self.start..self.start + PAGE;
        self.mappings
            .extend(engine.mapping_reports(slots.clone(), now));
        self.connections
            .extend(engine.connection_reports(slots, now));
    }

    /// Moves what stands in the slots into a status, in words.
    pub(super) fn empty_into(&mut self, status: &mut Status) {
        status
            .mappings
            .extend(self.mappings.drain(..).map(mapping_status));
        status
            .connections
            .extend(self.connections.drain(..).map(connection_status));
    }
}

impl View {
    /// Makes words of it: a status without mappings and connections.
    pub(super) fn status(&self, events: &Events) -> Status {
        let mut status = self
            .situation
            .status(&self.snapshot, &self.troubles, self.now);
        let count = |drops: &mut BTreeMap<String, u64>, label: &str, times: u64| {
            if times > 0 {
                drops.insert(label.to_owned(), times);
            }
        };
        let full = tun_drops::dropped(&self.situation.tun);
        count(&mut status.outbound.drops, "tun_queue_full", full);
        let full = self.overflowed;
        count(&mut status.inbound.drops, "receive_queue_full", full);
        let (class, [budget_exhausted, fallback_thread_failed]) = self.scheduling;
        status.scheduling = SchedulingStatus {
            class: class.label().to_owned(),
            budget_exhausted,
            fallback_thread_failed,
        };
        status.warnings.extend(events.trouble());
        status
    }
}

impl ServiceState {
    /// The situation before the shell has looked at anything.
    pub(super) fn of_tun(tun: &str) -> Self {
        let (ready_since, uplink, rule_priority) = (None, None, None);
        Self {
            ready_since,
            tun: tun.to_owned(),
            uplink,
            uplink_v6: None,
            vpns: Vec::new(),
            captured: Vec::new(),
            rule_priority,
            clients: BTreeSet::new(),
            warnings: Vec::new(),
        }
    }

    /// The interfaces whose clients' media leaves by the uplink, with the families of which it does.
    fn clients_served(&self, snapshot: &EngineSnapshot) -> BTreeMap<String, BTreeSet<String>> {
        let mut served = BTreeMap::<_, BTreeSet<_>>::new();
        let clients = self.clients.iter();
        for (family, interface) in clients.filter(|it| !snapshot.failed_uplinks.contains(&it.0)) {
            let families = served.entry(interface.clone()).or_default();
            families.insert(family.to_string().to_lowercase());
        }
        served
    }

    /// Joins what the shell, the engine and the relay know.
    fn status(&self, snapshot: &EngineSnapshot, troubles: &KernelErrors, now: Instant) -> Status {
        let counters = &snapshot.counters;
        let status = Status {
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            // Judged at the end, by all the rest.
            state: State::default(),
            uptime_seconds: self
                .ready_since
                .map_or(0, |since| now.saturating_duration_since(since).as_secs()),
            tun: self.tun.clone(),
            uplink: self.uplink.clone(),
            uplink_v6: self.uplink_v6.clone(),
            vpns: self.vpns.iter().map(vpn_status).collect(),
            captured: self
                .captured
                .iter()
                .filter(|family| !snapshot.failed_uplinks.contains(family))
                .map(|it| it.to_string().to_lowercase())
                .collect(),
            rule_priority: self.rule_priority.map(|priority| priority.0),
            clients: self.clients_served(snapshot),
            warnings: self
                .warnings
                .iter()
                .cloned()
                .chain(troubles.warnings())
                .chain(limits::warnings(&snapshot.limits_reached))
                .chain(snapshot.failed_uplinks.iter().copied().map(fallen))
                .collect(),
            mappings: Vec::new(),
            connections: Vec::new(),
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
            errors_suppressed: counters.errors_suppressed,
            reassembled: counters.reassembled,
            hairpinned: counters.hairpinned,
            capture_mode: snapshot.capture.name().to_owned(),
            fallback: FallbackStatus {
                failed_uplinks: snapshot
                    .failed_uplinks
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                failovers: owned(&counters.failovers),
                failbacks: owned(&counters.failbacks),
                packets: counters.packets_tunnelled,
                checks_repeated: counters.checks_repeated,
                probes: counters.probes,
            },
            kernel_errors: troubles.counts(),
            scheduling: SchedulingStatus::default(),
        };
        status.judged()
    }
}

fn mapping_status(mapping: MappingReport) -> MappingStatus {
    MappingStatus {
        inside: mapping.inside.0.into(),
        outside: mapping.outside.map(|outside| outside.0.into()),
        egress: mapping.egress.name().into(),
        failover_cause: mapping.failover_cause.map(|cause| cause.label().into()),
        remotes: mapping.permitted_remotes,
        age_seconds: mapping.age.as_secs(),
        idle_seconds: mapping.idle.as_secs(),
    }
}

fn connection_status(connection: ConnectionReport) -> ConnectionStatus {
    ConnectionStatus {
        inside: connection.inside.0.into(),
        remote: connection.remote.into(),
        state: connection.state.label().into(),
        bytes_out: connection.bytes_out,
        bytes_in: connection.bytes_in,
        age_seconds: connection.age.as_secs(),
        idle_seconds: connection.idle.as_secs(),
    }
}

fn vpn_status(vpn: &Vpn) -> VpnStatus {
    VpnStatus {
        interface: vpn.name.clone(),
        kind: vpn.kind.clone(),
        full_tunnel_v4: vpn.takes_v4,
        full_tunnel_v6: vpn.takes_v6,
    }
}

fn fallen(family: Family) -> String {
    format!(
        "{family} media is in the VPN: the direct path gets no responses. It fails back automatically. Check that the \
         network of the uplink allows outbound UDP."
    )
}

fn owned(drops: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    drops
        .iter()
        .map(|(label, count)| ((*label).to_owned(), *count))
        .collect()
}
