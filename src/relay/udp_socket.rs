//! One UDP socket of a mapping: what was set on it, what it sends, what it hears.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::SystemTime;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, recvmsg, setsockopt,
    sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::Socket;

use crate::engine::{HEADROOM, ReceivedDatagram, ReturnedError, Transmit};
use crate::net::{Endpoint, Family, TrafficClass, Treatment};
use crate::wire::IcmpError;

use super::error_queue;
use super::socket_factory::treat;
use super::socket_option;
use super::udp::Received;

/// The largest UDP payload.
const LARGEST: usize = 65_535;

/// How often a datagram is tried when errors of earlier ones keep coming.
const TRIES: u32 = 3;

/// ReceiveBuffer for a datagram with headers before it, and for what the kernel says of it; all sockets share it.
#[derive(Debug)]
pub(super) struct ReceiveBuffer {
    buffer: Box<[u8]>,
    control: Vec<u8>,
}

impl ReceiveBuffer {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; HEADROOM + LARGEST].into_boxed_slice(),
            control: nix::cmsg_space!(i32, u32, TimeSpec),
        }
    }
}

/// A socket, and what was set on it.
#[derive(Debug)]
pub(super) struct UdpSocket {
    socket: Socket,
    pub(super) family: Family,
    treatment: Treatment,
    bypasses_ipsec: bool,
    /// Unset until the first datagram says it.
    dont_fragment: Option<bool>,
    /// Datagrams that found the socket's queue full, as the kernel counts them.
    overflowed: u32,
    /// Whether the kernel says when each datagram came into the queue. That costs every packet of this machine some percent,
    /// so it is asked only where a crowd has waited for a while: queues may stand.
    is_stamped: bool,
}

impl UdpSocket {
    /// One that was made for this treatment.
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
            bypasses_ipsec,
            dont_fragment: None,
            overflowed: 0,
            is_stamped: false,
        }
    }

    /// Exempts it from IPsec policies, if it is not. Who is refused (no memory) has its media taken by the VPN: a detour, and
    /// no leak.
    pub(super) fn exempt(&mut self) {
        self.bypasses_ipsec =
            self.bypasses_ipsec || socket_option::bypass_ipsec(&self.socket, self.family).is_ok();
    }

    /// Has the kernel say when each datagram came. Who is refused has its queue stand.
    pub(super) fn stamp(&mut self) {
        if !self.is_stamped {
            let stamps = sockopt::ReceiveTimestampns;
            self.is_stamped = setsockopt(&self.socket, stamps, &true).is_ok();
        }
    }

    /// Sends a datagram, and hands errors of earlier ones to `on_earlier_error`: whom they were for, who reported them, what they are and
    /// what of the datagram came back.
    ///
    /// A pending error of an earlier datagram makes the kernel refuse the next one without sending it (udp(7)). So the
    /// error queue is read then, and the datagram is tried again.
    ///
    /// # Errors
    /// The kernel's; a datagram that is too large and may not be fragmented is a setback and no error.
    pub(super) fn send(
        &mut self,
        transmit: &Transmit,
        payload: &[u8],
        room: &mut ReceiveBuffer,
        mut on_earlier_error: impl FnMut(Endpoint, Option<IpAddr>, IcmpError, &[u8]),
    ) -> io::Result<()> {
        let &Transmit {
            to,
            treatment,
            dont_fragment,
            ..
        } = transmit;
        if self.treatment != treatment {
            treat(&self.socket, self.family, treatment)?;
            self.treatment = treatment;
        }
        if self.dont_fragment != Some(dont_fragment) {
            socket_option::may_fragment(&self.socket, self.family, !dont_fragment)?;
            self.dont_fragment = Some(dont_fragment);
        }
        let mut probe_due = 0;
        loop {
            let Err(error) = self.socket.send_to(payload, &SocketAddr::from(to).into()) else {
                return Ok(());
            };
            let mut was_earlier = false;
            while let Ok(entry) = error_queue::pop(&self.socket, self.family, &mut room.buffer) {
                match entry {
                    error_queue::QueuedError::Returned {
                        to,
                        reporter,
                        error,
                        length,
                    } => {
                        was_earlier = true;
                        on_earlier_error(to, reporter, error, &room.buffer[..length]);
                    }
                    error_queue::QueuedError::TooBig { mtu } => {
                        on_earlier_error(to, None, IcmpError::PacketTooBig { mtu }, payload);
                        return Ok(());
                    }
                }
            }
            probe_due += 1;
            // An earlier datagram's error without an entry: the queue had no room for it.
            was_earlier |= probe_due == 1 && is_of_an_earlier_datagram(&error);
            if was_earlier && probe_due < TRIES {
                continue;
            }
            return Err(error);
        }
    }

    /// Takes one entry of the error queue, if there is one, and one datagram. Answers how many found the queue full since the
    /// last one.
    pub(super) fn receive(
        &mut self,
        has_error: bool,
        room: &mut ReceiveBuffer,
        mut take: impl FnMut(Received<'_>),
    ) -> u32 {
        let ReceiveBuffer { buffer, control } = room;
        // What this machine refuses is told by the call that was refused.
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
            take(Received::Error(returned));
        }
        let space = &mut buffer[HEADROOM..];
        let received = match self.family {
            Family::V4 => datagram::<SockaddrIn>(&self.socket, space, control),
            Family::V6 => datagram::<SockaddrIn6>(&self.socket, space, control),
        };
        // Nothing waiting, or an error whose entry in the queue has been or will be taken above.
        let Ok(datagram) = received else {
            return 0;
        };
        let before = self.overflowed;
        self.overflowed = datagram.overflowed.unwrap_or(before);
        // By the clock of its stamp; one that was set back has nothing to say.
        let queue_delay = datagram.arrived.and_then(|at| at.elapsed().ok());
        let arrival = ReceivedDatagram {
            from: datagram.from,
            traffic_class: datagram.traffic_class,
            queue_delay: queue_delay.unwrap_or_default(),
            buffer,
            payload: HEADROOM..HEADROOM + datagram.length,
        };
        take(Received::Datagram(arrival));
        self.overflowed.wrapping_sub(before)
    }
}

/// A datagram that was received, and what the kernel says of it.
struct RawDatagram {
    length: usize,
    from: Endpoint,
    traffic_class: TrafficClass,
    /// When it came into the socket's queue, if that was asked for.
    arrived: Option<SystemTime>,
    /// How many found the queue full so far; only once there is something to count.
    overflowed: Option<u32>,
}

fn datagram<A>(socket: &Socket, room: &mut [u8], control: &mut [u8]) -> io::Result<RawDatagram>
where
    A: SockaddrLike + Into<SocketAddr> + Copy,
{
    let mut iov = [IoSliceMut::new(room)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<A>(socket.as_raw_fd(), &mut iov, Some(control), flags)?;
    let from = message.address.ok_or(io::ErrorKind::InvalidData)?;
    let (mut octet, mut arrived, mut overflowed) = (0, None, None);
    for part in message.cmsgs()? {
        match part {
            ControlMessageOwned::Ipv4Tos(tos) => octet = tos,
            ControlMessageOwned::Ipv6TClass(class) => octet = u8::try_from(class).unwrap_or(0),
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
        arrived,
        overflowed,
    })
}

fn is_of_an_earlier_datagram(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied};
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | NetworkUnreachable | PermissionDenied
    ) || error.raw_os_error() == Some(nix::libc::EPROTO)
}
