//! One accepted connection: the stack's socket towards the application, and the state of the remote.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::time::Instant;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, Socket, SocketBuffer};

use super::stack::Stack;
use crate::engine::Outbox;
use crate::net::Endpoint;

/// Segments that one connection writes at a time: a window of 64 KiB and some more. The others follow acknowledgments, or
/// the next poll.
const BURST: usize = 64;

/// The state of the receiving direction: from the remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RemoteState {
    /// Bytes may arrive.
    Sending,
    /// The remote has no more to send.
    Ended,
    /// The connection broke: the application gets a reset after all data.
    Broken,
}

/// The state of the sending direction: to the remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    /// Bytes may be written.
    Open,
    /// The socket is full; it becomes writable again.
    Blocked,
    /// The socket is shut down for writing.
    Shut,
    /// Writing failed.
    Failed,
}

/// The next action of a session after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SessionActions {
    /// The stream is to be shut down for writing.
    pub(super) shutdown: bool,
    /// Bytes are to be transferred.
    pub(super) pump: bool,
    /// The session has ended.
    pub(super) end: Option<SessionEnd>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// Both sides have sent everything.
    Finished,
    /// The remote's connection broke: the application is to be reset.
    Broken,
}

/// The phase of a session (RFC 5382 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Opening,
    Established,
    HalfClosed,
    Closing,
}

/// Bytes transferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pumped {
    pub(super) out: u64,
    pub(super) inward: u64,
}

#[derive(Debug)]
pub(super) struct Session {
    /// A set of one socket: the stack searches its set for every segment.
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    remote: RemoteState,
    sending: SendState,
    /// Reading stopped because the transmit buffer is full.
    full: bool,
}

