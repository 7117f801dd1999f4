//! What the engine wants done, in the order in which it is to be done.

use std::net::IpAddr;
use std::ops::Range;

use crate::net::{ConnectionId, Endpoint, Inside, MappingId, Outside, Treatment};
use crate::wire::{Packet, WriteError, fragment, icmp, tcp, udp};

/// Something to be done to the socket of a mapping or of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Open the socket of a new mapping, on the inside endpoint's port if that is free.
    Open {
        /// The mapping.
        mapping: MappingId,
        /// Its inside endpoint: names the address family and the port to preserve.
        inside: Inside<Endpoint>,
        /// How its packets are to be treated at first.
        treatment: Treatment,
    },
    /// Close the socket of a mapping that has ended.
    Close {
        /// The mapping.
        mapping: MappingId,
    },
    /// Connect to the far side of a new TCP connection.
    Connect {
        /// The connection.
        connection: ConnectionId,
        /// Its inside endpoint: others of the same share its port.
        inside: Inside<Endpoint>,
        /// The far endpoint.
        to: Endpoint,
        /// How its packets are to be treated.
        treatment: Treatment,
    },
    /// Hand the connection's socket to [`Engine::handle_stream`](super::Engine::handle_stream): there is something to
    /// write into it, or room again for what can be read from it.
    Carry {
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
    /// Where to.
    pub to: Endpoint,
    /// How it is to be treated.
    pub treatment: Treatment,
    /// Whether it is to arrive as it is or not at all: what does not fit the path is then returned as an error.
    pub dont_fragment: bool,
    payload: Range<usize>,
}

/// Something that others may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A mapping stands: the policy passed, its socket is bound, its first packet is sent.
    Established {
        /// The mapping.
        mapping: MappingId,
        /// The application's endpoint.
        inside: Inside<Endpoint>,
        /// The socket's endpoint.
        outside: Outside<Endpoint>,
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
/// datagram. All bytes lie in one arena, which keeps its capacity: a wake-up allocates nothing once the outbox is warm.
#[derive(Debug, Default)]
pub struct Outbox {
    commands: Vec<Command>,
    transmits: Vec<Transmit>,
    packets: Vec<Range<usize>>,
    events: Vec<Event>,
    arena: Vec<u8>,
    scratch: Vec<u8>,
}

impl Outbox {
    /// What is to be done to sockets.
    #[must_use]
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// The datagrams to send, each with its payload.
    pub fn transmits(&self) -> impl Iterator<Item = (&Transmit, &[u8])> {
        self.transmits
            .iter()
            .map(|transmit| (transmit, &self.arena[transmit.payload.clone()]))
    }

    /// The packets to write into the TUN.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.iter().map(|range| &self.arena[range.clone()])
    }

    /// What happened.
    #[must_use]
    pub fn events(&self) -> &[Event] {
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
        self.transmits.clear();
        self.packets.clear();
        self.events.clear();
        self.arena.clear();
    }

    pub(super) fn command(&mut self, command: Command) {
        self.commands.push(command);
    }

    pub(super) fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    pub(super) fn transmit(
        &mut self,
        mapping: MappingId,
        to: Endpoint,
        treatment: Treatment,
        dont_fragment: bool,
        payload: &[u8],
    ) {
        let start = self.arena.len();
        self.arena.extend_from_slice(payload);
        self.transmits.push(Transmit {
            mapping,
            to,
            treatment,
            dont_fragment,
            payload: start..self.arena.len(),
        });
    }

    /// Takes back the datagrams that wait for a mapping's socket.
    pub(super) fn recall(&mut self, mapping: MappingId) -> Vec<(Endpoint, Range<usize>)> {
        let recalled = self.transmits.extract_if(.., |it| it.mapping == mapping);
        recalled.map(|it| (it.to, it.payload)).collect()
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
        headers: &udp::Headers,
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
        error: icmp::Error,
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
