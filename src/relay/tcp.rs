//! The TCP relay: the sockets of connections.
//!
//! # Theory of operation
//!
//! A socket is in the epoll set, edge-triggered for reading and writing, from the start of `connect` until it is closed. The
//! stream keeps its readiness, so that a read or write that would block needs no system call. A stream that the engine does
//! not read because of a closed window causes no further events.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::EpollFlags;
use socket2::Socket;

use crate::engine::ConnectError;
use crate::net::{ConnectionId, Egress, Endpoint, Family, Inside, PerFamily, Treatment};

use super::epoll_set::EpollSet;
use super::error::{SocketOpenError, to_connect_error};
use super::ipsec_bypass::IpsecBypass;
use super::socket_factory::{SetupStep, SocketFactories};
use super::socket_option;

/// The non-blocking socket of a connection.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent fact from the kernel"
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
    factories: SocketFactories,
    ipsec_bypass: IpsecBypass,
    streams: Vec<Option<ConnectionStream>>,
    /// Streams ready to be pumped, in order.
    ready: VecDeque<ConnectionId>,
    epoll_set: EpollSet,
}

/// A change of a socket's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The remote accepted.
    Connected,
    /// The attempt to connect failed; the socket is closed.
    Failed(ConnectError),
    /// The stream is readable, writable or broken.
    Ready,
}

impl TcpRelay {
    /// Creates a relay without sockets and without an uplink.
    ///
    /// # Errors
    /// If the kernel refuses an epoll set.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            factories: SocketFactories::default(),
            ipsec_bypass: IpsecBypass::default(),
            streams: Vec::new(),
            ready: VecDeque::new(),
            epoll_set: EpollSet::new()?,
        })
    }

    /// Opens later sockets on other uplinks. Open ones stay: a TCP connection cannot move.
    pub fn rebind(&mut self, factories: SocketFactories) {
        self.factories = factories;
    }

    /// Sets the families whose direct sockets bypass IPsec: new sockets at once, open ones by
    /// [`TcpRelay::bypass_next_batch`]. A bypass is never removed from a socket.
    pub fn set_ipsec_bypass(&mut self, families: PerFamily<bool>) {
        self.ipsec_bypass.set(families, self.streams.len());
    }

    /// Whether open sockets still lack their IPsec bypass.
    #[must_use]
    pub fn is_bypass_pending(&self) -> bool {
        self.ipsec_bypass.is_pending()
    }

    /// Sets the IPsec bypass of the next open sockets: a bounded number.
    pub fn bypass_next_batch(&mut self) {
        for slot in self.ipsec_bypass.batch() {
            let stream = self.streams[slot].as_mut();
            let Some(stream) =
                stream.filter(|it| it.egress == Egress::Direct && !it.bypasses_ipsec)
            else {
                continue;
            };
            let family = Family::of(stream.inside.0.addr);
            if self.ipsec_bypass.applies_to(family) {
                stream.bypasses_ipsec = socket_option::bypass_ipsec(&stream.socket, family).is_ok();
            }
        }
    }

    /// Starts to connect to the remote of a connection. Connections of one inside endpoint and egress share one outside port,
    /// whatever their remote (RFC 5382 REQ-1). An earlier attempt for the same connection ends.
    ///
    /// # Errors
    /// [`SocketOpenError`]; no socket remains.
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
        let factory = self.factories[family].as_ref();
        let factory = factory.ok_or(SocketOpenError::NoUplink)?;
        let bypasses_ipsec = self.ipsec_bypass.applies_to(family);
        let port = self.outside_port(egress, inside);
        let socket = factory.open_tcp(egress, to, port, treatment, bypasses_ipsec)?;
        let everything = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll_set
            .watch(&socket, id.token(), everything)
            .map_err(factory.at(SetupStep::Watch))?;
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

    /// Returns the outside port of an inside endpoint's connections with this egress.
    fn outside_port(&self, egress: Egress, inside: Inside<Endpoint>) -> Option<u16> {
        let mut streams = self.streams.iter().flatten();
        let stream = streams.find(|stream| (stream.egress, stream.inside) == (egress, inside))?;
        Some(stream.socket.local_addr().ok()?.as_socket()?.port())
    }

    /// Returns the stream of a connection, unless it is closed.
    pub fn stream(&mut self, id: ConnectionId) -> Option<&mut ConnectionStream> {
        let stream = self.streams.get_mut(id.slot as usize)?.as_mut();
        stream.filter(|stream| stream.id == id && stream.is_connected)
    }

    /// Queues a stream to be pumped, unless it is queued.
    pub fn enqueue_ready(&mut self, id: ConnectionId) {
        if let Some(stream) = self.stream(id)
            && !std::mem::replace(&mut stream.is_queued, true)
        {
            self.ready.push_back(id);
        }
    }

    /// Removes the first stream from the queue.
    pub fn next_ready(&mut self) -> Option<(ConnectionId, &mut ConnectionStream)> {
        // Streams that were closed meanwhile are skipped.
        let id = loop {
            let id = self.ready.pop_front()?;
            if self.stream(id).is_some() {
                break id;
            }
        };
        let stream = self.stream(id)?;
        stream.is_queued = false;
        Some((id, stream))
    }

    /// Whether a stream is queued to be pumped.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Shuts a stream down for writing.
    pub fn shutdown(&mut self, id: ConnectionId) {
        if let Some(stream) = self.stream(id) {
            // Fails only if the connection is gone, which the stream reports.
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
            // If that fails, the connection is closed in order instead.
            let _ = stream.socket.set_linger(Some(Duration::ZERO));
        }
    }

    /// Passes changes to `on_progress` until no socket is ready, or `budget` events were read.
    ///
    /// # Errors
    /// If the epoll set cannot be read.
    pub fn progress(
        &mut self,
        budget: usize,
        mut on_progress: impl FnMut(&mut Self, ConnectionId, Progress),
    ) -> io::Result<()> {
        let mut read = 0;
        while read < budget {
            let count = self.epoll_set.poll()?;
            if count == 0 {
                break;
            }
            for at in 0..count {
                let (token, flags) = self.epoll_set.ready(at);
                let id = ConnectionId::from_token(token);
                if let Some(progress) = self.record_event(id, flags) {
                    on_progress(self, id, progress);
                }
            }
            read += count;
        }
        Ok(())
    }

    /// Records a socket's readiness.
    fn record_event(&mut self, id: ConnectionId, flags: EpollFlags) -> Option<Progress> {
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
                Some(Progress::Failed(to_connect_error(&error)))
            }
            Err(error) => {
                *slot = None;
                Some(Progress::Failed(to_connect_error(&error)))
            }
        }
    }
}

/// Readable while a socket has an event.
impl AsFd for TcpRelay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll_set.as_fd()
    }
}

impl Read for ConnectionStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_readable {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let read = (&self.socket).read(buffer);
        match &read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_readable = false,
            // The kernel reports a reset after the end of the stream only here.
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
