//! TCP of a rule: a transparent proxy, whose application side is a TCP stack in memory.
//!
//! # Theory of operation
//!
//! A segment that enters the TUN is terminated here, by a socket of smoltcp, and its bytes are carried on by an ordinary
//! TCP socket of the shell that is bound to the uplink. Goals: the application sees what it would see without us, no
//! byte waits anywhere but in the windows of the two connections, and a connection costs the same however many there
//! are.
//!
//! ```text
//! SYN                 held                    -> SocketCommand::Connect
//! handle_connected    SYN is let in           -> SYN-ACK          no connection stands before the far side accepted
//! handle_connect_failed                       -> RST, ICMP error, or silence, as the far side did
//! segments            the stack takes them    -> SocketCommand::Pump   when there is something to write, or room to read
//! handle_stream       receive buffer -> stream, stream -> transmit buffer, then ACK, window and data in one
//! FIN                 once all is written     -> SocketCommand::Shutdown
//! end of the stream   FIN, after all that was read before
//! RST                                         -> SocketCommand::Disconnect { reset: true }
//! broken stream       RST, once the application has taken all that was read before
//! ```
//!
//! **Backpressure.** Bytes are pulled: the stream is read only into free room of the transmit buffer and written only
//! from the receive buffer, so a slow reader on either side closes the other side's window, and nothing grows.
//!
//! **Batches.** While a `Carry` is on its way to the shell, segments are taken in without an answer: one acknowledgment
//! covers what a batch brought, with the window as it is after the bytes have gone on.
//!
//! **The stack** holds one socket for each call: every session has a socket set of its own, found by its endpoints,
//! because the stack goes through its set for every segment. Checksums are ours in both directions.
//!
//! **No TIME-WAIT.** The TUN neither delays nor duplicates, so a session that has finished is forgotten at once.
//!
//! **Timers** (RFC 5382 REQ-5): a connection that is established or half closed ends after 2 h 4 min in which nothing
//! moved, one that is opening or closing after 4 min. Retransmission and window probes are the stack's.

mod link;
mod report;
mod session;
mod table;

use std::io::{Read, Write};
use std::ops::Range;
use std::time::{Duration, Instant};

use self::link::Stack;
use self::session::{Session, SessionEnd, Stage};
use self::table::{ConnectionTable, Phase};
use super::{DropReason, Engine, Outbox, SocketCommand};
use crate::net::{ConnectionId, Egress, Endpoint, Family, Inside, Protocol, Treatment};
use crate::policy::Action;
use crate::wire::{IcmpError, Packet, icmp, tcp};

pub use self::report::{ConnectError, ConnectionReport, ConnectionState, TcpCounters};

/// The shortest time between two looks at a connection: the stack's clock is coarser than ours.
const TICK: Duration = Duration::from_millis(1);

