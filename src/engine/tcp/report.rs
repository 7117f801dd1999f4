//! What the shell says of a connection, and what it is told.

use std::time::Duration;

use super::session::Stage;
use crate::net::{ConnectionId, Endpoint, Inside};
use crate::wire::IcmpError;

/// Why the far side was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// It refused.
    Refused,
    /// The path, or this machine, says that it cannot be reached.
    Unreachable(IcmpError),
    /// This machine has no socket or no port left.
    Exhausted,
    /// Nobody answered.
    TimedOut,
}

/// How far along a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionState {
    /// The far side has not accepted yet.
    Connecting,
    /// The far side has accepted, the application has not confirmed yet.
    Opening,
    /// Bytes may go both ways.
    Established,
    /// One side has no more to send.
    HalfClosed,
    /// Neither side has more to send.
    Closing,
}

impl ConnectionState {
    /// The stable name.
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
    /// The far endpoint.
    pub remote: Endpoint,
    /// How far along it is.
    pub state: ConnectionState,
    /// Bytes handed to the far side.
    pub bytes_out: u64,
    /// Bytes that came from the far side.
    pub bytes_in: u64,
    /// Time since the first SYN.
    pub age: Duration,
    /// Time since something moved.
    pub idle: Duration,
}

/// What went through connections since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// Connections that the far side accepted.
    pub accepted: u64,
    /// Those that it refused.
    pub refused: u64,
    /// Those that could not reach it.
    pub unreachable: u64,
    /// Those that nobody answered.
    pub timed_out: u64,
    /// Those that ended in order.
    pub finished: u64,
    /// Those that the application reset.
    pub reset_by_application: u64,
    /// Those whose far side reset or broke.
    pub reset_by_remote: u64,
    /// Those that were idle for too long.
    pub expired: u64,
    /// Those whose direct way failed, and that were made through the VPN instead.
    pub tunnelled: u64,
    /// Those that a new policy or another uplink ended.
    pub revoked: u64,
    /// Bytes handed to the far side.
    pub bytes_out: u64,
    /// Bytes that came from the far side.
    pub bytes_in: u64,
}

impl TcpCounters {
    /// Every counter with its stable name.
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
