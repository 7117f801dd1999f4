//! The UDP relay: the sockets of mappings in slots, one epoll set, sending and receiving.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::EpollFlags;

use crate::engine::{ReturnedError, Transmit};
use crate::net::{Egress, Endpoint, Family, Inside, MappingId, Outside, PerFamily, Treatment};
use crate::wire::IcmpError;

use super::arrival::TunnelLinks;
use super::epoll_set::{EpollSet, READY, ReadyEvents, Token};
use super::error::{NoSocket, SendError, SocketOpenError};
use super::ipsec_bypass::IpsecBypass;
use super::socket_factory::{SetupStep, SocketFactories};
use super::udp_socket::{ReceiveBuffer, Received, UdpSocket};

/// The payload bytes that an error quotes at most: the minimum MTU of IPv6 (1280 bytes) less IPv6, `ICMPv6`, and the quoted
/// IPv6 and UDP headers.
const MAX_QUOTED: usize = 1_184;

/// Consecutive full event lists that count as lasting load: some 8,000 datagrams, or 100 ms of work.
const LASTING_LOAD: u32 = 128;

/// The bit of a token that distinguishes a mapping's two sockets; no slot number needs it.
const TUNNEL: u64 = 1 << 31;

#[derive(Debug)]
struct Binding {
    id: MappingId,
    socket: UdpSocket,
    /// The uplink generation that it was opened on.
    uplink: u32,
}

/// By egress and slot: few mappings have a tunnel socket.
type Bindings = [Vec<Option<Binding>>; 2];

/// The sockets of all mappings.
#[derive(Debug)]
pub struct UdpRelay {
    factories: SocketFactories,
    /// The number of each family's uplink.
    uplinks: PerFamily<u32>,
    ipsec_bypass: IpsecBypass,
    tunnels: TunnelLinks,
    bindings: Bindings,
    epoll_set: EpollSet,
    /// The number of events of the last wait.
    ready: usize,
    /// Consecutive full event lists.
    full_in_a_row: u32,
    buffer: ReceiveBuffer,
    send_errors: Vec<EarlierSendError>,
    overflowed: u64,
}

/// An error about an earlier datagram, read from the error queue during a send.
#[derive(Debug)]
struct EarlierSendError {
    mapping: MappingId,
    egress: Egress,
    to: Endpoint,
    reporter: Option<IpAddr>,
    error: IcmpError,
    payload: Vec<u8>,
}