/// How the proxy behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one inside address.
    pub connections_of_address: usize,
    /// Bytes that one connection buffers in each direction: also the window that the application sees.
    pub buffer: usize,
    /// How long an established connection may be idle. RFC 5382 REQ-5: at least 2 h 4 min.
    pub established_idle: Duration,
    /// How long one that is opening or closing may be idle. RFC 5382 REQ-5: at least 4 min.
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
    /// How long a connection in this phase may go without anything moving.
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
    /// Reports on the TCP connections in these slots; see [`Engine::mapping_reports`].
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

    /// Sets how TCP connections are carried. To be called before the first packet.
    #[must_use]
    pub fn with_tcp(mut self, settings: TcpSettings) -> Self {
        self.tcp = TcpProxy::new(settings);
        self
    }

    /// Takes the news that there is another uplink for the families that `moves` says. A TCP connection cannot move: each
    /// is reset on both sides, and one that was about to be made is made anew when the application repeats its SYN.
    /// Mappings begin anew, each with another socket in the place of its own, which must send nothing from now on: some at
    /// once, who sends with its next packet, and the others part by part with [`Engine::handle_timeout`]. What was found out
    /// about the former uplink is forgotten.
    pub fn handle_uplink_changed(
        &mut self,
        moves: impl Fn(Family) -> bool,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        self.start_over(&moves, now, outbox);
        let connections = self.tcp.table.iter();
        let direct = connections
            .filter(|(_, it)| it.way == Egress::Direct && moves(Family::of(it.remote.addr)));
        let connections: Vec<_> = direct.map(|(id, _)| id).collect();
        for id in connections {
            self.counters.tcp.revoked += 1;
            self.abort(id, now, outbox);
        }
    }

    /// Takes a TCP segment that an application sent into the TUN.
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
                return self.hold(packet, segment, now, outbox);
            }
            self.counters.drop_out(DropReason::NoConnection);
            return outbox.reset(packet, self.alias_of(packet.source()));
        };
        let to = self.alias_of(packet.source());
        let TcpProxy { stack, table, .. } = &mut self.tcp;
        let connection = table.get_mut(id).expect("an indexed connection stands");
        let was_reset = match &mut connection.phase {
            Phase::Connecting { syn, sequence } => {
                if opens && *sequence != segment.sequence {
                    // The application gave up, and another one took its port.
                    *syn = packet.bytes().into();
                    *sequence = segment.sequence;
                }
                segment.rst
            }
            Phase::Open(session) => {
                connection.refreshed = now;
                session.take(stack, packet.bytes(), segment.rst, to, now, outbox)
            }
        };
        if was_reset {
            self.counters.tcp.reset_by_application += 1;
            self.disconnect(id, true, outbox);
        } else {
            self.settle(id, now, outbox);
        }
    }

    /// Takes the news that the far side accepted: now the application's SYN is let in.
    pub fn handle_connected(&mut self, id: ConnectionId, now: Instant, outbox: &mut Outbox) {
        let Some(connection) = self.tcp.table.get_mut(id) else {
            return;
        };
        let Phase::Connecting { syn, .. } = &connection.phase else {
            return;
        };
        let (inside, remote) = (connection.inside, connection.remote);
        let syn = syn.clone();
        let to = self.alias_of(inside.0.addr);
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
        let connection = table.get_mut(id).expect("it was there a moment ago");
        connection.phase = Phase::Open(Box::new(session));
        connection.refreshed = now;
        self.counters.tcp.accepted += 1;
        self.settle(id, now, outbox);
    }

    /// Takes the news that the far side was not reached. The application learns it as it would without us, unless there
    /// is the other way to try.
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
        let connection = self
            .tcp
            .table
            .remove(id)
            .expect("it was there a moment ago");
        let Phase::Connecting { syn, .. } = &connection.phase else {
            return;
        };
        let to = self.alias_of(connection.inside.0.addr);
        match error {
            ConnectError::Refused => {
                let packet = Packet::parse(syn).expect("it was parsed when it came");
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

    /// Carries bytes between the application and `stream`, as far as both take them: the connection's non-blocking
    /// socket, after a [`SocketCommand::Pump`] or when it has become readable, writable, or broken.
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
        connection.summoned = false;
        let Phase::Open(session) = &mut connection.phase else {
            return;
        };
        let carried = session.carry(stream);
        if carried.out + carried.inward > 0 {
            connection.refreshed = now;
        }
        connection.bytes_out += carried.out;
        connection.bytes_in += carried.inward;
        self.counters.tcp.bytes_out += carried.out;
        self.counters.tcp.bytes_in += carried.inward;
        self.settle(id, now, outbox);
    }

    /// Does what is due at `now`: retransmissions and probes, and the ends of what is over or no longer allowed.
    pub(super) fn handle_connections_due(&mut self, now: Instant, outbox: &mut Outbox) {
        while let Some(id) = self.tcp.table.first_due(now) {
            let connection = self.tcp.table.get_mut(id).expect("what is due stands");
            let lifetime = self.tcp.settings.lifetime(&connection.phase);
            let is_over = connection.refreshed + lifetime <= now;
            let is_connecting = matches!(connection.phase, Phase::Connecting { .. });
            let verdict = self.policy.evaluate(Protocol::Tcp, connection.remote);
            let is_silent = is_connecting
                && self
                    .paths
                    .settings()
                    .is_some_and(|it| connection.refreshed + it.silence <= now);
            let is_revoked = verdict.action != connection.action;
            if is_silent && !is_revoked && !is_over && self.connect_by_tunnel(id, outbox) {
                self.settle(id, now, outbox);
                continue;
            }
            let connection = self.tcp.table.get_mut(id).expect("what is due stands");
            let ended = &mut self.counters.tcp;
            if is_revoked {
                ended.revoked += 1;
            } else if is_over && is_connecting {
                ended.timed_out += 1;
            } else if is_over {
                ended.expired += 1;
            } else {
                connection.summoned = false;
                self.settle(id, now, outbox);
                continue;
            }
            self.abort(id, now, outbox);
        }
    }

    /// Has every connection that the policy no longer relays ended by the next [`Engine::handle_timeout`].
    pub(super) fn revoke_connections(&mut self) {
        let action = |remote| self.policy.evaluate(Protocol::Tcp, remote).action;
        let connections = self.tcp.table.iter();
        let connections = connections.filter(|(_, it)| action(it.remote) != it.action);
        let due: Vec<_> = connections.map(|(id, it)| (id, it.created)).collect();
        for (id, overdue) in due {
            self.tcp.table.schedule(id, overdue);
        }
    }

    /// Holds the SYN of a new connection and has the shell connect.
    fn hold(
        &mut self,
        packet: &Packet<'_>,
        segment: tcp::TcpSegment,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if !icmp::may_answer(packet) {
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
        let (way, treatment) = match verdict.action {
            Action::Relay if self.paths.is_down(Family::of(to.addr)) => {
                (Egress::Tunnel, verdict.treatment)
            }
            Action::Relay => (Egress::Direct, verdict.treatment),
            // It goes on as it would have gone without us, marks included.
            _ => (Egress::Tunnel, Treatment::of(packet.traffic_class().dscp)),
        };
        let patience = self.paths.settings().map(|it| it.silence);
        let patience = patience.unwrap_or(settings.transitory_idle);
        let due = now + patience.min(settings.transitory_idle);
        let connection = table.insert(inside, to, (verdict.action, way), held, now, due);
        outbox.command(SocketCommand::Connect {
            connection,
            way,
            inside,
            to,
            treatment,
        });
    }

    /// Has a connection made through the VPN whose direct way is refused or silent, if that is allowed and was not tried.
    fn connect_by_tunnel(&mut self, id: ConnectionId, outbox: &mut Outbox) -> bool {
        let Some(connection) = self.tcp.table.get_mut(id) else {
            return false;
        };
        if connection.way == Egress::Tunnel || self.paths.settings().is_none() {
            return false;
        }
        connection.way = Egress::Tunnel;
        self.counters.tcp.tunnelled += 1;
        let (inside, to) = (connection.inside, connection.remote);
        outbox.command(SocketCommand::Connect {
            connection: id,
            way: Egress::Tunnel,
            inside,
            to,
            treatment: self.policy.evaluate(Protocol::Tcp, to).treatment,
        });
        true
    }

    /// Sees to what a connection needs after something happened to it, and when it is due next.
    fn settle(&mut self, id: ConnectionId, now: Instant, outbox: &mut Outbox) {
        let Some(inside) = self.tcp.table.get_mut(id).map(|it| it.inside) else {
            return;
        };
        let to = self.alias_of(inside.0.addr);
        let TcpProxy {
            stack,
            table,
            settings,
        } = &mut self.tcp;
        let connection = table.get_mut(id).expect("it was there a moment ago");
        let mut due = connection.refreshed + settings.lifetime(&connection.phase);
        let patience = self.paths.settings().map(|it| it.silence);
        if let (Phase::Connecting { .. }, Egress::Direct, Some(patience)) =
            (&connection.phase, connection.way, patience)
        {
            due = due.min(connection.refreshed + patience);
        }
        if let Phase::Open(session) = &mut connection.phase {
            let needs = session.needs();
            if needs.shutdown {
                outbox.command(SocketCommand::Shutdown { connection: id });
            }
            if needs.carry && needs.over.is_none() && !connection.summoned {
                connection.summoned = true;
                outbox.command(SocketCommand::Pump { connection: id });
            }
            if !connection.summoned || needs.over.is_some() {
                session.poll(stack, to, now, outbox);
            }
            match needs.over {
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

    /// Ends a connection with a reset to both sides.
    fn abort(&mut self, id: ConnectionId, now: Instant, outbox: &mut Outbox) {
        let Some(inside) = self.tcp.table.get_mut(id).map(|it| it.inside) else {
            return;
        };
        let to = self.alias_of(inside.0.addr);
        let TcpProxy { stack, table, .. } = &mut self.tcp;
        let connection = table.get_mut(id).expect("it was there a moment ago");
        if let Phase::Open(session) = &mut connection.phase {
            session.abort(stack, to, now, outbox);
        }
        self.disconnect(id, true, outbox);
    }

    /// Forgets a connection, and has its socket closed.
    fn disconnect(&mut self, connection: ConnectionId, reset: bool, outbox: &mut Outbox) {
        if self.tcp.table.remove(connection).is_some() {
            outbox.command(SocketCommand::Disconnect { connection, reset });
        }
    }
}
