//! The state of everything but the data path, and a snapshot of the whole for the status.
//!
//! The packet loop only copies its state. The second thread writes the status.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::control::{
    ConnectionStatus, FailoverStatus, MappingStatus, MediaStatus, SchedulingStatus, StateReason,
    Status, TrafficStatus, UplinkStatus, VpnStatus,
};
use crate::engine::{ConnectionReport, Engine, EngineSnapshot, MappingReport, PAGE};
use crate::net::{Egress, Family, PerFamily, RulePriority};
use crate::policy::Policy;
use crate::route::vpn::Vpn;

use super::call_events::EndedCall;
use super::events::EventLog;
use super::kernel_errors::KernelErrors;
use super::limit_warnings;
use super::realtime::SchedulingClass;
use super::tun_drops;

/// The result of the last reconciliation.
#[derive(Clone, Debug)]
pub(super) struct ServiceState {
    pub(super) tun: String,
    /// The path of each family that the policy has, unless the uplink has failed.
    pub(super) media: PerFamily<Option<MediaStatus>>,
    pub(super) uplink: Option<UplinkStatus>,
    /// The uplink of IPv6, if it differs.
    pub(super) uplink_v6: Option<UplinkStatus>,
    pub(super) vpns: Vec<Vpn>,
    pub(super) paused_until: Option<Timestamp>,
    pub(super) rule_priority: Option<RulePriority>,
    /// The clients of a gateway whose media leaves through the uplink, by family and interface.
    pub(super) clients: BTreeSet<(Family, String)>,
    pub(super) warnings: Vec<String>,
}

/// The state of the packet loop at one moment.
#[derive(Debug)]
pub(super) struct DriverSnapshot {
    pub(super) service_state: ServiceState,
    pub(super) engine: EngineSnapshot,
    pub(super) kernel_errors: KernelErrors,
    pub(super) policy: Arc<Policy>,
    /// The latest first.
    pub(super) ended_calls: Vec<EndedCall>,
    /// Datagrams dropped because the queue of their socket was full.
    pub(super) overflowed: u64,
    /// The scheduling class, how often the budget was exhausted, and how often no fallback thread could be started.
    pub(super) scheduling: (SchedulingClass, [u64; 2]),
    pub(super) now: Instant,
    /// Time since the start of the service.
    pub(super) uptime: Duration,
}

/// A page of mappings and connections, copied by the packet loop at once.
#[derive(Debug)]
pub(super) struct MappingPage {
    /// The first slot.
    pub(super) start: usize,
    mappings: Vec<MappingReport>,
    connections: Vec<ConnectionReport>,
}

impl MappingPage {
    /// Returns an empty page. Filling it allocates nothing.
    pub(super) fn new() -> Self {
        Self {
            start: 0,
            mappings: Vec::with_capacity(PAGE),
            connections: Vec::with_capacity(PAGE),
        }
    }

    /// Copies the mappings and connections in the slots.
    pub(super) fn fill(&mut self, engine: &Engine, now: Instant) {
        let slots = self.start..self.start + PAGE;
        self.mappings
            .extend(engine.mapping_reports(slots.clone(), now));
        self.connections
            .extend(engine.connection_reports(slots, now));
    }

    /// Removes the mappings.
    pub(super) fn take_mappings(&mut self) -> impl Iterator<Item = MappingReport> {
        self.mappings.drain(..)
    }

    /// Moves them into a status. `policy` has the names of their services.
    pub(super) fn move_into(&mut self, status: &mut Status, policy: &Policy) {
        let mappings = self.mappings.drain(..);
        status
            .mappings
            .extend(mappings.map(|mapping| mapping_status(&mapping, policy)));
        status
            .connections
            .extend(self.connections.drain(..).map(connection_status));
    }
}

impl DriverSnapshot {
    /// Returns a status without mappings and connections.
    pub(super) fn status(&self, events: &EventLog) -> Status {
        let mut status = self
            .service_state
            .status(&self.engine, &self.kernel_errors, self.uptime);
        let count = |drops: &mut BTreeMap<String, u64>, label: &str, times: u64| {
            if times > 0 {
                drops.insert(label.to_owned(), times);
            }
        };
        let full = tun_drops::dropped(&self.service_state.tun);
        count(&mut status.outbound.drops, "tun_queue_full", full);
        let full = self.overflowed;
        count(&mut status.inbound.drops, "receive_queue_full", full);
        let (class, [budget_exhausted, fallback_thread_failed]) = self.scheduling;
        status.scheduling = SchedulingStatus {
            class: class.label().to_owned(),
            budget_exhausted,
            fallback_thread_failed,
        };
        status.ended_calls = self
            .ended_calls
            .iter()
            .map(|call| call.status(self.now))
            .collect();
        status.warnings.extend(events.warning());
        status.with_state()
    }
}