impl UdpRelay {
    /// Creates a relay without sockets and without an uplink.
    ///
    /// # Errors
    /// If the kernel refuses an epoll set.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            factories: SocketFactories::default(),
            uplinks: PerFamily::default(),
            ipsec_bypass: IpsecBypass::default(),
            tunnels: TunnelLinks::default(),
            bindings: Bindings::default(),
            epoll_set: EpollSet::new()?,
            ready: 0,
            full_in_a_row: 0,
            buffer: ReceiveBuffer::new(),
            send_errors: Vec::new(),
            overflowed: 0,
        })
    }

    /// Opens a socket of a mapping, whose first datagram goes to `to`. It replaces the mapping's socket of the same egress.
    ///
    /// # Errors
    /// [`SocketOpenError`]; no socket remains.
    pub fn open(
        &mut self,
        id: MappingId,
        egress: Egress,
        inside: Inside<Endpoint>,
        to: Endpoint,
        treatment: Treatment,
    ) -> Result<Outside<Endpoint>, SocketOpenError> {
        let slot = id.slot as usize;
        let bindings = &mut self.bindings[egress as usize];
        if bindings.len() <= slot {
            bindings.resize_with(slot + 1, || None);
        }
        // Closed first, so that its port is free.
        bindings[slot] = None;
        let family = Family::of(inside.0.addr);
        let factory = self.factories[family].as_ref();
        let factory = factory.ok_or(SocketOpenError::NoUplink)?;
        let bypasses_ipsec = self.ipsec_bypass.applies_to(family);
        let (socket, outside) =
            factory.open_udp(egress, inside, Some(to), treatment, bypasses_ipsec)?;
        // Level-triggered: a socket that is not drained is ready again.
        let watched = self
            .epoll_set
            .watch(&socket, token(id, egress), EpollFlags::EPOLLIN);
        watched.map_err(factory.at(SetupStep::Watch))?;
        bindings[slot] = Some(Binding {
            id,
            socket: UdpSocket::new(socket, family, treatment, bypasses_ipsec),
            uplink: self.uplinks[family],
        });
        Ok(outside)
    }

    /// Opens later sockets on other uplinks. Open direct sockets of the families that `moves` selects stop sending. They
    /// receive until [`UdpRelay::open`] replaces them, or their mappings end. Tunnel sockets are unaffected.
    pub fn rebind(&mut self, factories: SocketFactories, moves: impl Fn(Family) -> bool) {
        self.factories = factories;
        for family in Family::BOTH {
            self.uplinks[family] += u32::from(moves(family));
        }
    }

    /// Replaces the links of tunnels. Only by these, datagrams of a tunnel reach tunnel sockets.
    pub fn set_tunnels(&mut self, tunnels: TunnelLinks) {
        self.tunnels = tunnels;
    }

    /// Sets the families whose direct sockets bypass IPsec: new sockets at once, open ones by
    /// [`UdpRelay::bypass_next_batch`]. A bypass is never removed from a socket.
    pub fn set_ipsec_bypass(&mut self, families: PerFamily<bool>) {
        self.ipsec_bypass
            .set(families, self.bindings[Egress::Direct as usize].len());
    }

    /// Whether open sockets still lack their IPsec bypass.
    #[must_use]
    pub fn is_bypass_pending(&self) -> bool {
        self.ipsec_bypass.is_pending()
    }

    /// Sets the IPsec bypass of the next open sockets: a bounded number.
    pub fn bypass_next_batch(&mut self) {
        for slot in self.ipsec_bypass.batch() {
            let direct = self.bindings[Egress::Direct as usize][slot].as_mut();
            let wanted =
                direct.filter(|binding| self.ipsec_bypass.applies_to(binding.socket.family));
            if let Some(binding) = wanted {
                binding.socket.bypass_ipsec();
            }
        }
    }

    /// Closes the sockets of a mapping. This removes them from the epoll set too.
    pub fn close(&mut self, id: MappingId) {
        for bindings in &mut self.bindings {
            let binding = bindings.get_mut(id.slot as usize);
            binding.and_then(|it| it.take_if(|binding| binding.id == id));
        }
    }

    /// Sends a datagram. Errors about earlier ones are kept for [`UdpRelay::take_send_errors`].
    ///
    /// # Errors
    /// [`SendError`]. If a datagram with DF exceeds the path MTU, returns Ok and keeps a Packet Too Big error for
    /// [`UdpRelay::take_send_errors`].
    pub fn send(&mut self, transmit: &Transmit, payload: &[u8]) -> Result<(), SendError> {
        let &Transmit {
            mapping, egress, ..
        } = transmit;
        let binding = binding(&mut self.bindings, mapping, egress)?;
        if egress == Egress::Direct && binding.uplink != self.uplinks[binding.socket.family] {
            return Err(SendError::NoSocket(NoSocket));
        }
        let send_errors = &mut self.send_errors;
        let on_error = |to, reporter, error, payload: &[u8]| {
            send_errors.push(EarlierSendError {
                mapping,
                egress,
                to,
                reporter,
                error,
                payload: payload[..payload.len().min(MAX_QUOTED)].into(),
            });
        };
        let socket = &mut binding.socket;
        Ok(socket.send(transmit, payload, &mut self.buffer, on_error)?)
    }

    /// Returns the number of datagrams dropped since the start because a socket's queue was full. The kernel
    /// reports the count (`SO_RXQ_OVFL`) with the next datagram of the socket.
    #[must_use]
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Passes the errors of sent datagrams to `take`, and removes them.
    pub fn take_send_errors(&mut self, mut take: impl FnMut(MappingId, Egress, ReturnedError<'_>)) {
        for error in self.send_errors.drain(..) {
            let returned = ReturnedError {
                to: error.to,
                reporter: error.reporter,
                error: error.error,
                payload: &error.payload,
            };
            take(error.mapping, error.egress, returned);
        }
    }

    /// Adds another descriptor to the epoll set until it is closed, so that the owner of the relay waits in one place.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn watch(&self, token: Token, descriptor: impl AsFd) -> io::Result<()> {
        self.epoll_set
            .watch(descriptor, token.token(), EpollFlags::EPOLLIN)
    }

    /// Waits until a descriptor is ready, or until `time` is over, rounded up to milliseconds. A signal ends the wait early.
    ///
    /// # Errors
    /// If the epoll set cannot be read.
    pub fn wait(&mut self, time: Option<Duration>) -> io::Result<ReadyEvents> {
        self.poll(time)?;
        Ok(ReadyEvents::among(&self.epoll_set, self.ready))
    }

    fn poll(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.ready = self.epoll_set.wait(time)?;
        let is_full = self.ready == READY;
        self.full_in_a_row = if is_full {
            self.full_in_a_row.saturating_add(1)
        } else {
            0
        };
        Ok(())
    }

    /// Passes one datagram and one error of each ready socket to `on_received`. Repeats that until `min_reads` sockets were
    /// read: with the reads of the TUN in this wake-up, a single busy socket gets as many as the TUN.
    ///
    /// # Errors
    /// If the epoll set cannot be read.
    pub fn receive(
        &mut self,
        min_reads: usize,
        mut on_received: impl FnMut(MappingId, Egress, Received<'_>),
    ) -> io::Result<()> {
        let mut total = 0;
        loop {
            let mut sockets = 0;
            let ready = std::mem::take(&mut self.ready);
            for at in 0..ready {
                let (token, flags) = self.epoll_set.ready(at);
                let (id, egress) = from_token(token);
                let has_error = flags.contains(EpollFlags::EPOLLERR);
                let Ok(binding) = binding(&mut self.bindings, id, egress) else {
                    continue;
                };
                let socket = &mut binding.socket;
                let admits =
                    |link, from| egress == Egress::Direct || self.tunnels.admit(link, from);
                let overflowed = socket.receive(has_error, &mut self.buffer, admits, |received| {
                    on_received(id, egress, received);
                });
                self.overflowed += u64::from(overflowed);
                if self.full_in_a_row >= LASTING_LOAD {
                    socket.enable_timestamps();
                }
                sockets += 1;
            }
            total += sockets;
            if sockets == 0 || total >= min_reads {
                return Ok(());
            }
            self.poll(Some(Duration::ZERO))?;
        }
    }
}

fn token(id: MappingId, egress: Egress) -> u64 {
    match egress {
        Egress::Direct => id.token(),
        Egress::Tunnel => id.token() | TUNNEL,
    }
}

fn from_token(token: u64) -> (MappingId, Egress) {
    let egress = if token & TUNNEL == 0 {
        Egress::Direct
    } else {
        Egress::Tunnel
    };
    (MappingId::from_token(token & !TUNNEL), egress)
}

fn binding(
    bindings: &mut Bindings,
    id: MappingId,
    egress: Egress,
) -> Result<&mut Binding, NoSocket> {
    let slot = bindings[egress as usize].get_mut(id.slot as usize);
    let binding = slot.and_then(Option::as_mut);
    binding.filter(|binding| binding.id == id).ok_or(NoSocket)
}
