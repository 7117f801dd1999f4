//! Connection errors from the driver, and reports for it.

use std::time::Duration;

use super::session::Stage;
use crate::net::{ConnectionId, Endpoint, Inside};
use crate::wire::IcmpError;

/// Why an attempt to connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The remote refused.
    Refused,
    /// The path or this machine reported the remote unreachable.
    Unreachable(IcmpError),
    /// This machine has no descriptor or port left.
    Exhausted,
    /// The remote did not answer.
    TimedOut,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionState {
    /// The remote has not accepted yet.
    Connecting,
    /// The remote has accepted; the application has not acknowledged yet.
    Opening,
    /// Both directions are open.
    Established,
    /// One side has no more to send.
    HalfClosed,
    /// Neither side has more to send.
    Closing,
}

impl ConnectionState {
    /// Returns the stable label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Opening => "opening",
            Self::Established => "established",
            Self::HalfClosed => "half_closed",
            Self::Closing => "closing",
        }
    }
}

/// One connection, as status shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionReport {
    /// The connection.
    pub id: ConnectionId,
    /// The application's endpoint.
    pub inside: Inside<Endpoint>,
    /// The remote endpoint.
    pub remote: Endpoint,
    /// The state.
    pub state: ConnectionState,
    /// Bytes sent to the remote.
    pub bytes_out: u64,
    /// Bytes received from the remote.
    pub bytes_in: u64,
    /// Time since the first SYN.
    pub age: Duration,
    /// Time since bytes or segments were last transferred.
    pub idle: Duration,
}

/// Counters of TCP connections since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// Connections that the remote accepted.
    pub accepted: u64,
    /// Connections that the remote refused.
    pub refused: u64,
    /// Connections whose remote was unreachable.
    pub unreachable: u64,
    /// Connections whose remote did not answer.
    pub timed_out: u64,
    /// Connections that ended in order.
    pub finished: u64,
    /// Connections that the application reset.
    pub reset_by_application: u64,
    /// Connections that the remote reset or that broke.
    pub reset_by_remote: u64,
    /// Connections that reached their idle timeout.
    pub expired: u64,
    /// Connections made through the VPN because the direct path failed.
    pub tunnelled: u64,
    /// Connections that a new policy or another uplink ended.
    pub revoked: u64,
    /// Bytes sent to the remote.
    pub bytes_out: u64,
    /// Bytes received from the remote.
    pub bytes_in: u64,
}

impl TcpCounters {
    /// Returns every counter with its stable name.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 12] {
        [
            ("accepted", self.accepted),
            ("refused", self.refused),
            ("unreachable", self.unreachable),
            ("timed_out", self.timed_out),
            ("finished", self.finished),
            ("reset_by_application", self.reset_by_application),
            ("reset_by_remote", self.reset_by_remote),
            ("expired", self.expired),
            ("tunnelled", self.tunnelled),
            ("revoked", self.revoked),
            ("bytes_out", self.bytes_out),
            ("bytes_in", self.bytes_in),
        ]
    }
}

impl From<Stage> for ConnectionState {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Opening => Self::Opening,
            Stage::Established => Self::Established,
            Stage::HalfClosed => Self::HalfClosed,
            Stage::Closing => Self::Closing,
        }
    }
}
