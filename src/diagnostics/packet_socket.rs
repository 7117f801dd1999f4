//! An ear on a link: a packet socket that takes every packet of both directions, from its IP header on.
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

/// The ear.
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

/// A packet that was heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CapturedPacket {
    /// How many of its bytes are in the buffer.
    pub(crate) kept: usize,
    /// How many it had.
    pub(crate) length: usize,
    /// Whether this machine sent it there: on a TUN, whether it comes from an application.
    pub(crate) is_outgoing: bool,
    /// When, by the kernel's clock.
    pub(crate) at: SystemTime,
}

impl PacketSocket {
    /// Listens on a link, for which `CAP_NET_RAW` is needed. It takes nothing away from anybody.
    ///
    /// # Errors
    /// When there is no such link, or no permission.
    pub(crate) fn open(link: &str) -> io::Result<Self> {
        let index = if_nametoindex(link)?;
        // Without a protocol it hears nothing until it is bound to the link.
        let fd = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        // A burst may wait while a disk is slow. The kernel caps it.
        setsockopt(&fd, sockopt::RcvBuf, &(4 << 20))?;
        bind(&fd, index)?;
        Ok(Self { fd })
    }

    /// Waits for a packet and takes the beginning of it; none when that takes too long.
    ///
    /// # Errors
    /// When the link has gone, or a signal came ([`io::ErrorKind::Interrupted`]).
    pub(crate) fn next(
        &self,
        wait: Duration,
        buffer: &mut [u8],
    ) -> io::Result<Option<CapturedPacket>> {
        let end = std::time::Instant::now() + wait;
        loop {
            match self.take(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => return taken.map(Some),
            }
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], left)?;
        }
    }

    /// Takes a packet, if one is there.
    fn take(&self, buffer: &mut [u8]) -> io::Result<CapturedPacket> {
        let mut control = nix::cmsg_space!(libc::timespec);
        let mut iov = [io::IoSliceMut::new(buffer)];
        let room = iov[0].len();
        // With this flag the length is that of the whole packet.
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
            kept: message.bytes.min(room),
            length: message.bytes,
            is_outgoing: from.is_some_and(|it| it.pkttype() == libc::PACKET_OUTGOING),
            at: stamp.unwrap_or_else(SystemTime::now),
        })
    }
}

/// Binds a packet socket to a link, all protocols: the address is one that no crate lets be made (packet(7)).
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
    // SAFETY: the address is a whole sockaddr_ll that lives across the call, and its length is its own.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    match bound {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
