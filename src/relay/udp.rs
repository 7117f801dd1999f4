//! The relay: bindings in slots, one epoll set, sends and receives.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::EpollFlags;

use crate::engine::{ReceivedDatagram, ReturnedError, Transmit};
use crate::net::{Egress, Endpoint, Family, Inside, MappingId, Outside, PerFamily, Treatment};
use crate::wire::IcmpError;

use super::epoll_set::{EpollSet, READY, ReadyEvents, Token};
use super::error::to_icmp_error;
use super::ipsec_bypass::IpsecBypass;
use super::socket_factory::{SetupStep, SocketFactories, SocketSetupError};
use super::udp_socket::{ReceiveBuffer, UdpSocket};

/// How much of a datagram an error can quote at most: 1280 bytes of `ICMPv6` less three headers.
const QUOTED: usize = 1_184;

/// Full looks in a row after which queues may have stood for long: some 8,000 datagrams, a tenth of a second's work.
const LASTING: u32 = 128;

/// The bit of a token that tells a mapping's two sockets apart: slots are few.
const TUNNEL: u64 = 1 << 31;

#[derive(Debug)]
struct Binding {
    id: MappingId,
    socket: UdpSocket,
    /// Which of the family's uplinks it was made for.
    uplink: u32,
}

/// By way and slot: few mappings ever have a socket into the VPN.
type Bindings = [Vec<Option<Binding>>; 2];

/// The sockets of all mappings.
#[derive(Debug)]
pub struct UdpRelay {
    binders: SocketFactories,
    /// The number of each family's uplink.
    uplinks: PerFamily<u32>,
    exempt: IpsecBypass,
    bindings: Bindings,
    readiness: EpollSet,
    /// How much the last look found.
    found: usize,
    /// How many looks in a row found as much as one can name: there is a crowd.
    crowded: u32,
    room: ReceiveBuffer,
    send_errors: Vec<EarlierSendError>,
    overflowed: u64,
}

