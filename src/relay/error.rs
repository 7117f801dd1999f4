//! Errors of sockets, and their equivalents for the application.

use std::io;

use nix::errno::Errno;

use super::socket_factory::SocketSetupError;
use crate::engine::ConnectError;
use crate::wire::IcmpError;

/// A mapping's or connection's socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketOpenError {
    /// There is no uplink for the address family.
    #[error("there is no uplink")]
    NoUplink,
    /// The kernel refused.
    #[error(transparent)]
    Setup(#[from] SocketSetupError),
}

impl SocketOpenError {
    /// Returns the ICMP error for the application. A shortage of descriptors or ports is "prohibited" (RFC 5508 REQ-8).
    #[must_use]
    pub fn to_icmp_error(&self) -> IcmpError {
        match self {
            Self::NoUplink => IcmpError::NetUnreachable,
            Self::Setup(error) => {
                to_icmp_error(&error.source).unwrap_or(IcmpError::AdminProhibited)
            }
        }
    }

    /// Returns the result of the attempt to connect that needed the socket.
    #[must_use]
    pub fn to_connect_error(&self) -> ConnectError {
        match self {
            Self::NoUplink => ConnectError::Unreachable(self.to_icmp_error()),
            Self::Setup(error) => to_connect_error(&error.source),
        }
    }
}

/// The mapping has no socket, or only one of a former uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mapping has no socket")]
pub struct NoSocket;

/// A datagram could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The mapping has no socket on this uplink.
    #[error(transparent)]
    NoSocket(#[from] NoSocket),
    /// The kernel refused.
    #[error("the kernel refused to send")]
    Refused(#[from] io::Error),
}

impl SendError {
    /// Returns the equivalent ICMP error; `None` if a router would drop the datagram without one.
    #[must_use]
    pub fn to_icmp_error(&self) -> Option<IcmpError> {
        match self {
            Self::NoSocket(_) => None,
            Self::Refused(error) => to_icmp_error(error),
        }
    }
}

/// Returns the equivalent ICMP error; `None` if a router would be silent too, for example because its queue is full.
fn to_icmp_error(error: &io::Error) -> Option<IcmpError> {
    Some(match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::EPERM | Errno::EACCES => IcmpError::AdminProhibited,
        Errno::ENETUNREACH
        | Errno::ENETDOWN
        | Errno::ENODEV
        | Errno::ENXIO
        | Errno::EADDRNOTAVAIL
        // From sendto(2): the socket's bound address is gone.
        | Errno::EINVAL => IcmpError::NetUnreachable,
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => IcmpError::HostUnreachable,
        Errno::ENOPROTOOPT | Errno::EPROTO => IcmpError::ProtocolUnreachable,
        _ => return None,
    })
}

/// Returns the result of an attempt to connect that failed with `error`.
pub(super) fn to_connect_error(error: &io::Error) -> ConnectError {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::ECONNREFUSED | Errno::ECONNRESET => ConnectError::Refused,
        Errno::ETIMEDOUT => ConnectError::TimedOut,
        _ => to_icmp_error(error).map_or(ConnectError::Exhausted, ConnectError::Unreachable),
    }
}
