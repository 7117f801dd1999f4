//! One UDP socket of a mapping: options, sending, receiving.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::SystemTime;

use nix::libc::in6_pktinfo;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, recvmsg, setsockopt,
    sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::Socket;

use crate::engine::{HEADROOM, ReceivedDatagram, ReturnedError, Transmit};
use crate::net::{Ecn, Endpoint, Family, IfIndex, TrafficClass, Treatment};
use crate::wire::IcmpError;

use super::error_queue;
use super::socket_factory::set_treatment;
use super::socket_option;

/// The largest datagram in bytes.
const MAX_DATAGRAM: usize = 65_535;

/// The largest number of attempts to send a datagram while errors of earlier ones prevent it.
const MAX_ATTEMPTS: u32 = 3;

/// Input of a socket.
#[derive(Debug)]
pub enum Received<'a> {
    /// A datagram.
    Datagram(ReceivedDatagram<'a>),
    /// An error about a datagram that the socket sent.
    Error(ReturnedError<'a>),
    /// A datagram for a tunnel socket was dropped because it arrived by another link than the tunnel.
    WrongLink,
}

/// A buffer for a datagram with headroom, and for its control messages. All sockets share it.
#[derive(Debug)]
pub(super) struct ReceiveBuffer {
    datagram: Box<[u8]>,
    control: Vec<u8>,
}

impl ReceiveBuffer {
    pub(super) fn new() -> Self {
        Self {
            datagram: vec![0; HEADROOM + MAX_DATAGRAM].into_boxed_slice(),
            control: nix::cmsg_space!(i32, u32, TimeSpec, in6_pktinfo),
        }
    }
}

/// A socket and its options.
#[derive(Debug)]
pub(super) struct UdpSocket {
    socket: Socket,
    pub(super) family: Family,
    treatment: Treatment,
    ecn: Ecn,
    bypasses_ipsec: bool,
    /// Unset until the first datagram.
    dont_fragment: Option<bool>,
    /// The kernel's count of datagrams dropped because the socket's queue was full.
    overflowed: u32,
    /// Whether received datagrams carry a timestamp. Timestamps slow down every packet of this machine by some percent, so
    /// they are enabled only under lasting load.
    has_timestamps: bool,
}

impl UdpSocket {
    /// Wraps a socket that was created with this treatment.
    pub(super) fn new(
        socket: Socket,
        family: Family,
        treatment: Treatment,
        bypasses_ipsec: bool,
    ) -> Self {
        Self {
            socket,
            family,
            treatment,
            ecn: Ecn::NotEct,
            bypasses_ipsec,
            dont_fragment: None,
            overflowed: 0,
            has_timestamps: false,
        }
    }

    /// Enables the IPsec bypass. If that fails (no memory), the VPN captures the datagrams: a detour, not a leak.
    pub(super) fn bypass_ipsec(&mut self) {
        self.bypasses_ipsec =
            self.bypasses_ipsec || socket_option::bypass_ipsec(&self.socket, self.family).is_ok();
    }

    /// Enables `SO_TIMESTAMPNS`. If that fails, stale media on this socket is not detected.
    pub(super) fn enable_timestamps(&mut self) {
        if !self.has_timestamps {
            let option = sockopt::ReceiveTimestampns;
            self.has_timestamps = setsockopt(&self.socket, option, &true).is_ok();
        }
    }

    /// Sends a datagram. Passes errors to `on_error`: destination, reporter, error and returned payload.
    ///
    /// A pending error of an earlier datagram makes the kernel reject the next one without sending it (udp(7)). Then the
    /// error queue is read, and the datagram is sent again.
    ///
    /// # Errors
    /// The kernel's. A datagram that exceeds the path MTU and may not be fragmented is passed to `on_error` instead.
    pub(super) fn send(
        &mut self,
        transmit: &Transmit,
        payload: &[u8],
        buffer: &mut ReceiveBuffer,
        mut on_error: impl FnMut(Endpoint, Option<IpAddr>, IcmpError, &[u8]),
    ) -> io::Result<()> {
        let &Transmit {
            to,
            treatment,
            ecn,
            dont_fragment,
            ..
        } = transmit;
        if (self.treatment, self.ecn) != (treatment, ecn) {
            // As a control message, the TOS would replace the priority too (ip(7)). The options persist, so a call whose
            // packets are alike pays once.
            set_treatment(&self.socket, self.family, treatment, ecn)?;
            (self.treatment, self.ecn) = (treatment, ecn);
        }
        if self.dont_fragment != Some(dont_fragment) {
            socket_option::set_fragmentation(&self.socket, self.family, !dont_fragment)?;
            self.dont_fragment = Some(dont_fragment);
        }
        let mut attempts = 0;
        loop {
            let Err(error) = self.socket.send_to(payload, &SocketAddr::from(to).into()) else {
                return Ok(());
            };
            let mut was_earlier = false;
            while let Ok(entry) = error_queue::pop(&self.socket, self.family, &mut buffer.datagram)
            {
                match entry {
                    error_queue::QueuedError::Returned {
                        to,
                        reporter,
                        error,
                        length,
                    } => {
                        was_earlier = true;
                        on_error(to, reporter, error, &buffer.datagram[..length]);
                    }
                    error_queue::QueuedError::TooBig { mtu } => {
                        on_error(to, None, IcmpError::PacketTooBig { mtu }, payload);
                        return Ok(());
                    }
                }
            }
            attempts += 1;
            // An earlier datagram's error may have no entry if the queue was full.
            was_earlier |= attempts == 1 && may_concern_earlier_datagram(&error);
            if was_earlier && attempts < MAX_ATTEMPTS {
                continue;
            }
            return Err(error);
        }
    }

    /// Receives one entry of the error queue, if there is one, and one datagram. Returns the number of datagrams dropped since
    /// the last one because the queue was full. `admits` decides by link and sender, where the link is known.
    pub(super) fn receive(
        &mut self,
        has_error: bool,
        buffer: &mut ReceiveBuffer,
        admits: impl Fn(IfIndex, Endpoint) -> bool,
        mut on_received: impl FnMut(Received<'_>),
    ) -> u32 {
        let ReceiveBuffer {
            datagram: buffer,
            control,
        } = buffer;
        // Local errors are reported by the call that failed.
        if has_error
            && let Ok(error_queue::QueuedError::Returned {
                to,
                reporter,
                error,
                length,
            }) = error_queue::pop(&self.socket, self.family, buffer)
        {
            let returned = ReturnedError {
                to,
                reporter,
                error,
                payload: &buffer[..length],
            };
            on_received(Received::Error(returned));
        }
        let space = &mut buffer[HEADROOM..];
        let received = match self.family {
            Family::V4 => receive_datagram::<SockaddrIn>(&self.socket, space, control),
            Family::V6 => receive_datagram::<SockaddrIn6>(&self.socket, space, control),
        };
        // An empty queue, or an error that the error queue reports.
        let Ok(datagram) = received else {
            return 0;
        };
        let before = self.overflowed;
        self.overflowed = datagram.overflowed.unwrap_or(before);
        if datagram
            .link
            .is_some_and(|link| !admits(link, datagram.from))
        {
            on_received(Received::WrongLink);
            return self.overflowed.wrapping_sub(before);
        }
        // By the real-time clock of the timestamp; `None` if that was set back.
        let queue_delay = datagram.arrived.and_then(|time| time.elapsed().ok());
        let arrival = ReceivedDatagram {
            from: datagram.from,
            traffic_class: datagram.traffic_class,
            queue_delay: queue_delay.unwrap_or_default(),
            buffer,
            payload: HEADROOM..HEADROOM + datagram.length,
        };
        on_received(Received::Datagram(arrival));
        self.overflowed.wrapping_sub(before)
    }
}

/// A received datagram with its control messages.
struct RawDatagram {
    length: usize,
    from: Endpoint,
    traffic_class: TrafficClass,
    /// The link by which it arrived, on tunnel sockets.
    link: Option<IfIndex>,
    /// When it entered the socket's queue, if timestamps are enabled.
    arrived: Option<SystemTime>,
    /// The count of dropped datagrams; present once it is not zero.
    overflowed: Option<u32>,
}

fn receive_datagram<A>(
    socket: &Socket,
    buffer: &mut [u8],
    control: &mut [u8],
) -> io::Result<RawDatagram>
where
    A: SockaddrLike + Into<SocketAddr> + Copy,
{
    let mut iov = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<A>(socket.as_raw_fd(), &mut iov, Some(control), flags)?;
    let from = message.address.ok_or(io::ErrorKind::InvalidData)?;
    let (mut octet, mut link, mut arrived, mut overflowed) = (0, None, None, None);
    for part in message.cmsgs()? {
        match part {
            ControlMessageOwned::Ipv4Tos(tos) => octet = tos,
            ControlMessageOwned::Ipv6TClass(class) => octet = u8::try_from(class).unwrap_or(0),
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                link = u32::try_from(info.ipi_ifindex).ok().map(IfIndex);
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => link = Some(IfIndex(info.ipi6_ifindex)),
            ControlMessageOwned::ScmTimestampns(time) => {
                arrived = SystemTime::UNIX_EPOCH.checked_add(time.into());
            }
            ControlMessageOwned::RxqOvfl(count) => overflowed = Some(count),
            _ => {}
        }
    }
    Ok(RawDatagram {
        length: message.bytes,
        from: Endpoint::from(from.into()),
        traffic_class: TrafficClass::from_octet(octet),
        link,
        arrived,
        overflowed,
    })
}

fn may_concern_earlier_datagram(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied};
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | NetworkUnreachable | PermissionDenied
    ) || error.raw_os_error() == Some(nix::libc::EPROTO)
}
