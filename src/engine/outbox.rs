//! What the engine wants done, in the order in which it is to be done.

use std::net::IpAddr;
use std::ops::Range;

use super::path::{FailbackCause, FailoverCause};
use crate::net::{ConnectionId, Egress, Endpoint, Family, Inside, MappingId, Outside, Treatment};
use crate::wire::{IcmpError, Packet, WriteError, fragment, icmp, tcp, udp};

/// Something to be done to the socket of a mapping or of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketCommand {
    /// Open a socket of a mapping: for the direct way on the inside endpoint's port if that is free, and in the place of
    /// the one on a former uplink.
    Open {
        /// The mapping.
        mapping: MappingId,
        /// The way that its packets are to take.
        way: Egress,
        /// Its inside endpoint: names the address family and the port to preserve.
        inside: Inside<Endpoint>,
        /// How its packets are to be treated at first.
        treatment: Treatment,
    },
    /// Close the sockets of a mapping that has ended.
    Close {
        /// The mapping.
        mapping: MappingId,
    },
    /// Connect to the far side of a new TCP connection. The same connection may come a second time, by the other way:
    /// the first attempt is over then.
    Connect {
        /// The connection.
        connection: ConnectionId,
        /// The way that its packets are to take.
        way: Egress,
        /// Its inside endpoint: others of the same share its port.
        inside: Inside<Endpoint>,
        /// The far endpoint.
        to: Endpoint,
        /// How its packets are to be treated.
        treatment: Treatment,
    },
    /// Hand the connection's socket to [`Engine::handle_stream`](super::Engine::handle_stream): there is something to
    /// write into it, or room again for what can be read from it.
    Pump {
        /// The connection.
        connection: ConnectionId,
    },
    /// Tell the far side that the application has no more to send. Everything before that has been written.
    Shutdown {
        /// The connection.
        connection: ConnectionId,
    },
    /// Close the socket of a TCP connection that is over.
    Disconnect {
        /// The connection.
        connection: ConnectionId,
        /// Whether the far side is to see a reset instead of an orderly end.
        reset: bool,
    },
}

/// A datagram for a mapping's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The mapping.
    pub mapping: MappingId,
    /// By which of its sockets.
    pub way: Egress,
    /// Where to.
    pub to: Endpoint,
    /// How it is to be treated.
    pub treatment: Treatment,
    /// Whether it is to arrive as it is or not at all: what does not fit the path is then returned as an error.
    pub dont_fragment: bool,
    /// Whether it is a copy of a check that the application sent once: a trial, or a repetition.
    pub is_copy: bool,
    is_recalled: bool,
    payload: Range<usize>,
}

/// Something that others may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// A mapping stands: the policy passed, its socket is bound, its first packet is sent. Comes again for another
    /// socket.
    Established {
        /// The mapping.
        mapping: MappingId,
        /// The application's endpoint.
        inside: Inside<Endpoint>,
        /// The way of the socket.
        way: Egress,
        /// The socket's endpoint.
        outside: Outside<Endpoint>,
    },
    /// A mapping's datagrams go into the VPN from now on; a new one's from the start.
    FailedOver {
        /// The mapping.
        mapping: MappingId,
        /// The application's endpoint.
        inside: Inside<Endpoint>,
        /// Why.
        cause: FailoverCause,
    },
    /// A mapping's datagrams go the direct way again.
    FailedBack {
        /// The mapping.
        mapping: MappingId,
        /// The application's endpoint.
        inside: Inside<Endpoint>,
        /// Why.
        cause: FailbackCause,
    },
    /// The whole uplink is given up: mappings of this family are in the VPN, new ones too.
    UplinkFailed {
        /// The family.
        family: Family,
        /// Why the last mapping before it fell.
        cause: FailoverCause,
    },
    /// The uplink is trusted again: new mappings of this family begin on the direct way.
    UplinkRecovered {
        /// The family.
        family: Family,
    },
    /// A mapping has ended.
    Ended {
        /// The mapping; its id names nothing any more.
        mapping: MappingId,
        /// The application's endpoint.
        inside: Inside<Endpoint>,
    },
}

