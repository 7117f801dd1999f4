//! Counters, drop reasons and reports of the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::net::{CaptureMode, Egress, Endpoint, Family, Inside, MappingId, Outside, RuleId};
use crate::wire::{ParseError, WriteError};

use super::TcpCounters;
use super::failover::FailoverCause;
use super::reassembly::FragmentError;

/// Why a packet was dropped. The label is stable: status and metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The packet from the TUN is malformed.
    Malformed(ParseError),
    /// A fragment was rejected by the reassembly.
    Fragment(FragmentError),
    /// A datagram's fragments did not all arrive in time.
    FragmentsMissing,
    /// The policy does not relay the packet.
    NotInPolicy,
    /// The hop limit was exceeded.
    HopLimitExceeded,
    /// The table of mappings is full.
    TooManyMappings,
    /// The inside address has as many mappings as it may.
    TooManyMappingsOfAddress,
    /// The mapping has as many permitted remotes as it may.
    TooManyRemotes,
    /// A hairpinned datagram whose sender has no outside endpoint yet.
    NoOutsideEndpoint,
    /// The mapping's socket could not be opened.
    OpenFailed,
    /// The kernel rejected the datagram.
    SendFailed,
    /// The mapping has ended.
    NoMapping,
    /// The mapping's filter does not permit the remote (RFC 4787 section 5).
    Unsolicited,
    /// A datagram of a tunnel arrived by another link than the tunnel: forged.
    WrongLink,
    /// Media waited in its socket's queue for too long.
    Stale,
    /// A TCP segment belongs to no connection.
    NoConnection,
    /// The table of TCP connections is full.
    TooManyConnections,
    /// The inside address has as many TCP connections as it may.
    TooManyConnectionsOfAddress,
    /// The source is not the address of a single host.
    Martian,
    /// The TUN's queue is full.
    TunFull,
    /// A packet could not be built.
    Unwritable(WriteError),
}

impl DropReason {
    /// Returns the stable label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed(fault) => fault.label(),
            Self::Fragment(FragmentError::Length) => "fragment_length",
            Self::Fragment(FragmentError::Overlap) => "fragment_overlap",
            Self::Fragment(FragmentError::NoRoom) => "too_many_fragments",
            Self::FragmentsMissing => "fragments_missing",
            Self::NotInPolicy => "not_in_policy",
            Self::HopLimitExceeded => "hop_limit_exceeded",
            Self::TooManyMappings => "too_many_mappings",
            Self::TooManyMappingsOfAddress => "too_many_mappings_of_address",
            Self::TooManyRemotes => "too_many_remotes",
            Self::NoOutsideEndpoint => "no_outside_endpoint",
            Self::OpenFailed => "open_failed",
            Self::SendFailed => "send_failed",
            Self::NoMapping => "no_mapping",
            Self::Unsolicited => "unsolicited",
            Self::WrongLink => "wrong_link",
            Self::Stale => "stale",
            Self::NoConnection => "no_connection",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyConnectionsOfAddress => "too_many_connections_of_address",
            Self::Martian => "martian",
            Self::TunFull => "tun_full",
            Self::Unwritable(WriteError::MixedFamilies) => "mixed_families",
            Self::Unwritable(WriteError::TooLong) => "too_long",
            Self::Unwritable(WriteError::NoHeadroom) => "no_headroom",
        }
    }

    /// Whether a limit of voicelane was the reason, not the packet.
    pub(super) fn is_limit(self) -> bool {
        matches!(
            self,
            Self::Fragment(FragmentError::NoRoom)
                | Self::TooManyMappings
                | Self::TooManyMappingsOfAddress
                | Self::TooManyRemotes
                | Self::TooManyConnections
                | Self::TooManyConnectionsOfAddress
        )
    }
}

/// Counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams handed to sockets.
    pub packets_out: u64,
    /// Their payload, in bytes.
    pub bytes_out: u64,
    /// Datagrams written into the TUN.
    pub packets_in: u64,
    /// Their payload, in bytes.
    pub bytes_in: u64,
    /// Packets answered with an ICMP error of the engine.
    pub rejected: u64,
    /// TCP connections.
    pub tcp: TcpCounters,
    /// Errors of the direct path or of this machine's sockets that were forwarded to applications.
    pub errors_returned: u64,
    /// Errors of either kind that the rate limit suppressed.
    pub errors_suppressed: u64,
    /// Datagrams reassembled from fragments.
    pub reassembled: u64,
    /// Datagrams hairpinned from one inside endpoint to another.
    pub hairpinned: u64,
    /// Datagrams handed to sockets that lead into the VPN; included in `packets_out`.
    pub packets_tunnelled: u64,
    /// Mappings that failed over into the VPN, by cause.
    pub failovers: BTreeMap<&'static str, u64>,
    /// Mappings that failed back to the direct path, by cause.
    pub failbacks: BTreeMap<&'static str, u64>,
    /// Mappings without an answer that ended because a limit was reached.
    pub evicted: u64,
    /// Checks of applications that were repeated, to test a path or to announce one.
    pub checks_repeated: u64,
    /// Checks of mappings in the VPN that were also sent on the direct path.
    pub probes: u64,
    /// Dropped packets from the TUN, by label.
    pub dropped_out: BTreeMap<&'static str, u64>,
    /// Dropped datagrams from the uplink, by label.
    pub dropped_in: BTreeMap<&'static str, u64>,
}

impl Counters {
    pub(super) fn count_out(&mut self, egress: Egress, payload: usize) {
        self.packets_out += 1;
        self.packets_tunnelled += u64::from(egress == Egress::Tunnel);
        self.bytes_out += payload as u64;
    }

    pub(super) fn count_in(&mut self, payload: usize) {
        self.packets_in += 1;
        self.bytes_in += payload as u64;
    }

    pub(super) fn drop_out(&mut self, reason: DropReason) {
        *self.dropped_out.entry(reason.label()).or_default() += 1;
    }

    pub(super) fn drop_in(&mut self, reason: DropReason) {
        *self.dropped_in.entry(reason.label()).or_default() += 1;
    }
}

/// One mapping, as status shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingReport {
    /// The mapping.
    pub id: MappingId,
    /// The application's endpoint.
    pub inside: Inside<Endpoint>,
    /// The socket's endpoint, once it is open.
    pub outside: Option<Outside<Endpoint>>,
    /// The egress of datagrams that the policy relays.
    pub egress: Egress,
    /// The remote of its media, otherwise the one that it sent to last.
    pub remote: Option<Endpoint>,
    /// Whether it carries media. Other mappings are candidates of a call, or no call at all.
    pub is_call: bool,
    /// The rule of the remote.
    pub service: Option<RuleId>,
    /// Time since something was last received.
    pub last_answer: Option<Duration>,
    /// Why the mapping is in the VPN, if it is.
    pub failover_cause: Option<FailoverCause>,
    /// The number of permitted remotes: those that the mapping has sent to.
    pub permitted_remotes: usize,
    /// Time since its first packet.
    pub age: Duration,
    /// Time since its last outbound packet.
    pub idle: Duration,
}

/// The state of the engine, apart from mappings (see [`Engine::mapping_reports`](super::Engine::mapping_reports)) and
/// connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSnapshot {
    /// The number of mappings.
    pub mappings: usize,
    /// The number of TCP connections.
    pub connections: usize,
    /// The number of slots for either.
    pub slots: usize,
    /// The time since each limit was last exceeded, by the label of the [`DropReason`].
    pub limits_reached: BTreeMap<&'static str, Duration>,
    /// Mappings that failed over to the VPN and still send.
    pub failed_over: usize,
    /// The families whose uplink has failed.
    pub failed_uplinks: Vec<Family>,
    /// Whether exact flows or whole prefixes are captured.
    pub capture: CaptureMode,
    /// Counters since the start.
    pub counters: Counters,
}
