//! TCP: a transparent proxy with a TCP stack in memory towards the application.
//!
//! # Theory of operation
//!
//! A socket of smoltcp terminates the application's connection. An ordinary TCP socket of the driver, bound to the uplink,
//! carries its bytes to the remote. The application sees the same as without voicelane. Bytes wait only in the
//! windows of the two connections. The cost of a connection does not depend on their number.
//!
//! ```text
//! SYN                 held                        -> SocketCommand::Connect
//! handle_connected    SYN is passed to the stack  -> SYN-ACK: no connection before the remote accepted
//! handle_connect_failed                           -> RST, ICMP error or nothing, as the remote did
//! segments            passed to the stack         -> SocketCommand::Pump   bytes to write, or room to read
//! handle_stream       receive buffer -> stream, stream -> transmit buffer, then one segment with ACK, window and data
//! FIN                 once all is written         -> SocketCommand::Shutdown
//! end of the stream   FIN, after all data
//! RST                                             -> SocketCommand::Disconnect { reset: true }
//! broken stream       RST, once the application has received all data
//! ```
//!
//! **Backpressure.** The stream is read only into free transmit buffer and written only from the receive buffer. A slow
//! reader on either side closes the other side's window, and nothing grows.
//!
//! **Batches.** Until the driver has executed a `Pump`, segments are received without an answer. One acknowledgment then
//! covers the batch, with the window after the bytes were written.
//!
//! **Socket sets.** Each session has a socket set of its own, found by its endpoints, because the stack searches its set
//! for every segment. The wire module computes checksums in both directions.
//!
//! **No TIME-WAIT.** The TUN neither delays nor duplicates, so a finished session is removed at once.
//!
//! **Timers** (RFC 5382 REQ-5): an idle connection ends after 2 h 4 min if it is established or half closed, otherwise
//! after 4 min. The stack does retransmissions and window probes.

mod report;
mod session;
mod stack;
mod table;

use std::io::{Read, Write};
use std::ops::Range;
use std::time::{Duration, Instant};

use self::session::{Session, SessionEnd, Stage};
use self::stack::Stack;
use self::table::{ConnectionTable, Phase};
use super::{DropReason, Engine, Outbox, SocketCommand};
use crate::net::{ConnectionId, Egress, Endpoint, Family, Inside, Protocol, Treatment};
use crate::policy::Action;
use crate::wire::{IcmpError, Packet, reply, tcp};

pub use self::report::{ConnectError, ConnectionReport, ConnectionState, TcpCounters};

/// The shortest interval between two polls of a connection: the resolution of the stack's clock.
const TICK: Duration = Duration::from_millis(1);

/// Settings of the TCP proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one inside address.
    pub connections_of_address: usize,
    /// The buffer of a connection in each direction, in bytes; also the window that the application sees.
    pub buffer: usize,
    /// The idle timeout of an established or half-closed connection. RFC 5382 REQ-5: at least 2 h 4 min.
    pub established_idle: Duration,
    /// The idle timeout of an opening or closing connection. RFC 5382 REQ-5: at least 4 min.
    pub transitory_idle: Duration,
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            connections: 4_096,
            connections_of_address: 2_048,
            buffer: 65_536,
            established_idle: Duration::from_mins(124),
            transitory_idle: Duration::from_mins(4),
        }
    }
}

impl TcpSettings {
    /// Returns the idle timeout of a connection in this phase.
    fn lifetime(&self, phase: &Phase) -> Duration {
        match phase {
            Phase::Open(session) => match session.stage() {
                Stage::Established | Stage::HalfClosed => self.established_idle,
                Stage::Opening | Stage::Closing => self.transitory_idle,
            },
            Phase::Connecting { .. } => self.transitory_idle,
        }
    }
}

/// The state of all connections.
#[derive(Debug)]
pub(super) struct TcpProxy {
    settings: TcpSettings,
    stack: Stack,
    table: ConnectionTable,
}

