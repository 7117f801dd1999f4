//! The sockets of TCP connections: connected, handed out as streams, closed.
//!
//! # Theory of operation
//!
//! A socket is watched edge-triggered and for everything at once, from the moment it begins to connect until it is
//! closed; what it is ready for is remembered here. So readiness costs no call of the kernel: a stream that is known to
//! be empty or full says so by itself, and one that the engine leaves alone because a window is closed stays silent,
//! until either side moves.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use socket2::Socket;

use crate::engine::ConnectError;
use crate::net::{ConnectionId, Egress, Endpoint, Family, Inside, PerFamily, Treatment};

use super::epoll_set::EpollSet;
use super::error;
use super::ipsec_bypass::IpsecBypass;
use super::socket_factory::{SetupStep, SocketFactories};
use super::socket_option;
use super::udp::SocketOpenError;

/// The socket of a connection, to be read and written without blocking.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, as the kernel tells them"
)]
pub struct ConnectionStream {
    id: ConnectionId,
    egress: Egress,
    inside: Inside<Endpoint>,
    socket: Socket,
    bypasses_ipsec: bool,
    is_connected: bool,
    is_queued: bool,
    is_readable: bool,
    is_writable: bool,
}

/// The sockets of all TCP connections.
#[derive(Debug)]
pub struct TcpRelay {
    binders: SocketFactories,
    exempt: IpsecBypass,
    streams: Vec<Option<ConnectionStream>>,
    /// Those that are to be carried, in the order in which they asked.
    line: VecDeque<ConnectionId>,
    readiness: EpollSet,
}

/// How a socket got on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The far side accepted.
    Connected,
    /// The far side was not reached; the socket is closed.
    Failed(ConnectError),
    /// The stream may be read or written again, or is broken.
    Ready,
}

