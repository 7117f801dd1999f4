//! What the engine counts, and why it drops.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::net::{CaptureMode, Egress, Endpoint, Family, Inside, MappingId, Outside};
use crate::wire::{ParseError, WriteError};

use super::reassembly::FragmentError;
use super::{FailoverCause, TcpCounters};

/// Why a packet went no further. Its label names it in status and metrics and never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The packet from the TUN is no packet that we can judge.
    Malformed(ParseError),
    /// A fragment that cannot become a part of a datagram.
    Fragment(FragmentError),
    /// A datagram of which fragments did not come in time.
    FragmentsMissing,
    /// It came into the TUN and the policy does not relay it.
    NotInPolicy,
    /// Its hop limit ended here.
    HopLimitExceeded,
    /// The table of mappings is full.
    TooManyMappings,
    /// Its inside address has as many mappings as it may.
    TooManyMappingsOfAddress,
    /// Its mapping has sent to as many remotes as it may.
    TooManyContacts,
    /// It is for another inside endpoint, and nobody can say yet from which outside endpoint it comes.
    NoOutsideEndpoint,
    /// Its mapping's socket could not be opened.
    OpenFailed,
    /// The kernel refused to send it.
    SendFailed,
    /// It came for a mapping that has ended.
    NoMapping,
    /// It came from a remote that the inside endpoint has not sent to.
    Unsolicited,
    /// It is media, and lay in its socket's queue for so long that nobody can use it.
    Stale,
    /// A TCP segment of no connection.
    NoConnection,
    /// The table of TCP connections is full.
    TooManyConnections,
    /// Its inside address has as many TCP connections as it may.
    TooManyConnectionsOfAddress,
    /// Its source is no single host's address.
    Martian,
    /// The TUN's queue is full.
    TunFull,
    /// No packet can be made of it.
    Unwritable(WriteError),
}

impl DropReason {
    /// The stable name.
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
            Self::TooManyContacts => "too_many_contacts",
            Self::NoOutsideEndpoint => "no_outside_endpoint",
            Self::OpenFailed => "open_failed",
            Self::SendFailed => "send_failed",
            Self::NoMapping => "no_mapping",
            Self::Unsolicited => "unsolicited",
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

    /// Whether something has as many of something as it may: who is refused then did nothing wrong.
    pub(super) fn is_limit(self) -> bool {
        matches!(
            self,
            Self::Fragment(FragmentError::NoRoom)
                | Self::TooManyMappings
                | Self::TooManyMappingsOfAddress
                | Self::TooManyContacts
                | Self::TooManyConnections
                | Self::TooManyConnectionsOfAddress
        )
    }
}

/// What went through since the start.
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
    /// Packets answered with an ICMP error of our own.
    pub rejected: u64,
    /// What TCP connections carried, and what became of them.
    pub tcp: TcpCounters,
    /// Errors of the direct path, or of this machine's sockets, that were passed on to the application.
    pub errors_returned: u64,
    /// Errors of either kind that were left out because there were too many.
    pub errors_suppressed: u64,
    /// Datagrams that were put together from fragments.
    pub reassembled: u64,
    /// Datagrams that went from one inside endpoint to another by its outside endpoint.
    pub hairpinned: u64,
    /// Datagrams handed to sockets that lead into the VPN: a part of `packets_out`.
    pub packets_tunnelled: u64,
    /// Mappings that left the direct way, by cause.
    pub falls: BTreeMap<&'static str, u64>,
    /// Mappings that came back to it, by cause.
    pub returns: BTreeMap<&'static str, u64>,
    /// Checks of applications that were repeated, to test a way or to introduce another.
    pub checks_repeated: u64,
    /// Checks of mappings in the VPN that were also sent the direct way.
    pub trials: u64,
    /// Packets from the TUN that went no further, by label.
    pub dropped_out: BTreeMap<&'static str, u64>,
    /// Datagrams from the uplink that went no further, by label.
    pub dropped_in: BTreeMap<&'static str, u64>,
}

impl Counters {
    pub(super) fn count_out(&mut self, way: Egress, payload: usize) {
        self.packets_out += 1;
        self.packets_tunnelled += u64::from(way == Egress::Tunnel);
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
    /// The way of what the policy relays.
    pub way: Egress,
    /// Why it is in the VPN, if it is.
    pub fallen: Option<FailoverCause>,
    /// How many remotes it has sent to.
    pub contacts: usize,
    /// Time since its first packet.
    pub age: Duration,
    /// Time since its last outbound packet.
    pub idle: Duration,
}

/// The engine at one moment, but for what stands in its slots: see
/// [`Engine::mapping_reports`](super::Engine::mapping_reports).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSnapshot {
    /// How many mappings stand.
    pub mappings: usize,
    /// How many TCP connections stand.
    pub connections: usize,
    /// How many slots there are for either.
    pub slots: usize,
    /// How long ago each limit refused something for the last time, by the label of the [`DropReason`].
    pub limits_reached: BTreeMap<&'static str, Duration>,
    /// The families whose uplink is given up.
    pub fallen_uplinks: Vec<Family>,
    /// How much is captured.
    pub capture: CaptureMode,
    /// What was counted.
    pub counters: Counters,
}
