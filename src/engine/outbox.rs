//! The engine's output, in the order in which it is to be flushed.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;

use super::failover::{EndCause, FailbackCause, FailoverCause};
use crate::net::{
    ConnectionId, Ecn, Egress, Endpoint, Family, Inside, MappingId, Outside, Treatment,
};
use crate::wire::{IcmpError, Packet, WriteError, fragment, reply, tcp, udp};

/// A command for the socket of a mapping or of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketCommand {
    /// Open a socket of a mapping; a direct one on the inside endpoint's port if that is free. It replaces the mapping's
    /// socket of the same egress.
    Open {
        /// The mapping.
        mapping: MappingId,
        /// The egress of its packets.
        egress: Egress,
        /// Its inside endpoint: the address family and the port to preserve.
        inside: Inside<Endpoint>,
        /// The remote of its first packet, whose route selects the source address.
        to: Endpoint,
        /// The treatment of its first packets.
        treatment: Treatment,
    },
    /// Close the sockets of a mapping that has ended.
    Close {
        /// The mapping.
        mapping: MappingId,
    },
    /// Connect to the remote of a new TCP connection. A second command for the same connection, with the other egress,
    /// replaces the first attempt.
    Connect {
        /// The connection.
        connection: ConnectionId,
        /// The egress of its packets.
        egress: Egress,
        /// Its inside endpoint: connections of the same one share an outside port.
        inside: Inside<Endpoint>,
        /// The remote endpoint.
        to: Endpoint,
        /// The treatment of its packets.
        treatment: Treatment,
    },
    /// Hand the connection's socket to [`Engine::handle_stream`](super::Engine::handle_stream): there are bytes to write,
    /// or there is room to read again.
    Pump {
        /// The connection.
        connection: ConnectionId,
    },
    /// Shut the socket down for writing: the application has no more to send, and all bytes are written.
    Shutdown {
        /// The connection.
        connection: ConnectionId,
    },
    /// Close the socket of a TCP connection that has ended.
    Disconnect {
        /// The connection.
        connection: ConnectionId,
        /// Whether to reset the connection instead of closing it in order.
        reset: bool,
    },
}

/// A datagram for a mapping's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The mapping.
    pub mapping: MappingId,
    /// Which of its sockets sends the datagram.
    pub egress: Egress,
    /// The destination.
    pub to: Endpoint,
    /// The datagram's treatment.
    pub treatment: Treatment,
    /// The ECN bits of the application's packet, which routers beyond may set to CE (RFC 3168 section 5, RFC 9331).
    pub ecn: Ecn,
    /// Whether fragmentation is forbidden: a datagram that exceeds the path MTU is then returned as an error.
    pub dont_fragment: bool,
    /// Whether the datagram is a copy of an application's check: a probe or a repetition.
    pub is_copy: bool,
    is_recalled: bool,
    payload: Range<usize>,
}

/// A change that the engine reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// A mapping's socket is open. Reported again for each further socket of the mapping.
    Established {
        /// The mapping.
        mapping: MappingId,
        /// The application's endpoint.
        inside: Inside<Endpoint>,
        /// The egress of the socket.
        egress: Egress,
        /// The socket's endpoint.
        outside: Outside<Endpoint>,
    },
    /// A mapping failed over into the VPN, or a new one started there.
    FailedOver {
        /// The mapping.
        mapping: MappingId,
        /// The application's endpoint.
        inside: Inside<Endpoint>,
        /// The remote of its media, otherwise the one that it sent to last.
        remote: Option<Endpoint>,
        /// The cause.
        cause: FailoverCause,
    },
    /// A mapping failed back to the direct path.
    FailedBack {
        /// The mapping.
        mapping: MappingId,
        /// The application's endpoint.
        inside: Inside<Endpoint>,
        /// The remote of its media, otherwise the one that it sent to last.
        remote: Option<Endpoint>,
        /// The cause.
        cause: FailbackCause,
    },
    /// The whole uplink failed: all mappings of this family move into the VPN, and new ones start there.
    UplinkFailed {
        /// The family.
        family: Family,
        /// The cause of the last mapping's failover before it.
        cause: FailoverCause,
    },
    /// The uplink recovered: new mappings of this family start on the direct path.
    UplinkRecovered {
        /// The family.
        family: Family,
    },
    /// A mapping has ended.
    Ended {
        /// The mapping; its id is no longer valid.
        mapping: MappingId,
        /// The application's endpoint.
        inside: Inside<Endpoint>,
        /// The remote of its media, if it carried any: then a call has ended.
        media_remote: Option<Endpoint>,
        /// When it was created.
        created: Instant,
        /// The cause.
        cause: EndCause,
    },
}