impl TcpRelay {
    /// Makes a relay without sockets and without an uplink.
    ///
    /// # Errors
    /// When the kernel gives no epoll set.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            binders: SocketFactories::default(),
            exempt: IpsecBypass::default(),
            streams: Vec::new(),
            line: VecDeque::new(),
            readiness: EpollSet::new()?,
        })
    }

    /// Makes all sockets from now on on other uplinks. Those that are open stay where they are: a TCP connection cannot
    /// move.
    pub fn rebind(&mut self, binders: SocketFactories) {
        self.binders = binders;
    }

    /// Exempts the direct sockets of these families from IPsec policies: new ones at once, and those that are open with
    /// [`TcpRelay::bypass_next_batch`]. Who is exempt stays so.
    pub fn exempt(&mut self, families: PerFamily<bool>) {
        self.exempt.set(families, self.streams.len());
    }

    /// Whether sockets are still to be exempted.
    #[must_use]
    pub fn is_bypass_pending(&self) -> bool {
        self.exempt.is_stale()
    }

    /// Exempts the next sockets: a bounded number.
    pub fn bypass_next_batch(&mut self) {
        for slot in self.exempt.batch() {
            let stream = self.streams[slot].as_mut();
            let Some(stream) =
                stream.filter(|it| it.egress == Egress::Direct && !it.bypasses_ipsec)
            else {
                continue;
            };
            let family = Family::of(stream.inside.0.addr);
            if self.exempt.has(family) {
                stream.bypasses_ipsec = socket_option::bypass_ipsec(&stream.socket, family).is_ok();
            }
        }
    }

    /// Begins to connect to the far side of a connection. While connections of an inside endpoint stand, those of the same
    /// way share one port outside, whomever they go to (RFC 5382 REQ-1). An earlier attempt for the same connection is over.
    ///
    /// # Errors
    /// [`SocketOpenError`], which [`ConnectError`] can be made of; no socket is left over.
    pub fn connect(
        &mut self,
        id: ConnectionId,
        egress: Egress,
        inside: Inside<Endpoint>,
        to: Endpoint,
        treatment: Treatment,
    ) -> Result<(), SocketOpenError> {
        self.disconnect(id, true);
        let family = Family::of(to.addr);
        let binder = self.binders[family].as_ref();
        let binder = binder.ok_or(SocketOpenError::NoUplink)?;
        let bypasses_ipsec = self.exempt.has(family);
        let port = self.port_of(egress, inside);
        let socket = binder.connect(egress, to, port, treatment, bypasses_ipsec)?;
        let everything = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.readiness
            .watch(&socket, id.token(), everything)
            .map_err(binder.at(SetupStep::Watch))?;
        let slot = id.slot as usize;
        if self.streams.len() <= slot {
            self.streams.resize_with(slot + 1, || None);
        }
        self.streams[slot] = Some(ConnectionStream {
            id,
            egress,
            inside,
            socket,
            bypasses_ipsec,
            is_connected: false,
            is_queued: false,
            is_readable: false,
            is_writable: false,
        });
        Ok(())
    }

    /// The port that an inside endpoint has outside, that way, if a connection of it stands.
    fn port_of(&self, egress: Egress, inside: Inside<Endpoint>) -> Option<u16> {
        let mut streams = self.streams.iter().flatten();
        let stream = streams.find(|stream| (stream.egress, stream.inside) == (egress, inside))?;
        Some(stream.socket.local_addr().ok()?.as_socket()?.port())
    }

    /// The stream of a connection, unless it has been closed.
    pub fn stream(&mut self, id: ConnectionId) -> Option<&mut ConnectionStream> {
        let stream = self.streams.get_mut(id.slot as usize)?.as_mut();
        stream.filter(|stream| stream.id == id && stream.is_connected)
    }

    /// Puts a stream in line to be carried, unless it stands there.
    pub fn enqueue_ready(&mut self, id: ConnectionId) {
        if let Some(stream) = self.stream(id)
            && !std::mem::replace(&mut stream.is_queued, true)
        {
            self.line.push_back(id);
        }
    }

    /// The stream that has stood in line for longest; it stands there no more.
    pub fn next_ready(&mut self) -> Option<(ConnectionId, &mut ConnectionStream)> {
        // Who was closed meanwhile is passed over.
        let id = loop {
            let id = self.line.pop_front()?;
            if self.stream(id).is_some() {
                break id;
            }
        };
        let stream = self.stream(id)?;
        stream.is_queued = false;
        Some((id, stream))
    }

    /// Whether a stream stands in line.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.line.is_empty()
    }

    /// Tells the far side that there is no more to come.
    pub fn shutdown(&mut self, id: ConnectionId) {
        if let Some(stream) = self.stream(id) {
            // It fails only on a connection that is gone, and then the stream will say so.
            let _ = stream.socket.shutdown(Shutdown::Write);
        }
    }

    /// Closes the socket of a connection, in order or with a reset.
    pub fn disconnect(&mut self, id: ConnectionId, reset: bool) {
        let Some(slot) = self.streams.get_mut(id.slot as usize) else {
            return;
        };
        let Some(stream) = slot.take_if(|stream| stream.id == id) else {
            return;
        };
        if reset {
            // Without it the close is an orderly one: not right, but nothing that could be mended.
            let _ = stream.socket.set_linger(Some(Duration::ZERO));
        }
    }

    /// Tells `take` what happened to whom, until the sockets are quiet or at least `budget` have been named.
    ///
    /// # Errors
    /// When the epoll set cannot be read.
    pub fn progress(
        &mut self,
        budget: usize,
        mut take: impl FnMut(&mut Self, ConnectionId, Progress),
    ) -> io::Result<()> {
        let mut named = 0;
        while named < budget {
            let count = self.readiness.look()?;
            if count == 0 {
                break;
            }
            for at in 0..count {
                let (token, flags) = self.readiness.ready(at);
                let id = ConnectionId::from_token(token);
                if let Some(progress) = self.observe(id, flags) {
                    take(self, id, progress);
                }
            }
            named += count;
        }
        Ok(())
    }

    /// Notes what a socket is ready for.
    fn observe(&mut self, id: ConnectionId, flags: EpollFlags) -> Option<Progress> {
        let slot = self.streams.get_mut(id.slot as usize)?;
        let stream = slot.as_mut().filter(|stream| stream.id == id)?;
        let is_broken = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        stream.is_readable |= is_broken || flags.contains(EpollFlags::EPOLLIN);
        stream.is_writable |= is_broken || flags.contains(EpollFlags::EPOLLOUT);
        if stream.is_connected {
            return Some(Progress::Ready);
        }
        match stream.socket.take_error() {
            Ok(None) if stream.is_writable && !is_broken => {
                stream.is_connected = true;
                Some(Progress::Connected)
            }
            Ok(None) if !is_broken => None,
            Ok(error) => {
                *slot = None;
                let error = error.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into());
                Some(Progress::Failed(to_icmp_error(&error)))
            }
            Err(error) => {
                *slot = None;
                Some(Progress::Failed(to_icmp_error(&error)))
            }
        }
    }
}

/// Readable while a socket has something to say.
impl AsFd for TcpRelay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }
}

impl Read for ConnectionStream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if !self.is_readable {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let read = (&self.socket).read(room);
        match &read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_readable = false,
            // Behind the end the kernel hides a reset that came after it.
            Ok(0) => {
                self.is_readable = false;
                if let Some(error) = self.socket.take_error()? {
                    return Err(error);
                }
            }
            _ => {}
        }
        read
    }
}

impl Write for ConnectionStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_writable {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let written = (&self.socket).write(bytes);
        if matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.is_writable = false;
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<&SocketOpenError> for ConnectError {
    fn from(error: &SocketOpenError) -> Self {
        match error {
            SocketOpenError::NoUplink => Self::Unreachable(error.to_icmp_error()),
            SocketOpenError::Bind(error) => to_icmp_error(&error.source),
        }
    }
}

/// What became of the attempt to connect, in the application's eyes.
fn to_icmp_error(error: &io::Error) -> ConnectError {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::ECONNREFUSED | Errno::ECONNRESET => ConnectError::Refused,
        Errno::ETIMEDOUT => ConnectError::TimedOut,
        _ => error::to_icmp_error(error).map_or(ConnectError::Exhausted, ConnectError::Unreachable),
    }
}
