//! One accepted connection: the stack's socket on the application's side, and what is known of the far side.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::time::Instant;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, Socket, SocketBuffer};

use super::link::Stack;
use crate::engine::Outbox;
use crate::net::Endpoint;

/// Segments that one connection writes at a time: a window of 64 KiB and a little more. What is left goes when the
/// application has acknowledged some, or a moment later.
const BURST: usize = 64;

/// What still comes from the far side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RemoteState {
    /// Bytes may come.
    Sending,
    /// It has no more to send.
    Ended,
    /// Its connection broke: the application gets a reset once it has everything that came before.
    Broken,
}

/// What still goes to the far side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    /// Bytes may go.
    Open,
    /// The far side takes no more at the moment: its socket will say when it does.
    Blocked,
    /// The application has no more to send, and the far side knows.
    Shut,
    /// The far side takes nothing ever again.
    Failed,
}

/// What is to be done about a session after something happened to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SessionActions {
    /// The far side is to be told that the application has no more to send.
    pub(super) shutdown: bool,
    /// The stream is to be handed in.
    pub(super) carry: bool,
    /// The session is over.
    pub(super) over: Option<SessionEnd>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// Both sides have sent everything.
    Finished,
    /// The far side's connection broke, and the application has to be told.
    Broken,
}

/// How far along a session is, as RFC 5382 section 5 tells phases apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Opening,
    Established,
    HalfClosed,
    Closing,
}

/// Bytes that were carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pumped {
    pub(super) out: u64,
    pub(super) inward: u64,
}

#[derive(Debug)]
pub(super) struct Session {
    /// A set of one: the stack searches its set for every segment, we know whose it is.
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    far: RemoteState,
    outward: SendState,
    /// Reading stopped because the application has to take something first.
    full: bool,
}

impl Session {
    /// Accepts the connection that `syn` asks for; `None` when the stack finds fault with it.
    pub(super) fn accept(
        stack: &mut Stack,
        syn: &[u8],
        remote: Endpoint,
        buffer: usize,
        to: IpAddr,
        now: Instant,
        outbox: &mut Outbox,
    ) -> Option<Self> {
        let room = || SocketBuffer::new(vec![0; buffer]);
        let mut socket = Socket::new(room(), room());
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(tcp::CongestionControl::Reno);
        // Acknowledgments wait for the end of the batch already: see `Engine::handle_segment`.
        socket.set_ack_delay(None);
        socket.listen((remote.addr, remote.port)).ok()?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        stack.take(&mut sockets, syn, to, now, outbox);
        stack.poll(&mut sockets, BURST, to, now, outbox);
        let session = Self {
            sockets,
            handle,
            far: RemoteState::Sending,
            outward: SendState::Open,
            full: true,
        };
        (session.state() == tcp::State::SynReceived).then_some(session)
    }

    /// Takes a segment of the application, and answers whether it reset the connection. What is to be written waits for
    /// [`Session::poll`].
    pub(super) fn take(
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
        stack.take(&mut self.sockets, segment, to, now, outbox);
        // A reset of a connection that was not fully open makes the socket listen again.
        is_reset && matches!(self.state(), tcp::State::Closed | tcp::State::Listen)
    }

    /// Writes what is to be written.
    pub(super) fn poll(
        &mut self,
        stack: &mut Stack,
        to: IpAddr,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let burst = match self.state() {
            _ if self.waits() => 0,
            // One acknowledges everything, and there is nothing else to say: see `poll_timeout`.
            tcp::State::FinWait2 => 1,
            _ => BURST,
        };
        stack.poll(&mut self.sockets, burst, to, now, outbox);
    }

    /// When [`Session::poll`] has something to do next.
    ///
    /// Once everything we said is acknowledged, nothing. The stack may think otherwise: when the acknowledgment closed
    /// the window too, its timer of window probes is left running and always due (smoltcp 0.14).
    pub(super) fn poll_timeout(&self, stack: &mut Stack, now: Instant) -> Option<Instant> {
        match self.state() {
            _ if self.waits() => None,
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

    /// Carries bytes both ways as far as both sides take them.
    pub(super) fn carry(&mut self, stream: &mut (impl Read + Write)) -> Pumped {
        let out = self.carry_out(stream);
        let inward = self.carry_in(stream);
        Pumped { out, inward }
    }

    fn carry_out(&mut self, stream: &mut impl Write) -> u64 {
        let socket = self.sockets.get_mut::<Socket<'static>>(self.handle);
        let mut carried = 0;
        if self.outward == SendState::Blocked {
            self.outward = SendState::Open;
        }
        while socket.can_recv() {
            let taken = socket.recv(|bytes| match self.outward {
                // What nobody takes makes room, so that the application gets to its end.
                SendState::Failed => (bytes.len(), Ok(0)),
                _ => match stream.write(bytes) {
                    Ok(count) => (count, Ok(count)),
                    Err(error) => (0, Err(error.kind())),
                },
            });
            match taken.expect("there is something to receive") {
                Ok(0) if self.outward == SendState::Failed => {}
                Ok(0) | Err(io::ErrorKind::WouldBlock) => {
                    self.outward = SendState::Blocked;
                    break;
                }
                Ok(count) => carried += count as u64,
                Err(io::ErrorKind::Interrupted) => {}
                Err(_) => self.outward = SendState::Failed,
            }
        }
        carried
    }

    fn carry_in(&mut self, stream: &mut impl Read) -> u64 {
        let socket = self.sockets.get_mut::<Socket<'static>>(self.handle);
        let mut carried = 0;
        while self.far == RemoteState::Sending && socket.can_send() {
            let read = socket.send(|room| match stream.read(room) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error.kind())),
            });
            match read.expect("there is room to send") {
                // An end after a failed write is what is left of a reset.
                Ok(0) if self.outward == SendState::Failed => self.far = RemoteState::Broken,
                Ok(0) => {
                    self.far = RemoteState::Ended;
                    socket.close();
                }
                Ok(count) => carried += count as u64,
                Err(io::ErrorKind::Interrupted) => {}
                Err(io::ErrorKind::WouldBlock) => break,
                Err(_) => self.far = RemoteState::Broken,
            }
        }
        if self.far == RemoteState::Ended {
            // A reset may follow the end.
            match stream.read(&mut [0]) {
                Err(error) if !is_transient(error.kind()) => self.far = RemoteState::Broken,
                _ if self.outward == SendState::Failed => self.far = RemoteState::Broken,
                _ => {}
            }
        }
        self.full = self.far == RemoteState::Sending && !socket.can_send();
        carried
    }

    /// What is to be done now.
    pub(super) fn needs(&mut self) -> SessionActions {
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
            ended && drained && matches!(self.outward, SendState::Open | SendState::Blocked);
        let can_write = !drained && self.outward != SendState::Blocked;
        let can_read = self.full && self.far == RemoteState::Sending && socket.can_send();
        let over = match state {
            tcp::State::Closed | tcp::State::TimeWait if drained => Some(SessionEnd::Finished),
            _ if self.far == RemoteState::Broken && socket.send_queue() == 0 => {
                Some(SessionEnd::Broken)
            }
            _ => None,
        };
        if shutdown {
            self.outward = SendState::Shut;
        }
        SessionActions {
            shutdown,
            carry: can_write || can_read,
            over,
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

    /// Whether both ends are said and only the far side has still to take bytes. The stack would forget them at the end
    /// of TIME-WAIT, so it is not asked meanwhile.
    fn waits(&self) -> bool {
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