/// The engine's output of one wake-up.
///
/// The owner flushes commands, then transmits, then packets, then events: a socket is open before its first datagram. See
/// the contract of [`Engine`](super::Engine): commands and transmits may be added meanwhile. All bytes are in one arena,
/// which keeps its capacity: a warm outbox allocates nothing.
#[derive(Debug, Default)]
pub struct Outbox {
    commands: Vec<SocketCommand>,
    openings: usize,
    transmits: Vec<Transmit>,
    packets: Vec<Range<usize>>,
    events: Vec<EngineEvent>,
    arena: Vec<u8>,
    scratch: Vec<u8>,
}

impl Outbox {
    /// Returns the commands.
    #[must_use]
    pub fn commands(&self) -> &[SocketCommand] {
        &self.commands
    }

    /// Returns the number of sockets to be opened or connected.
    #[must_use]
    pub const fn openings(&self) -> usize {
        self.openings
    }

    /// Returns the datagrams to send, each with its payload.
    pub fn transmits(&self) -> impl Iterator<Item = (&Transmit, &[u8])> {
        self.transmits
            .iter()
            .filter(|transmit| !transmit.is_recalled)
            .map(|transmit| (transmit, &self.arena[transmit.payload.clone()]))
    }

    /// Returns the number of indices of [`Outbox::transmit_at`]. Sending a datagram may add others.
    #[must_use]
    pub fn transmit_count(&self) -> usize {
        self.transmits.len()
    }

    /// Returns the datagram at an index, with its payload; `None` if it was recalled.
    #[must_use]
    pub fn transmit_at(&self, at: usize) -> Option<(&Transmit, &[u8])> {
        let transmit = self.transmits.get(at).filter(|it| !it.is_recalled)?;
        Some((transmit, &self.arena[transmit.payload.clone()]))
    }

