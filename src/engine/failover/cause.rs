//! Why a mapping fails over into the VPN, why it fails back, and why it ends. Labels are stable: status, events and metrics name them.

use std::fmt;

/// Why a mapping left the direct path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailoverCause {
    /// Nothing was received, and checks stayed unanswered.
    NoTraffic,
    /// A stream was received, but checks stayed unanswered.
    NoResponses,
    /// The kernel refused to send.
    Refused,
    /// A router reported the destination unreachable.
    Unreachable,
    /// No socket could be opened on the uplink.
    NoSocket,
    /// The whole uplink failed.
    UplinkFailed,
}

impl FailoverCause {
    /// Returns the stable label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoTraffic => "no_traffic",
            Self::NoResponses => "no_responses",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NoSocket => "no_socket",
            Self::UplinkFailed => "uplink_failed",
        }
    }
}

impl fmt::Display for FailoverCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoTraffic => "nothing is received on the direct path",
            Self::NoResponses => "packets sent on the direct path get no response",
            Self::Refused => "this machine refuses to send on the direct path",
            Self::Unreachable => "a router reports the direct path as unreachable",
            Self::NoSocket => "no socket can be opened on the uplink",
            Self::UplinkFailed => "the uplink failed for all calls",
        })
    }
}

/// Why a mapping is on the direct path again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailbackCause {
    /// Probes were answered.
    ProbesAnswered,
    /// There is no check to probe with: the call itself tests the path.
    Untested,
    /// There is another uplink.
    UplinkChanged,
    /// The uplink was gone and is restored.
    UplinkRestored,
    /// No socket could be opened into the VPN.
    TunnelUnavailable,
}

impl FailbackCause {
    /// Returns the stable label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ProbesAnswered => "probes_answered",
            Self::Untested => "untested",
            Self::UplinkChanged => "uplink_changed",
            Self::UplinkRestored => "uplink_restored",
            Self::TunnelUnavailable => "tunnel_unavailable",
        }
    }
}

impl fmt::Display for FailbackCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ProbesAnswered => "probes on the direct path are answered",
            Self::Untested => "trying the direct path again with the call itself",
            Self::UplinkChanged => "the uplink changed",
            Self::UplinkRestored => "the uplink is available again",
            Self::TunnelUnavailable => "no socket can be opened for the path through the VPN",
        })
    }
}

/// Why a mapping has ended. None of them is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndCause {
    /// The application's socket is closed.
    ApplicationClosed,
    /// The peer's port is closed, and the application has stopped to send.
    PeerClosed,
    /// Neither side has sent for 30 s after connectivity checks.
    Silent,
    /// The lifetime is over.
    Expired,
    /// A limit was reached, and the mapping gave way to a newer one.
    Evicted,
    /// No socket could be opened.
    NoSocket,
}

impl EndCause {
    /// Returns the stable label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ApplicationClosed => "application_closed",
            Self::PeerClosed => "peer_closed",
            Self::Silent => "silent",
            Self::Expired => "expired",
            Self::Evicted => "evicted",
            Self::NoSocket => "no_socket",
        }
    }
}
