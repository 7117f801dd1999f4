//! The relay: bindings in slots, one epoll set, sends and receives.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, recvmsg,
};
use socket2::Socket;

use crate::engine::{HEADROOM, ReturnedError};
use crate::net::{Endpoint, Family, Inside, MappingId, Outside, TrafficClass, Treatment};

use super::bind::{BindError, Binder, Step, treat};
use super::errqueue;
use super::readiness::Readiness;

/// The largest UDP payload.
const LARGEST: usize = 65_535;

#[derive(Debug)]
struct Binding {
    id: MappingId,
    inside: Inside<Endpoint>,
    socket: Socket,
    family: Family,
    treatment: Treatment,
}

/// The sockets of all mappings.
#[derive(Debug)]
pub struct Relay {
    binder: Option<Binder>,
    bindings: Vec<Option<Binding>>,
    readiness: Readiness,
    buffer: Box<[u8]>,
    control: Vec<u8>,
}

/// What came in through a socket.
#[derive(Debug)]
pub enum Received<'a> {
    /// A datagram: its payload lies at `payload` in `buffer`, behind the engine's headroom.
    Datagram {
        /// The mapping whose socket received it.
        mapping: MappingId,
        /// Who sent it.
        from: Endpoint,
        /// DSCP and ECN as they arrived.
        traffic_class: TrafficClass,
        /// Headroom, payload and more.
        buffer: &'a mut [u8],
        /// Where the payload lies.
        payload: Range<usize>,
    },
    /// An error that the path, or this machine, returned for a datagram of the mapping.
    Error {
        /// The mapping whose datagram it was.
        mapping: MappingId,
        /// What came back.
        returned: ReturnedError<'a>,
    },
}
/// A mapping's socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no uplink to open it on.
    #[error("there is no uplink")]
    NoUplink,
    /// The kernel refused.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// There is no socket for the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mapping has no socket")]
pub struct Closed;

/// A datagram could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no socket for the mapping.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The kernel refused.
    #[error("the kernel refused to send")]
    Refused(#[from] io::Error),
}