    /// Returns the packets to write into the TUN.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.iter().map(|range| &self.arena[range.clone()])
    }

    /// Returns the events.
    #[must_use]
    pub fn events(&self) -> &[EngineEvent] {
        &self.events
    }

    /// Whether the outbox is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
            && self.transmits.is_empty()
            && self.packets.is_empty()
            && self.events.is_empty()
    }

    /// Empties the outbox and keeps its capacity.
    pub fn clear(&mut self) {
        self.commands.clear();
        self.openings = 0;
        self.transmits.clear();
        self.packets.clear();
        self.events.clear();
        self.arena.clear();
    }

    pub(super) fn command(&mut self, command: SocketCommand) {
        let opens = matches!(
            command,
            SocketCommand::Open { .. } | SocketCommand::Connect { .. }
        );
        self.openings += usize::from(opens);
        self.commands.push(command);
    }

    pub(super) fn event(&mut self, event: EngineEvent) {
        self.events.push(event);
    }

    /// Adds a datagram that may not be fragmented, without ECN. Returns it.
    pub(super) fn transmit(
        &mut self,
        mapping: MappingId,
        egress: Egress,
        to: Endpoint,
        treatment: Treatment,
        payload: &[u8],
    ) -> &mut Transmit {
        let start = self.arena.len();
        self.arena.extend_from_slice(payload);
        self.transmits.push(Transmit {
            mapping,
            egress,
            to,
            treatment,
            ecn: Ecn::NotEct,
            dont_fragment: true,
            is_copy: false,
            is_recalled: false,
            payload: start..self.arena.len(),
        });
        self.transmits.last_mut().expect("it was just added")
    }

    /// Adds a copy of a check that an application sent.
    pub(super) fn copy(
        &mut self,
        mapping: MappingId,
        egress: Egress,
        to: Endpoint,
        treatment: Treatment,
        payload: &[u8],
    ) {
        self.transmit(mapping, egress, to, treatment, payload)
            .is_copy = true;
    }

    /// Recalls the datagrams that wait for a mapping's socket.
    pub(super) fn recall(
        &mut self,
        mapping: MappingId,
        egress: Egress,
    ) -> Vec<(Endpoint, Range<usize>)> {
        let waits = |it: &&mut Transmit| {
            it.mapping == mapping && it.egress == egress && !it.is_copy && !it.is_recalled
        };
        let recalled = self.transmits.iter_mut().filter(waits);
        recalled
            .map(|it| {
                // It keeps its index, so that those of later datagrams stay valid.
                it.is_recalled = true;
                (it.to, it.payload.clone())
            })
            .collect()
    }

    /// Redirects the datagrams that wait for one of a mapping's sockets to the other.
    pub(super) fn redirect(&mut self, mapping: MappingId, from: Egress, to: Egress) {
        let waiting = self.transmits.iter_mut();
        for transmit in waiting.filter(|it| it.mapping == mapping && it.egress == from) {
            transmit.egress = to;
        }
    }

    /// Adds a datagram again, with another egress.
    pub(super) fn send_again(&mut self, at: usize, egress: Egress) {
        let again = self.transmits.get(at).cloned();
        self.transmits
            .extend(again.map(|it| Transmit { egress, ..it }));
    }

    /// Adds a packet, in fragments when it is larger than `mtu`.
    pub(super) fn packet(&mut self, bytes: &[u8], mtu: u16, identification: u32) {
        store(
            &mut self.arena,
            &mut self.packets,
            bytes,
            mtu,
            identification,
        );
    }

    /// Adds the packet in the scratch buffer, in fragments when it is larger than `mtu`.
    pub(super) fn scratch_packet(&mut self, mtu: u16, identification: u32) {
        let Self {
            arena,
            packets,
            scratch,
            ..
        } = self;
        store(arena, packets, scratch, mtu, identification);
    }

    /// Writes a recalled datagram into the scratch buffer.
    pub(super) fn quote(
        &mut self,
        headers: &udp::UdpHeaders,
        payload: Range<usize>,
    ) -> Result<(), WriteError> {
        self.scratch.clear();
        udp::write_datagram(&mut self.scratch, headers, &self.arena[payload])
    }

    /// Returns an empty buffer for the datagram that [`Outbox::icmp`] quotes.
    pub(super) fn scratch(&mut self) -> &mut Vec<u8> {
        self.scratch.clear();
        &mut self.scratch
    }

    /// Adds an ICMP error that quotes the scratch buffer.
    pub(super) fn icmp(
        &mut self,
        error: IcmpError,
        from: IpAddr,
        to: IpAddr,
    ) -> Result<(), WriteError> {
        let start = self.arena.len();
        reply::write_icmp_error(&mut self.arena, error, from, to, &self.scratch)?;
        self.packets.push(start..self.arena.len());
        Ok(())
    }

    /// Adds a TCP segment of `length` bytes to `to`, which `write` writes without checksums. Other packets are dropped.
    pub(super) fn segment<R>(
        &mut self,
        length: usize,
        to: IpAddr,
        write: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let start = self.arena.len();
        self.arena.resize(start + length, 0);
        let packet = &mut self.arena[start..];
        let result = write(packet);
        if tcp::seal(packet, to) {
            self.packets.push(start..start + length);
        } else {
            self.arena.truncate(start);
        }
        result
    }

    /// Adds the reset that answers a segment, to `to`, if one is due.
    pub(super) fn reset(&mut self, packet: &Packet<'_>, to: IpAddr) {
        let start = self.arena.len();
        if reply::write_tcp_reset(&mut self.arena, packet) {
            tcp::seal(&mut self.arena[start..], to);
            self.packets.push(start..self.arena.len());
        }
    }
}

fn store(
    arena: &mut Vec<u8>,
    packets: &mut Vec<Range<usize>>,
    bytes: &[u8],
    mtu: u16,
    identification: u32,
) {
    let start = arena.len();
    if bytes.len() <= usize::from(mtu) {
        arena.extend_from_slice(bytes);
        packets.push(start..arena.len());
    } else {
        let each = |range| packets.push(range);
        fragment::split(arena, bytes, mtu.into(), identification, each);
    }
}