impl ServiceState {
    /// The state before the first reconciliation.
    pub(super) fn of_tun(tun: &str) -> Self {
        let starting = StateReason {
            code: "starting".into(),
            text: "The service is starting.".to_owned(),
            remedy: String::new(),
        };
        Self {
            tun: tun.to_owned(),
            media: PerFamily::new(|_| Some(in_vpn(starting.clone()))),
            uplink: None,
            uplink_v6: None,
            vpns: Vec::new(),
            paused_until: None,
            rule_priority: None,
            clients: BTreeSet::new(),
            warnings: Vec::new(),
        }
    }

    /// The path of each family's media, by its name in the status.
    fn media(&self, snapshot: &EngineSnapshot) -> BTreeMap<String, MediaStatus> {
        let media = self.media.present().map(|(family, media)| {
            let has_failed = snapshot.failed_uplinks.contains(&family);
            let media = if has_failed && media.egress == Egress::Direct.name() {
                in_vpn(StateReason {
                    code: "uplink_failed".into(),
                    text: failed_uplink(family),
                    remedy: String::new(),
                })
            } else {
                media.clone()
            };
            (family.to_string().to_lowercase(), media)
        });
        media.collect()
    }

    /// The interfaces whose clients' media leaves through the uplink, and the families.
    fn captured_clients(&self, snapshot: &EngineSnapshot) -> BTreeMap<String, BTreeSet<String>> {
        let mut captured = BTreeMap::<_, BTreeSet<_>>::new();
        let clients = self.clients.iter();
        for (family, interface) in clients.filter(|it| !snapshot.failed_uplinks.contains(&it.0)) {
            let families = captured.entry(interface.clone()).or_default();
            families.insert(family.to_string().to_lowercase());
        }
        captured
    }

    /// Joins the states of reconciler, engine and relay.
    fn status(
        &self,
        snapshot: &EngineSnapshot,
        kernel_errors: &KernelErrors,
        uptime: Duration,
    ) -> Status {
        let counters = &snapshot.counters;
        let media = self.media(snapshot);
        let direct = media
            .iter()
            .filter(|it| it.1.egress == Egress::Direct.name());
        Status {
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            captured: direct.map(|(family, _)| family.clone()).collect(),
            media,
            calls_in_vpn: snapshot.failed_over,
            uptime_seconds: uptime.as_secs(),
            tun: self.tun.clone(),
            uplink: self.uplink.clone(),
            uplink_v6: self.uplink_v6.clone(),
            vpns: self.vpns.iter().map(vpn_status).collect(),
            paused_until: self.paused_until,
            rule_priority: self.rule_priority.map(|priority| priority.0),
            clients: self.captured_clients(snapshot),
            warnings: self
                .warnings
                .iter()
                .cloned()
                .chain(kernel_errors.warnings())
                .chain(limit_warnings::warnings(&snapshot.limits_reached))
                .chain(snapshot.failed_uplinks.iter().copied().map(failed_uplink))
                .collect(),
            mappings: Vec::new(),
            ended_calls: Vec::new(),
            connections: Vec::new(),
            tcp: counters
                .tcp
                .named()
                .map(|(name, count)| (name.to_owned(), count))
                .into(),
            outbound: TrafficStatus {
                packets: counters.packets_out,
                bytes: counters.bytes_out,
                drops: to_owned_map(&counters.dropped_out),
            },
            inbound: TrafficStatus {
                packets: counters.packets_in,
                bytes: counters.bytes_in,
                drops: to_owned_map(&counters.dropped_in),
            },
            rejected: counters.rejected,
            errors_returned: counters.errors_returned,
            errors_suppressed: counters.errors_suppressed,
            reassembled: counters.reassembled,
            hairpinned: counters.hairpinned,
            evicted: counters.evicted,
            capture_mode: snapshot.capture.name().to_owned(),
            failover: FailoverStatus {
                failed_uplinks: snapshot
                    .failed_uplinks
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                failovers: to_owned_map(&counters.failovers),
                failbacks: to_owned_map(&counters.failbacks),
                packets: counters.packets_tunnelled,
                checks_repeated: counters.checks_repeated,
                probes: counters.probes,
            },
            kernel_errors: kernel_errors.by_label(),
            // The scheduling, and the state with its reason, follow.
            ..Status::default()
        }
    }
}

/// Media in the VPN.
pub(super) fn in_vpn(reason: StateReason) -> MediaStatus {
    MediaStatus {
        egress: Egress::Tunnel.name().into(),
        reason: Some(reason),
    }
}

fn mapping_status(mapping: &MappingReport, policy: &Policy) -> MappingStatus {
    let rule = mapping.service.and_then(|rule| policy.rule(rule));
    MappingStatus {
        id: mapping.id.to_string(),
        is_call: mapping.is_call,
        remote: mapping.remote.map(Into::into),
        service: rule.map(|rule| rule.service.name.clone()),
        last_answer_seconds: mapping.last_answer.map(|age| age.as_secs()),
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

fn failed_uplink(family: Family) -> String {
    format!(
        "{family} media is in the VPN: the direct path gets no responses. It fails back automatically. Check that the \
         network of the uplink allows outbound UDP."
    )
}

fn to_owned_map(drops: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    drops
        .iter()
        .map(|(label, count)| ((*label).to_owned(), *count))
        .collect()
}