impl TcpProxy {
    pub(super) fn new(settings: TcpSettings) -> Self {
        Self {
            settings,
            stack: Stack::new(),
            table: ConnectionTable::default(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.table.poll_timeout()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn slots(&self) -> usize {
        self.table.slots()
    }
}

/// The TCP half of the engine.
impl Engine {
    /// Reports the TCP connections in a range of slots; see [`Engine::mapping_reports`].
    pub fn connection_reports(
        &self,
        slots: Range<usize>,
        now: Instant,
    ) -> impl Iterator<Item = ConnectionReport> {
        let connections = self.tcp.table.within(slots);
        connections.map(move |(id, connection)| ConnectionReport {
            id,
            inside: connection.inside,
            remote: connection.remote,
            state: match &connection.phase {
                Phase::Connecting { .. } => ConnectionState::Connecting,
                Phase::Open(session) => session.stage().into(),
            },
            bytes_out: connection.bytes_out,
            bytes_in: connection.bytes_in,
            age: now.saturating_duration_since(connection.created),
            idle: now.saturating_duration_since(connection.refreshed),
        })
    }

    /// Sets the TCP proxy's settings. To be called before the first packet.
    #[must_use]
    pub fn with_tcp(mut self, settings: TcpSettings) -> Self {
        self.tcp = TcpProxy::new(settings);
        self
    }

    /// Records another uplink for the families that `moves` selects. Nothing more may be sent by a former socket.
    ///
    /// Each mapping gets another socket: with its next packet, or in a batch of [`Engine::handle_timeout`]. What is known of
    /// the former uplink is forgotten. A TCP connection cannot move: it is reset on both sides. A connection attempt is
    /// repeated when the application repeats its SYN.
    pub fn handle_uplink_changed(
        &mut self,
        moves: impl Fn(Family) -> bool,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        self.reset_families(&moves, now, outbox);
        let connections = self.tcp.table.iter();
        let direct = connections
            .filter(|(_, it)| it.egress == Egress::Direct && moves(Family::of(it.remote.addr)));
        let connections: Vec<_> = direct.map(|(id, _)| id).collect();
        for id in connections {
            self.counters.tcp.revoked += 1;
            self.abort(id, now, outbox);
        }
    }

    /// Handles a TCP segment that an application sent into the TUN.
    pub(super) fn handle_segment(
        &mut self,
        packet: &Packet<'_>,
        segment: tcp::TcpSegment,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let inside = Inside(Endpoint::new(packet.source(), segment.source_port));
        let remote = Endpoint::new(packet.destination(), segment.destination_port);
        if self.policy.evaluate(Protocol::Tcp, remote).action == Action::Tunnel {
            let prohibited = IcmpError::AdminProhibited;
            return self.reject(packet, DropReason::NotInPolicy, prohibited, now, outbox);
        }
        let opens = segment.syn && segment.acknowledgment.is_none() && !segment.rst && !segment.fin;
        let Some(id) = self.tcp.table.find(inside, remote) else {
            if opens {
                return self.hold_syn(packet, segment, now, outbox);
            }
            self.counters.drop_out(DropReason::NoConnection);
            return outbox.reset(packet, self.reply_source_of(packet.source()));
        };
        let to = self.reply_source_of(packet.source());
        let TcpProxy { stack, table, .. } = &mut self.tcp;
        let connection = table.get_mut(id).expect("an indexed connection exists");
        let was_reset = match &mut connection.phase {
            Phase::Connecting { syn, sequence } => {
                if opens && *sequence != segment.sequence {
                    // Another connection attempt on the same port.
                    *syn = packet.bytes().into();
                    *sequence = segment.sequence;
                }
                segment.rst
            }
            Phase::Open(session) => {
                connection.refreshed = now;
                session.receive(stack, packet.bytes(), segment.rst, to, now, outbox)
            }
        };
        if was_reset {
            self.counters.tcp.reset_by_application += 1;
            self.disconnect(id, true, outbox);
        } else {
            self.update(id, now, outbox);
        }
    }

    /// Records that the remote accepted: the application's SYN is passed to the stack.
    pub fn handle_connected(&mut self, id: ConnectionId, now: Instant, outbox: &mut Outbox) {
        let Some(connection) = self.tcp.table.get_mut(id) else {
            return;
        };
        let Phase::Connecting { syn, .. } = &connection.phase else {
            return;
        };
        let (inside, remote) = (connection.inside, connection.remote);
        let syn = syn.clone();
        let to = self.reply_source_of(inside.0.addr);
        let TcpProxy {
            stack,
            settings,
            table,
        } = &mut self.tcp;
        let accepted = Session::accept(stack, &syn, remote, settings.buffer, to, now, outbox);
        let Some(session) = accepted else {
            self.counters.drop_out(DropReason::NoConnection);
            return self.disconnect(id, true, outbox);
        };
        let connection = table.get_mut(id).expect("the connection exists");
        connection.phase = Phase::Open(Box::new(session));
        connection.refreshed = now;
        self.counters.tcp.accepted += 1;
        self.update(id, now, outbox);
    }

    /// Handles a failed attempt to connect. An unreachable remote is tried through the VPN, if that is enabled. Otherwise
    /// the application gets the equivalent error.
    pub fn handle_connect_failed(
        &mut self,
        id: ConnectionId,
        error: ConnectError,
        outbox: &mut Outbox,
    ) {
        let is_connecting = self
            .tcp
            .table
            .get_mut(id)
            .is_some_and(|connection| matches!(connection.phase, Phase::Connecting { .. }));
        if !is_connecting {
            return;
        }
        if matches!(error, ConnectError::Unreachable(_)) && self.connect_by_tunnel(id, outbox) {
            return;
        }
        let connection = self.tcp.table.remove(id).expect("the connection exists");
        let Phase::Connecting { syn, .. } = &connection.phase else {
            return;
        };
        let to = self.reply_source_of(connection.inside.0.addr);
        match error {
            ConnectError::Refused => {
                let packet = Packet::parse(syn).expect("the SYN was parsed before");
                outbox.reset(&packet, to);
                self.counters.tcp.refused += 1;
            }
            ConnectError::Unreachable(_) | ConnectError::Exhausted => {
                let error = match error {
                    ConnectError::Unreachable(error) => error,
                    // RFC 5508 REQ-8.
                    _ => IcmpError::AdminProhibited,
                };
                outbox.scratch().extend_from_slice(syn);
                if outbox.icmp(error, connection.remote.addr, to).is_ok() {
                    self.counters.errors_returned += 1;
                }
                self.counters.tcp.unreachable += 1;
            }
            ConnectError::TimedOut => self.counters.tcp.timed_out += 1,
        }
    }

    /// Transfers bytes between the application and `stream` until either would block. `stream` is the connection's
    /// non-blocking socket. Called after a [`SocketCommand::Pump`], and when the socket becomes readable, writable or broken.
    pub fn handle_stream(
        &mut self,
        id: ConnectionId,
        stream: &mut (impl Read + Write),
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let Some(connection) = self.tcp.table.get_mut(id) else {
            return;
        };
        connection.pump_requested = false;
        let Phase::Open(session) = &mut connection.phase else {
            return;
        };
        let pumped = session.pump(stream);
        if pumped.out + pumped.inward > 0 {
            connection.refreshed = now;
        }
        connection.bytes_out += pumped.out;
        connection.bytes_in += pumped.inward;
        self.counters.tcp.bytes_out += pumped.out;
        self.counters.tcp.bytes_in += pumped.inward;
        self.update(id, now, outbox);
    }

    /// Does what is due at `now`: retransmissions, window probes, and the end of idle or revoked connections.
    pub(super) fn handle_connections_due(&mut self, now: Instant, outbox: &mut Outbox) {
        while let Some(id) = self.tcp.table.first_due(now) {
            let connection = self.tcp.table.get_mut(id).expect("a due connection exists");
            let lifetime = self.tcp.settings.lifetime(&connection.phase);
            let is_expired = connection.refreshed + lifetime <= now;
            let is_connecting = matches!(connection.phase, Phase::Connecting { .. });
            let verdict = self.policy.evaluate(Protocol::Tcp, connection.remote);
            let is_unanswered = is_connecting
                && self
                    .paths
                    .settings()
                    .is_some_and(|it| connection.refreshed + it.response_timeout <= now);
            let is_revoked = verdict.action != connection.action;
            if is_unanswered && !is_revoked && !is_expired && self.connect_by_tunnel(id, outbox) {
                self.update(id, now, outbox);
                continue;
            }
            let connection = self.tcp.table.get_mut(id).expect("a due connection exists");
            let counters = &mut self.counters.tcp;
            if is_revoked {
                counters.revoked += 1;
            } else if is_expired && is_connecting {
                counters.timed_out += 1;
            } else if is_expired {
                counters.expired += 1;
            } else {
                connection.pump_requested = false;
                self.update(id, now, outbox);
                continue;
            }
            self.abort(id, now, outbox);
        }
    }

    /// Schedules every connection that the policy no longer relays for the next [`Engine::handle_timeout`].
    pub(super) fn revoke_connections(&mut self) {
        let action = |remote| self.policy.evaluate(Protocol::Tcp, remote).action;
        let connections = self.tcp.table.iter();
        let connections = connections.filter(|(_, it)| action(it.remote) != it.action);
        let due: Vec<_> = connections.map(|(id, it)| (id, it.created)).collect();
        for (id, overdue) in due {
            self.tcp.table.schedule(id, overdue);
        }
    }

    /// Holds the SYN of a new connection, and requests a connection to the remote.
    fn hold_syn(
        &mut self,
        packet: &Packet<'_>,
        segment: tcp::TcpSegment,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if !reply::may_answer(packet) {
            return self.counters.drop_out(DropReason::Martian);
        }
        if packet.hop_limit() <= 1 {
            let expired = IcmpError::HopLimitExceeded;
            return self.reject(packet, DropReason::HopLimitExceeded, expired, now, outbox);
        }
        let TcpProxy {
            settings, table, ..
        } = &mut self.tcp;
        let limit = if table.len() >= settings.connections {
            Some(DropReason::TooManyConnections)
        } else {
            let is_full = table.of_address(packet.source()) >= settings.connections_of_address;
            is_full.then_some(DropReason::TooManyConnectionsOfAddress)
        };
        if let Some(limit) = limit {
            let prohibited = IcmpError::AdminProhibited;
            return self.reject(packet, limit, prohibited, now, outbox);
        }
        let inside = Inside(Endpoint::new(packet.source(), segment.source_port));
        let to = Endpoint::new(packet.destination(), segment.destination_port);
        let held = Phase::Connecting {
            syn: packet.bytes().into(),
            sequence: segment.sequence,
        };
        let verdict = self.policy.evaluate(Protocol::Tcp, to);
        let (egress, treatment) = match verdict.action {
            Action::Relay if self.paths.is_down(Family::of(to.addr)) => {
                (Egress::Tunnel, verdict.treatment)
            }
            Action::Relay => (Egress::Direct, verdict.treatment),
            // Captured with its prefix: it keeps its own code point in the VPN.
            _ => (Egress::Tunnel, Treatment::of(packet.traffic_class().dscp)),
        };
        let timeout = self.paths.settings().map(|it| it.response_timeout);
        let timeout = timeout.unwrap_or(settings.transitory_idle);
        let due = now + timeout.min(settings.transitory_idle);
        let connection = table.insert(inside, to, (verdict.action, egress), held, now, due);
        outbox.command(SocketCommand::Connect {
            connection,
            egress,
            inside,
            to,
            treatment,
        });
    }

    /// Requests a connection through the VPN, if failover is enabled and this was not tried yet. Returns whether it did.
    fn connect_by_tunnel(&mut self, id: ConnectionId, outbox: &mut Outbox) -> bool {
        let Some(connection) = self.tcp.table.get_mut(id) else {
            return false;
        };
        if connection.egress == Egress::Tunnel || self.paths.settings().is_none() {
            return false;
        }
        connection.egress = Egress::Tunnel;
        self.counters.tcp.tunnelled += 1;
        let (inside, to) = (connection.inside, connection.remote);
        outbox.command(SocketCommand::Connect {
            connection: id,
            egress: Egress::Tunnel,
            inside,
            to,
            treatment: self.policy.evaluate(Protocol::Tcp, to).treatment,
        });
        true
    }

    /// Updates a connection after a change, and schedules it.
    fn update(&mut self, id: ConnectionId, now: Instant, outbox: &mut Outbox) {
        let Some(inside) = self.tcp.table.get_mut(id).map(|it| it.inside) else {
            return;
        };
        let to = self.reply_source_of(inside.0.addr);
        let TcpProxy {
            stack,
            table,
            settings,
        } = &mut self.tcp;
        let connection = table.get_mut(id).expect("the connection exists");
        let mut due = connection.refreshed + settings.lifetime(&connection.phase);
        let timeout = self.paths.settings().map(|it| it.response_timeout);
        if let (Phase::Connecting { .. }, Egress::Direct, Some(timeout)) =
            (&connection.phase, connection.egress, timeout)
        {
            due = due.min(connection.refreshed + timeout);
        }
        if let Phase::Open(session) = &mut connection.phase {
            let actions = session.next_actions();
            if actions.shutdown {
                outbox.command(SocketCommand::Shutdown { connection: id });
            }
            if actions.pump && actions.end.is_none() && !connection.pump_requested {
                connection.pump_requested = true;
                outbox.command(SocketCommand::Pump { connection: id });
            }
            if !connection.pump_requested || actions.end.is_some() {
                session.poll(stack, to, now, outbox);
            }
            match actions.end {
                Some(SessionEnd::Finished) => {
                    self.counters.tcp.finished += 1;
                    return self.disconnect(id, false, outbox);
                }
                Some(SessionEnd::Broken) => {
                    self.counters.tcp.reset_by_remote += 1;
                    return self.abort(id, now, outbox);
                }
                None => {}
            }
            if let Some(stack) = session.poll_timeout(stack, now) {
                due = due.min(stack.max(now + TICK));
            }
        }
        table.schedule(id, due);
    }

    /// Resets a connection on both sides.
    fn abort(&mut self, id: ConnectionId, now: Instant, outbox: &mut Outbox) {
        let Some(inside) = self.tcp.table.get_mut(id).map(|it| it.inside) else {
            return;
        };
        let to = self.reply_source_of(inside.0.addr);
        let TcpProxy { stack, table, .. } = &mut self.tcp;
        let connection = table.get_mut(id).expect("the connection exists");
        if let Phase::Open(session) = &mut connection.phase {
            session.abort(stack, to, now, outbox);
        }
        self.disconnect(id, true, outbox);
    }

    /// Removes a connection, and requests that its socket is closed.
    fn disconnect(&mut self, connection: ConnectionId, reset: bool, outbox: &mut Outbox) {
        if self.tcp.table.remove(connection).is_some() {
            outbox.command(SocketCommand::Disconnect { connection, reset });
        }
    }
}
