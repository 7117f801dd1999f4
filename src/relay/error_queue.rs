//! The error queue of a socket (ip(7), `IP_RECVERR`): errors about datagrams that it sent.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, recvmsg,
};
use nix::sys::time::TimeSpec;
use socket2::Socket;

use crate::net::{Endpoint, Family};
use crate::wire::IcmpError;

/// One entry of the queue.
#[derive(Debug)]
pub(super) enum QueuedError {
    /// The path returned an ICMP error.
    Returned {
        /// The datagram's destination.
        to: Endpoint,
        /// The host that reported the error.
        reporter: Option<IpAddr>,
        /// The error.
        error: IcmpError,
        /// The number of payload bytes that were returned.
        length: usize,
    },
    /// The kernel rejected a datagram that is larger than `mtu`, headers included. The entry names neither the datagram nor,
    /// over IPv4, its port; the sender knows them (see `udp_socket`).
    TooBig {
        /// The path MTU in bytes.
        mtu: u32,
    },
}

/// Removes the oldest known entry; the returned payload is written to the start of `buffer`.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if the queue is empty.
pub(super) fn pop(socket: &Socket, family: Family, buffer: &mut [u8]) -> io::Result<QueuedError> {
    loop {
        let entry = match family {
            Family::V4 => pop_of::<SockaddrIn>(socket, family, buffer)?,
            Family::V6 => pop_of::<SockaddrIn6>(socket, family, buffer)?,
        };
        if let Some(entry) = entry {
            return Ok(entry);
        }
    }
}

fn pop_of<A>(socket: &Socket, family: Family, buffer: &mut [u8]) -> io::Result<Option<QueuedError>>
where
    A: SockaddrLike + Into<SocketAddr> + Copy,
{
    // The error, and the control messages of every datagram: TOS, arrival time, overflow count.
    let mut control = nix::cmsg_space!(
        libc::sock_extended_err,
        libc::sockaddr_in6,
        u32,
        TimeSpec,
        u32
    );
    let mut iov = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<A>(socket.as_raw_fd(), &mut iov, Some(&mut control), flags)?;
    let length = message.bytes;
    let Some(to) = message.address.map(|addr| Endpoint::from(addr.into())) else {
        return Ok(None);
    };
    for part in message.cmsgs()? {
        let (report, reporter) = match part {
            ControlMessageOwned::Ipv4RecvErr(report, reporter) => (
                report,
                reporter.map(|addr| SockaddrIn::from(addr).ip().into()),
            ),
            ControlMessageOwned::Ipv6RecvErr(report, reporter) => (
                report,
                reporter.map(|addr| SockaddrIn6::from(addr).ip().into()),
            ),
            _ => continue,
        };
        let reporter = reporter.filter(|addr: &IpAddr| !addr.is_unspecified());
        return Ok(match report.ee_origin {
            libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => {
                let (kind, code, info) = (report.ee_type, report.ee_code, report.ee_info);
                IcmpError::from_icmp(family, kind, code, info).map(|error| QueuedError::Returned {
                    to,
                    reporter,
                    error,
                    length,
                })
            }
            libc::SO_EE_ORIGIN_LOCAL if report.ee_errno == libc::EMSGSIZE.cast_unsigned() => {
                let mtu = report.ee_info;
                Some(QueuedError::TooBig { mtu })
            }
            _ => None,
        });
    }
    Ok(None)
}