/// What came in through a socket.
#[derive(Debug)]
pub enum Received<'a> {
    /// A datagram.
    Datagram(ReceivedDatagram<'a>),
    /// An error that the path, or this machine, returned for a datagram.
    Error(ReturnedError<'a>),
}

/// An error that was found while something was sent.
#[derive(Debug)]
struct EarlierSendError {
    mapping: MappingId,
    egress: Egress,
    to: Endpoint,
    reporter: Option<IpAddr>,
    error: IcmpError,
    payload: Vec<u8>,
}

/// A mapping's socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketOpenError {
    /// There is no uplink to open it on.
    #[error("there is no uplink")]
    NoUplink,
    /// The kernel refused.
    #[error(transparent)]
    Bind(#[from] SocketSetupError),
}

/// There is no socket for the mapping, or only one on a former uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mapping has no socket")]
pub struct Closed;

/// A datagram could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no socket for the mapping on this uplink.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The kernel refused.
    #[error("the kernel refused to send")]
    Refused(#[from] io::Error),
}

impl SendError {
    /// What a router would say instead of the kernel's word; `None` when it would be silent.
    #[must_use]
    pub fn to_icmp_error(&self) -> Option<IcmpError> {
        match self {
            Self::Closed(_) => None,
            Self::Refused(error) => to_icmp_error(error),
        }
    }
}

impl UdpRelay {
    /// Makes a relay without sockets and without an uplink.
    ///
    /// # Errors
    /// When the kernel gives no epoll set.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            binders: SocketFactories::default(),
            uplinks: PerFamily::default(),
            exempt: IpsecBypass::default(),
            bindings: Bindings::default(),
            readiness: EpollSet::new()?,
            found: 0,
            crowded: 0,
            room: ReceiveBuffer::new(),
            send_errors: Vec::new(),
            overflowed: 0,
        })
    }

    /// Opens a socket of a mapping, in the place of the one that it had that way.
    ///
    /// # Errors
    /// [`SocketOpenError`]; no socket is left over.
    pub fn open(
        &mut self,
        id: MappingId,
        egress: Egress,
        inside: Inside<Endpoint>,
        treatment: Treatment,
    ) -> Result<Outside<Endpoint>, SocketOpenError> {
        let slot = id.slot as usize;
        let bindings = &mut self.bindings[egress as usize];
        if bindings.len() <= slot {
            bindings.resize_with(slot + 1, || None);
        }
        // It is closed first, so that its port is free.
        bindings[slot] = None;
        let family = Family::of(inside.0.addr);
        let binder = self.binders[family].as_ref();
        let binder = binder.ok_or(SocketOpenError::NoUplink)?;
        let bypasses_ipsec = self.exempt.has(family);
        let (socket, outside) = binder.bind(egress, inside, treatment, bypasses_ipsec)?;
        // Level-triggered: a socket that was not drained within the budget is found again.
        let watched = self
            .readiness
            .watch(&socket, token(id, egress), EpollFlags::EPOLLIN);
        watched.map_err(binder.at(SetupStep::Watch))?;
        bindings[slot] = Some(Binding {
            id,
            socket: UdpSocket::new(socket, family, treatment, bypasses_ipsec),
            uplink: self.uplinks[family],
        });
        Ok(outside)
    }

    /// Makes all sockets from now on on other uplinks. Direct ones of the families that `moves` says send nothing any more;
    /// what they bring is handed out until [`UdpRelay::open`] puts others in their places, or their mappings end. The tunnel is
    /// left alone.
    pub fn rebind(&mut self, binders: SocketFactories, moves: impl Fn(Family) -> bool) {
        self.binders = binders;
        for family in Family::BOTH {
            self.uplinks[family] += u32::from(moves(family));
        }
    }

    /// Exempts the direct sockets of these families from IPsec policies: new ones at once, and those that are open with
    /// [`UdpRelay::bypass_next_batch`]. Who is exempt stays so.
    pub fn exempt(&mut self, families: PerFamily<bool>) {
        self.exempt
            .set(families, self.bindings[Egress::Direct as usize].len());
    }

    /// Whether sockets are still to be exempted.
    #[must_use]
    pub fn is_bypass_pending(&self) -> bool {
        self.exempt.is_stale()
    }

    /// Exempts the next sockets: a bounded number.
    pub fn bypass_next_batch(&mut self) {
        for slot in self.exempt.batch() {
            let direct = self.bindings[Egress::Direct as usize][slot].as_mut();
            let wanted = direct.filter(|binding| self.exempt.has(binding.socket.family));
            if let Some(binding) = wanted {
                binding.socket.exempt();
            }
        }
    }

    /// Closes the sockets of a mapping, if it has any. Closing takes them out of the epoll set too.
    pub fn close(&mut self, id: MappingId) {
        for bindings in &mut self.bindings {
            let binding = bindings.get_mut(id.slot as usize);
            binding.and_then(|it| it.take_if(|binding| binding.id == id));
        }
    }

    /// Sends a datagram. What the application is to be told of earlier ones is kept for [`UdpRelay::take_send_errors`].
    ///
    /// # Errors
    /// [`SendError`]; a datagram that is too large and may not be fragmented is a setback and no error.
    pub fn send(&mut self, transmit: &Transmit, payload: &[u8]) -> Result<(), SendError> {
        let &Transmit {
            mapping, egress, ..
        } = transmit;
        let binding = binding(&mut self.bindings, mapping, egress)?;
        if egress == Egress::Direct && binding.uplink != self.uplinks[binding.socket.family] {
            return Err(SendError::Closed(Closed));
        }
        let send_errors = &mut self.send_errors;
        let on_earlier_error = |to, reporter, error, payload: &[u8]| {
            send_errors.push(EarlierSendError {
                mapping,
                egress,
                to,
                reporter,
                error,
                payload: payload[..payload.len().min(QUOTED)].into(),
            });
        };
        let socket = &mut binding.socket;
        Ok(socket.send(transmit, payload, &mut self.room, on_earlier_error)?)
    }

    /// Datagrams that were dropped since the start because their socket's queue was full, as far as later ones have told.
    #[must_use]
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Hands the errors that were found while something was sent to `take`.
    pub fn take_send_errors(&mut self, mut take: impl FnMut(MappingId, Egress, ReturnedError<'_>)) {
        for on_earlier_error in self.send_errors.drain(..) {
            let returned = ReturnedError {
                to: on_earlier_error.to,
                reporter: on_earlier_error.reporter,
                error: on_earlier_error.error,
                payload: &on_earlier_error.payload,
            };
            take(on_earlier_error.mapping, on_earlier_error.egress, returned);
        }
    }

    /// Waits for something else besides, until it is closed: so that whoever owns the relay sleeps in one place.
    ///
    /// # Errors
    /// When the kernel has no room for it.
    pub fn watch(&self, guest: Token, what: impl AsFd) -> io::Result<()> {
        self.readiness
            .watch(what, guest.token(), EpollFlags::EPOLLIN)
    }

    /// Waits until a socket or a guest is ready, or the time is over, if there is one: in whole milliseconds, never too
    /// short. A signal ends the wait early.
    ///
    /// # Errors
    /// When the epoll set cannot be read.
    pub fn wait(&mut self, time: Option<Duration>) -> io::Result<ReadyEvents> {
        self.look(time)?;
        Ok(ReadyEvents::among(&self.readiness, self.found))
    }

    fn look(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.found = self.readiness.wait(time)?;
        let is_full = self.found == READY;
        self.crowded = if is_full {
            self.crowded.saturating_add(1)
        } else {
            0
        };
        Ok(())
    }

    /// Hands a datagram and an error of each socket that the last wait found to `take`; then looks for more, until there were
    /// `share` of them: what another source had of this turn, so that a single busy socket has as much.
    ///
    /// # Errors
    /// When the epoll set cannot be read.
    pub fn receive(
        &mut self,
        share: usize,
        mut take: impl FnMut(MappingId, Egress, Received<'_>),
    ) -> io::Result<()> {
        let mut had = 0;
        loop {
            let mut sockets = 0;
            let found = std::mem::take(&mut self.found);
            for at in 0..found {
                let (token, flags) = self.readiness.ready(at);
                let (id, egress) = of_token(token);
                let has_error = flags.contains(EpollFlags::EPOLLERR);
                let Ok(binding) = binding(&mut self.bindings, id, egress) else {
                    continue;
                };
                let socket = &mut binding.socket;
                let overflowed = socket.receive(has_error, &mut self.room, |received| {
                    take(id, egress, received);
                });
                self.overflowed += u64::from(overflowed);
                if self.crowded >= LASTING {
                    socket.stamp();
                }
                sockets += 1;
            }
            had += sockets;
            if sockets == 0 || had >= share {
                return Ok(());
            }
            self.look(Some(Duration::ZERO))?;
        }
    }
}

fn token(id: MappingId, egress: Egress) -> u64 {
    match egress {
        Egress::Direct => id.token(),
        Egress::Tunnel => id.token() | TUNNEL,
    }
}

fn of_token(token: u64) -> (MappingId, Egress) {
    let egress = if token & TUNNEL == 0 {
        Egress::Direct
    } else {
        Egress::Tunnel
    };
    (MappingId::from_token(token & !TUNNEL), egress)
}

fn binding(bindings: &mut Bindings, id: MappingId, egress: Egress) -> Result<&mut Binding, Closed> {
    let slot = bindings[egress as usize].get_mut(id.slot as usize);
    let binding = slot.and_then(Option::as_mut);
    binding.filter(|binding| binding.id == id).ok_or(Closed)
}
