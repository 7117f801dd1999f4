//! What the application is told when this machine refuses something.

use std::io;

use nix::errno::Errno;

use super::udp::OpenError;
use crate::wire::icmp;

/// The error that says the same on a wire; `None` when a router would be silent too, such as one whose queue is full.
pub(super) fn told(error: &io::Error) -> Option<icmp::Error> {
    Some(match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::EPERM | Errno::EACCES => icmp::Error::AdminProhibited,
        Errno::ENETUNREACH
        | Errno::ENETDOWN
        | Errno::ENODEV
        | Errno::ENXIO
        | Errno::EADDRNOTAVAIL
        // Of a datagram: the address that the socket is bound to has gone.
        | Errno::EINVAL => icmp::Error::NetUnreachable,
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => icmp::Error::HostUnreachable,
        Errno::ENOPROTOOPT | Errno::EPROTO => icmp::Error::ProtocolUnreachable,
        _ => return None,
    })
}

impl OpenError {
    /// What the application is to be told. What is short on this machine, a descriptor or a port, is "prohibited", as
    /// RFC 5508 REQ-8 has it for a translator whose resources are spent.
    #[must_use]
    pub fn told(&self) -> icmp::Error {
        match self {
            Self::NoUplink => icmp::Error::NetUnreachable,
            Self::Bind(error) => told(&error.source).unwrap_or(icmp::Error::AdminProhibited),
        }
    }
}