impl Relay {
    /// Makes a relay without sockets and without an uplink.
    ///
    /// # Errors
    /// When the kernel gives no epoll set.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            binder: None,
            bindings: Vec::new(),
            readiness: Readiness::new()?,
            buffer: vec![0; HEADROOM + LARGEST].into_boxed_slice(),
            control: nix::cmsg_space!(i32),
        })
    }

    /// Opens the socket of a mapping.
    ///
    /// # Errors
    /// [`OpenError`]; no socket is left over.
    pub fn open(
        &mut self,
        id: MappingId,
        inside: Inside<Endpoint>,
        treatment: Treatment,
    ) -> Result<Outside<Endpoint>, OpenError> {
        let binder = self.binder.as_ref().ok_or(OpenError::NoUplink)?;
        let (socket, outside) = binder.bind(inside, treatment)?;
        // Level-triggered: a socket that was not drained within the budget is found again.
        let watched = self
            .readiness
            .watch(&socket, id.token(), EpollFlags::EPOLLIN);
        watched.map_err(binder.at(Step::Watch))?;
        let slot = id.slot as usize;
        if self.bindings.len() <= slot {
            self.bindings.resize_with(slot + 1, || None);
        }
        let family = Family::of(inside.0.addr);
        self.bindings[slot] = Some(Binding {
            id,
            inside,
            socket,
            family,
            treatment,
        });
        Ok(outside)
    }

    /// Moves every mapping to another uplink: a new socket each, on the same port where that is free. Tells `moved`
    /// what each one came to; who could not be moved has no socket any more.
    pub fn rebind(
        &mut self,
        binder: Binder,
        mut moved: impl FnMut(MappingId, Result<Outside<Endpoint>, OpenError>),
    ) {
        self.binder = Some(binder);
        for slot in 0..self.bindings.len() {
            // The old socket is closed first, so that its port is free.
            if let Some(Binding {
                id,
                inside,
                treatment,
                ..
            }) = self.bindings[slot].take()
            {
                moved(id, self.open(id, inside, treatment));
            }
        }
    }

    /// Closes the socket of a mapping, if it has one. Closing takes it out of the epoll set too.
    pub fn close(&mut self, id: MappingId) {
        if let Some(slot) = self.bindings.get_mut(id.slot as usize)
            && slot.as_ref().is_some_and(|binding| binding.id == id)
        {
            *slot = None;
        }
    }

    /// Sends a datagram.
    ///
    /// A pending error of an earlier datagram makes the kernel refuse the next one without sending it (udp(7)): it
    /// stays in the error queue, and the datagram is tried once more.
    ///
    /// # Errors
    /// [`SendError`]; what the error queue also tells, such as a datagram that is too large, is not an error here.
    pub fn send(
        &mut self,
        id: MappingId,
        to: Endpoint,
        treatment: Treatment,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let binding = binding(&mut self.bindings, id)?;
        if binding.treatment != treatment {
            treat(&binding.socket, binding.family, treatment)?;
            binding.treatment = treatment;
        }
        let to = SocketAddr::from(to).into();
        let sent = match binding.socket.send_to(payload, &to) {
            Err(error) if is_of_an_earlier_datagram(&error) => binding.socket.send_to(payload, &to),
            sent => sent,
        };
        match sent {
            Err(error) if error.raw_os_error() != Some(nix::libc::EMSGSIZE) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Waits until something may have come in.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the runtime cannot watch the epoll set.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.readiness.readable().await
    }

    /// Hands at most `budget` datagrams and errors to `take`, in turns of one per ready socket, so that no socket
    /// starves another. Answers whether the budget ended before the sockets were empty.
    ///
    /// # Errors
    /// When the epoll set cannot be read.
    pub fn receive(
        &mut self,
        budget: usize,
        mut take: impl FnMut(Received<'_>),
    ) -> io::Result<bool> {
        let mut left = budget;
        while left > 0 {
            let count = self.readiness.look()?;
            if count == 0 {
                return Ok(false);
            }
            for at in 0..count.min(left) {
                let (token, flags) = self.readiness.ready(at);
                let id = MappingId::from_token(token);
                let has_error = flags.contains(EpollFlags::EPOLLERR);
                if let Ok(binding) = binding(&mut self.bindings, id) {
                    receive_from(
                        binding,
                        has_error,
                        &mut self.buffer,
                        &mut self.control,
                        &mut take,
                    );
                }
            }
            left = left.saturating_sub(count);
        }
        Ok(true)
    }
}

fn binding(bindings: &mut [Option<Binding>], id: MappingId) -> Result<&mut Binding, Closed> {
    let slot = bindings.get_mut(id.slot as usize).ok_or(Closed)?;
    slot.as_mut()
        .filter(|binding| binding.id == id)
        .ok_or(Closed)
}

/// Takes one entry of the error queue, if there is one, and one datagram.
fn receive_from(
    binding: &Binding,
    has_error: bool,
    buffer: &mut [u8],
    control: &mut [u8],
    take: &mut impl FnMut(Received<'_>),
) {
    let mapping = binding.id;
    if has_error && let Ok(entry) = errqueue::pop(&binding.socket, binding.family, buffer) {
        let errqueue::Entry {
            to,
            offender,
            error,
            length,
        } = entry;
        let returned = ReturnedError {
            to,
            offender,
            error,
            payload: &buffer[..length],
        };
        take(Received::Error { mapping, returned });
    }
    let room = &mut buffer[HEADROOM..];
    let received = match binding.family {
        Family::V4 => datagram::<SockaddrIn>(&binding.socket, room, control),
        Family::V6 => datagram::<SockaddrIn6>(&binding.socket, room, control),
    };
    // Nothing waiting, or an error whose entry in the queue has been or will be taken above.
    let Ok((length, from, traffic_class)) = received else {
        return;
    };
    let payload = HEADROOM..HEADROOM + length;
    take(Received::Datagram {
        mapping,
        from,
        traffic_class,
        buffer,
        payload,
    });
}

fn datagram<A>(
    socket: &Socket,
    room: &mut [u8],
    control: &mut [u8],
) -> io::Result<(usize, Endpoint, TrafficClass)>
where
    A: SockaddrLike + Into<SocketAddr> + Copy,
{
    let mut iov = [IoSliceMut::new(room)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<A>(socket.as_raw_fd(), &mut iov, Some(control), flags)?;
    let from = message.address.ok_or(io::ErrorKind::InvalidData)?;
    let octet = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4Tos(tos) => Some(tos),
        ControlMessageOwned::Ipv6TClass(class) => u8::try_from(class).ok(),
        _ => None,
    });
    let traffic_class = TrafficClass::from_octet(octet.unwrap_or(0));
    Ok((message.bytes, Endpoint::from(from.into()), traffic_class))
}

fn is_of_an_earlier_datagram(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied};
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | NetworkUnreachable | PermissionDenied
    ) || error.raw_os_error() == Some(nix::libc::EPROTO)
}