/// Everything that one wake-up produced.
///
/// The driver flushes commands, then transmits, then packets, then events, so that a socket is open before its first
/// datagram; and commands again, when a datagram that was refused has to go another way. All bytes lie in one arena, which keeps its capacity: a wake-up allocates nothing once the outbox is warm.
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
    /// What is to be done to sockets.
    #[must_use]
    pub fn commands(&self) -> &[SocketCommand] {
        &self.commands
    }

    /// How many sockets are to be opened.
    #[must_use]
    pub const fn openings(&self) -> usize {
        self.openings
    }

    /// The datagrams to send, each with its payload.
    pub fn transmits(&self) -> impl Iterator<Item = (&Transmit, &[u8])> {
        self.transmits
            .iter()
            .filter(|transmit| !transmit.is_recalled)
            .map(|transmit| (transmit, &self.arena[transmit.payload.clone()]))
    }

    /// How many places for datagrams there are: sending one may add others.
    #[must_use]
    pub fn places(&self) -> usize {
        self.transmits.len()
    }

    /// The datagram at a place, with its payload; `None` when it was taken back.
    #[must_use]
    pub fn transmit_at(&self, at: usize) -> Option<(&Transmit, &[u8])> {
        let transmit = self.transmits.get(at).filter(|it| !it.is_recalled)?;
        Some((transmit, &self.arena[transmit.payload.clone()]))
    }

    /// The packets to write into the TUN.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.iter().map(|range| &self.arena[range.clone()])
    }

    /// What happened.
    #[must_use]
    pub fn events(&self) -> &[EngineEvent] {
        &self.events
    }

    /// Whether there is nothing to flush.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
            && self.transmits.is_empty()
            && self.packets.is_empty()
            && self.events.is_empty()
    }

    /// Forgets everything and keeps the room.
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

    pub(super) fn transmit(
        &mut self,
        mapping: MappingId,
        way: Egress,
        to: Endpoint,
        treatment: Treatment,
        dont_fragment: bool,
        payload: &[u8],
    ) {
        let start = self.arena.len();
        self.arena.extend_from_slice(payload);
        self.transmits.push(Transmit {
            mapping,
            way,
            to,
            treatment,
            dont_fragment,
            is_copy: false,
            is_recalled: false,
            payload: start..self.arena.len(),
        });
    }

    /// Adds a copy of a check that an application sent.
    pub(super) fn copy(
        &mut self,
        mapping: MappingId,
        way: Egress,
        to: Endpoint,
        treatment: Treatment,
        payload: &[u8],
    ) {
        self.transmit(mapping, way, to, treatment, true, payload);
        if let Some(copy) = self.transmits.last_mut() {
            copy.is_copy = true;
        }
    }

    /// Takes back the datagrams that wait for a mapping's socket.
    pub(super) fn recall(
        &mut self,
        mapping: MappingId,
        way: Egress,
    ) -> Vec<(Endpoint, Range<usize>)> {
        let waits = |it: &&mut Transmit| {
            it.mapping == mapping && it.way == way && !it.is_copy && !it.is_recalled
        };
        let recalled = self.transmits.iter_mut().filter(waits);
        recalled
            .map(|it| {
                // It keeps its place: those after it are known by theirs.
                it.is_recalled = true;
                (it.to, it.payload.clone())
            })
            .collect()
    }

    /// Has the datagrams that wait for one of a mapping's sockets wait for the other.
    pub(super) fn redirect(&mut self, mapping: MappingId, from: Egress, to: Egress) {
        let waiting = self.transmits.iter_mut();
        for transmit in waiting.filter(|it| it.mapping == mapping && it.way == from) {
            transmit.way = to;
        }
    }

    /// Adds a datagram that is there already once more, by another way.
    pub(super) fn send_again(&mut self, at: usize, way: Egress) {
        let again = self.transmits.get(at).cloned();
        self.transmits
            .extend(again.map(|it| Transmit { way, ..it }));
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

    /// Adds the packet that was written into the scratch buffer, likewise.
    pub(super) fn scratched_packet(&mut self, mtu: u16, identification: u32) {
        let Self {
            arena,
            packets,
            scratch,
            ..
        } = self;
        store(arena, packets, scratch, mtu, identification);
    }

    /// Writes a datagram that was taken back into the scratch buffer.
    pub(super) fn quote(
        &mut self,
        headers: &udp::UdpHeaders,
        payload: Range<usize>,
    ) -> Result<(), WriteError> {
        self.scratch.clear();
        udp::write_datagram(&mut self.scratch, headers, &self.arena[payload])
    }

    /// An empty buffer for the datagram that [`Outbox::icmp`] is to quote.
    pub(super) fn scratch(&mut self) -> &mut Vec<u8> {
        self.scratch.clear();
        &mut self.scratch
    }

    /// Adds an ICMP error that quotes what was put into the scratch buffer.
    pub(super) fn icmp(
        &mut self,
        error: IcmpError,
        from: IpAddr,
        to: IpAddr,
    ) -> Result<(), WriteError> {
        let start = self.arena.len();
        icmp::write_error(&mut self.arena, error, from, to, &self.scratch)?;
        self.packets.push(start..self.arena.len());
        Ok(())
    }

    /// Adds a TCP segment of `length` bytes that `write` writes without checksums, and sends it to `to`. What
    /// turns out to be something else is dropped.
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

    /// Adds the reset that answers a segment, sent to `to`, if one is due.
    pub(super) fn reset(&mut self, packet: &Packet<'_>, to: IpAddr) {
        let start = self.arena.len();
        if tcp::write_reset(&mut self.arena, packet) {
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
