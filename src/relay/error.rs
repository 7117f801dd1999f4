//! What the application is told when this machine refuses something.

use std::io;

use nix::errno::Errno;

use super::udp::SocketOpenError;
use crate::wire::IcmpError;

/// The error that says the same on a wire; `None` when a router would be silent too, such as one whose queue is full.
pub(super) fn to_icmp_error(error: &io::Error) -> Option<IcmpError> {
    Some(match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::EPERM | Errno::EACCES => IcmpError::AdminProhibited,
        Errno::ENETUNREACH
        | Errno::ENETDOWN
        | Errno::ENODEV
        | Errno::ENXIO
        | Errno::EADDRNOTAVAIL
        // Of a datagram: the address that the socket is bound to has gone.
        | Errno::EINVAL => IcmpError::NetUnreachable,
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => IcmpError::HostUnreachable,
        Errno::ENOPROTOOPT | Errno::EPROTO => IcmpError::ProtocolUnreachable,
        _ => return None,
    })
}

impl SocketOpenError {
    /// What the application is to be told. What is short on this machine, a descriptor or a port, is "prohibited", as
    /// RFC 5508 REQ-8 has it for a translator whose resources are spent.
    #[must_use]
    pub fn to_icmp_error(&self) -> IcmpError {
        match self {
            Self::NoUplink => IcmpError::NetUnreachable,
            Self::Bind(error) => to_icmp_error(&error.source).unwrap_or(IcmpError::AdminProhibited),
        }
    }
}
