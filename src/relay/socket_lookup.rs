//! Lookup of local UDP sockets by `sock_diag` (sock_diag(7)): the socket of this machine that would receive a datagram.
//!
//! The kernel answers one question at a time, as for a received datagram. Wildcard, dual-stack and connected sockets are
//! thus found as the kernel finds them. Sockets that are bound to a device are not: voicelane's own are.

use std::cell::Cell;
use std::io::{self, Read};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::{Endpoint, Family};

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// The length of `nlmsghdr`, and of `inet_diag_req_v2` and `inet_diag_msg` (linux/inet_diag.h), in bytes.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const ANSWER: usize = 72;
/// The longest time for an answer, which the kernel writes during the request.
const PATIENCE: Duration = Duration::from_millis(200);

/// A connection to the kernel's socket diagnosis.
#[derive(Debug)]
pub struct SocketLookup {
    netlink: Socket,
    sequence: Cell<u32>,
}

impl SocketLookup {
    /// Connects to the kernel. Needs no privilege.
    ///
    /// # Errors
    /// If the kernel refuses the netlink socket.
    pub fn connect() -> io::Result<Self> {
        let protocol = Protocol::from(libc::NETLINK_SOCK_DIAG);
        let netlink = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW.cloexec(),
            Some(protocol),
        )?;
        netlink.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            netlink,
            sequence: Cell::new(0),
        })
    }

    /// Returns the inode of the UDP socket that receives datagrams from `remote` at `local`; `None` if there is none.
    ///
    /// # Errors
    /// If the kernel does not answer. A kernel without `udp_diag` answers that there is none: look up a known socket first.
    pub fn inode(&self, local: Endpoint, remote: Endpoint) -> io::Result<Option<u32>> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        self.netlink.send(&request(local, remote, sequence))?;
        let mut buffer = [0; 4_096];
        loop {
            let length = (&self.netlink).read(&mut buffer)?;
            // A late answer to an earlier question has another number.
            if let Some(answer) = answer(&buffer[..length], sequence) {
                return answer;
            }
        }
    }
}

fn request(local: Endpoint, remote: Endpoint, sequence: u32) -> Vec<u8> {
    let family = match Family::of(local.addr) {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let length = u32::try_from(HEADER + REQUEST).expect("72");
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    let flags = u16::try_from(libc::NLM_F_REQUEST).expect("1");
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    let [family, udp] = [family, libc::IPPROTO_UDP].map(|it| u8::try_from(it).expect("small"));
    bytes.extend([family, udp, 0, 0]);
    // Every state.
    bytes.extend(u32::MAX.to_ne_bytes());
    // For UDP, the kernel takes source and destination as those of a received datagram.
    bytes.extend(remote.port.to_be_bytes());
    bytes.extend(local.port.to_be_bytes());
    for endpoint in [remote, local] {
        let mut address = [0; 16];
        match endpoint.addr {
            std::net::IpAddr::V4(addr) => address[..4].copy_from_slice(&addr.octets()),
            std::net::IpAddr::V6(addr) => address = addr.octets(),
        }
        bytes.extend(address);
    }
    // No interface, no cookie.
    bytes.extend([0; 4]);
    bytes.extend([0xff; 8]);
    bytes
}

/// Returns the answer with this number; `None` if `bytes` is another message.
fn answer(bytes: &[u8], sequence: u32) -> Option<io::Result<Option<u32>>> {
    let (header, body) = bytes.split_at_checked(HEADER)?;
    let word = |from: &[u8], at: usize| {
        let word = from.get(at..at + 4)?;
        Some(u32::from_ne_bytes(word.try_into().ok()?))
    };
    if word(header, 8)? != sequence {
        return None;
    }
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    if kind == SOCK_DIAG_BY_FAMILY {
        return Some(Ok(word(body, ANSWER - 4)));
    }
    let error = word(body, 0)?.cast_signed();
    Some(match Errno::from_raw(error.wrapping_neg()) {
        Errno::ENOENT => Ok(None),
        error => Err(error.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::linux::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_socket_is_found_as_long_as_it_is_open() {
        let lookup = SocketLookup::connect().expect("any user may ask");
        let remote = |addr: &str| Endpoint::new(addr.parse().expect("an address"), 9);
        for (bound, asked, peer) in [
            ("127.0.0.1:0", "127.0.0.1", "192.0.2.1"),
            ("0.0.0.0:0", "127.0.0.1", "192.0.2.1"),
            ("[::1]:0", "::1", "2001:db8::1"),
            ("[::]:0", "127.0.0.1", "192.0.2.1"),
        ] {
            let socket = UdpSocket::bind(bound).expect("a free port");
            let port = socket.local_addr().expect("bound").port();
            let local = Endpoint::new(asked.parse().expect("an address"), port);
            let found = || lookup.inode(local, remote(peer)).expect("an answer");
            let file = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket));
            let inode = std::fs::metadata(file).expect("ours").st_ino();
            assert_eq!(found().map(u64::from), Some(inode), "{bound}");
            drop(socket);
            assert_eq!(found(), None, "{bound}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = answer(&bytes, 0);
            let _ = answer(&[&[0; HEADER][..], &bytes].concat(), 0);
        }
    }
}
