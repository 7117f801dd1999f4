//! A packet socket (packet(7)) that receives the packets of a link in both directions, from the IP header on.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, SystemTime};

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, recvmsg, setsockopt, socket, sockopt,
};

/// A packet socket bound to a link.
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

/// A captured packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CapturedPacket {
    /// The number of bytes in the buffer.
    pub(crate) kept: usize,
    /// The length of the packet in bytes.
    pub(crate) length: usize,
    /// Whether this machine sent it. On a TUN: whether it comes from an application.
    pub(crate) is_outgoing: bool,
    /// The time of reception (`SO_TIMESTAMPNS`).
    pub(crate) received_at: SystemTime,
}

impl PacketSocket {
    /// Opens a socket on a link. Needs `CAP_NET_RAW`. Other sockets still receive every packet.
    ///
    /// # Errors
    /// If the link does not exist, or the capability is missing.
    pub(crate) fn open(link: &str) -> io::Result<Self> {
        let index = if_nametoindex(link)?;
        // Protocol 0: the socket receives nothing until it is bound to the link.
        let fd = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        // Buffers a burst while the disk is slow. The kernel caps the size.
        setsockopt(&fd, sockopt::RcvBuf, &(4 << 20))?;
        bind(&fd, index)?;
        Ok(Self { fd })
    }

    /// Waits for a packet and reads its beginning. Returns none after the time-out.
    ///
    /// # Errors
    /// If the link was removed, or a signal arrived ([`io::ErrorKind::Interrupted`]).
    pub(crate) fn next(
        &self,
        timeout: Duration,
        buffer: &mut [u8],
    ) -> io::Result<Option<CapturedPacket>> {
        let end = std::time::Instant::now() + timeout;
        loop {
            match self.receive(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received.map(Some),
            }
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], left)?;
        }
    }

    /// Reads a waiting packet.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<CapturedPacket> {
        let mut control = nix::cmsg_space!(libc::timespec);
        let mut iov = [io::IoSliceMut::new(buffer)];
        let capacity = iov[0].len();
        // Returns the length of the whole packet, even if the buffer is shorter.
        let flags = MsgFlags::MSG_TRUNC;
        let fd = self.fd.as_raw_fd();
        let message = recvmsg::<LinkAddr>(fd, &mut iov, Some(&mut control), flags)?;
        let from = message.address;
        let stamp = message.cmsgs()?.find_map(|part| match part {
            nix::sys::socket::ControlMessageOwned::ScmTimestampns(at) => {
                Some(SystemTime::UNIX_EPOCH + Duration::from(at))
            }
            _ => None,
        });
        Ok(CapturedPacket {
            kept: message.bytes.min(capacity),
            length: message.bytes,
            is_outgoing: from.is_some_and(|it| it.pkttype() == libc::PACKET_OUTGOING),
            received_at: stamp.unwrap_or_else(SystemTime::now),
        })
    }
}

/// Binds a packet socket to a link, for all protocols. nix cannot construct this address (packet(7)).
fn bind(fd: &OwnedFd, link: libc::c_uint) -> io::Result<()> {
    let every = u16::try_from(libc::ETH_P_ALL).expect("a protocol of Ethernet has two octets");
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).expect("address families are small"),
        sll_protocol: every.to_be(),
        sll_ifindex: i32::try_from(link).expect("the kernel counts links in i32"),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of_val(&address)).expect("an address is short");
    // SAFETY: the address is an initialised sockaddr_ll that outlives the call, passed with its own size.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    match bound {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