impl Session {
    /// Accepts the connection that `syn` opens; `None` if the stack rejects the segment.
    pub(super) fn accept(
        stack: &mut Stack,
        syn: &[u8],
        remote: Endpoint,
        buffer: usize,
        to: IpAddr,
        now: Instant,
        outbox: &mut Outbox,
    ) -> Option<Self> {
        let buffer = || SocketBuffer::new(vec![0; buffer]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(tcp::CongestionControl::Reno);
        // Acknowledgments are delayed to the end of the batch: see the module's documentation.
        socket.set_ack_delay(None);
        socket.listen((remote.addr, remote.port)).ok()?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        stack.receive(&mut sockets, syn, to, now, outbox);
        stack.poll(&mut sockets, BURST, to, now, outbox);
        let session = Self {
            sockets,
            handle,
            remote: RemoteState::Sending,
            sending: SendState::Open,
            full: true,
        };
        (session.state() == tcp::State::SynReceived).then_some(session)
    }

    /// Handles a segment of the application. Returns whether it reset the connection. Output waits for [`Session::poll`].
    pub(super) fn receive(
        &mut self,
        stack: &mut Stack,
        segment: &[u8],
        is_reset: bool,
        to: IpAddr,
        now: Instant,
        outbox: &mut Outbox,
    ) -> bool {
        if self.state() == tcp::State::Closed {
            return false;
        }
        stack.receive(&mut self.sockets, segment, to, now, outbox);
        // A reset of a connection that is not established makes the socket listen again.
        is_reset && matches!(self.state(), tcp::State::Closed | tcp::State::Listen)
    }

    /// Writes pending segments.
    pub(super) fn poll(
        &mut self,
        stack: &mut Stack,
        to: IpAddr,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let burst = match self.state() {
            _ if self.is_draining() => 0,
            // One segment acknowledges everything, and there is no data: see `poll_timeout`.
            tcp::State::FinWait2 => 1,
            _ => BURST,
        };
        stack.poll(&mut self.sockets, burst, to, now, outbox);
    }

    /// Returns when [`Session::poll`] is due.
    ///
    /// Never in FIN-WAIT-2, when everything is acknowledged. The stack's window probe timer may still run and always be due
    /// if that acknowledgment closed the window (smoltcp 0.14).
    pub(super) fn poll_timeout(&self, stack: &mut Stack, now: Instant) -> Option<Instant> {
        match self.state() {
            _ if self.is_draining() => None,
            tcp::State::FinWait2 => None,
            _ => stack.poll_timeout(&self.sockets, now),
        }
    }

    /// Resets the connection towards the application.
    pub(super) fn abort(
        &mut self,
        stack: &mut Stack,
        to: IpAddr,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        self.socket_mut().abort();
        stack.poll(&mut self.sockets, BURST, to, now, outbox);
    }

    /// Transfers bytes in both directions until either side would block.
    pub(super) fn pump(&mut self, stream: &mut (impl Read + Write)) -> Pumped {
        let out = self.pump_out(stream);
        let inward = self.pump_in(stream);
        Pumped { out, inward }
    }

    fn pump_out(&mut self, stream: &mut impl Write) -> u64 {
        let socket = self.sockets.get_mut::<Socket<'static>>(self.handle);
        let mut pumped = 0;
        if self.sending == SendState::Blocked {
            self.sending = SendState::Open;
        }
        while socket.can_recv() {
            let written = socket.recv(|bytes| match self.sending {
                // Bytes that cannot be written are discarded, so that the application can finish.
                SendState::Failed => (bytes.len(), Ok(0)),
                _ => match stream.write(bytes) {
                    Ok(count) => (count, Ok(count)),
                    Err(error) => (0, Err(error.kind())),
                },
            });
            match written.expect("the receive buffer is not empty") {
                Ok(0) if self.sending == SendState::Failed => {}
                Ok(0) | Err(io::ErrorKind::WouldBlock) => {
                    self.sending = SendState::Blocked;
                    break;
                }
                Ok(count) => pumped += count as u64,
                Err(io::ErrorKind::Interrupted) => {}
                Err(_) => self.sending = SendState::Failed,
            }
        }
        pumped
    }

    fn pump_in(&mut self, stream: &mut impl Read) -> u64 {
        let socket = self.sockets.get_mut::<Socket<'static>>(self.handle);
        let mut pumped = 0;
        while self.remote == RemoteState::Sending && socket.can_send() {
            let read = socket.send(|buffer| match stream.read(buffer) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error.kind())),
            });
            match read.expect("the transmit buffer is not full") {
                // An end of the stream after a failed write follows a reset.
                Ok(0) if self.sending == SendState::Failed => self.remote = RemoteState::Broken,
                Ok(0) => {
                    self.remote = RemoteState::Ended;
                    socket.close();
                }
                Ok(count) => pumped += count as u64,
                Err(io::ErrorKind::Interrupted) => {}
                Err(io::ErrorKind::WouldBlock) => break,
                Err(_) => self.remote = RemoteState::Broken,
            }
        }
        if self.remote == RemoteState::Ended {
            // A reset may follow the end of the stream.
            match stream.read(&mut [0]) {
                Err(error) if !is_transient(error.kind()) => self.remote = RemoteState::Broken,
                _ if self.sending == SendState::Failed => self.remote = RemoteState::Broken,
                _ => {}
            }
        }
        self.full = self.remote == RemoteState::Sending && !socket.can_send();
        pumped
    }

    /// Returns the next action of the session.
    pub(super) fn next_actions(&mut self) -> SessionActions {
        let socket = self.sockets.get::<Socket<'static>>(self.handle);
        let state = socket.state();
        let drained = !socket.can_recv();
        let ended = matches!(
            state,
            tcp::State::CloseWait
                | tcp::State::LastAck
                | tcp::State::Closing
                | tcp::State::TimeWait
                | tcp::State::Closed
        );
        let shutdown =
            ended && drained && matches!(self.sending, SendState::Open | SendState::Blocked);
        let can_write = !drained && self.sending != SendState::Blocked;
        let can_read = self.full && self.remote == RemoteState::Sending && socket.can_send();
        let end = match state {
            tcp::State::Closed | tcp::State::TimeWait if drained => Some(SessionEnd::Finished),
            _ if self.remote == RemoteState::Broken && socket.send_queue() == 0 => {
                Some(SessionEnd::Broken)
            }
            _ => None,
        };
        if shutdown {
            self.sending = SendState::Shut;
        }
        SessionActions {
            shutdown,
            pump: can_write || can_read,
            end,
        }
    }

    pub(super) fn stage(&self) -> Stage {
        use tcp::State;
        match self.state() {
            State::Listen | State::SynSent | State::SynReceived => Stage::Opening,
            State::Established => Stage::Established,
            State::CloseWait | State::FinWait1 | State::FinWait2 => Stage::HalfClosed,
            State::Closing | State::LastAck | State::TimeWait | State::Closed => Stage::Closing,
        }
    }

    fn state(&self) -> tcp::State {
        self.sockets.get::<Socket<'static>>(self.handle).state()
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Whether both sides have ended and bytes for the remote remain. The stack would discard them at the end of TIME-WAIT,
    /// so it is not polled meanwhile.
    fn is_draining(&self) -> bool {
        let socket = self.sockets.get::<Socket<'static>>(self.handle);
        socket.state() == tcp::State::TimeWait && socket.can_recv()
    }
}

fn is_transient(error: io::ErrorKind) -> bool {
    matches!(
        error,
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
