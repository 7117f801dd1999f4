//! The pure engine: (state, packet, now) in, outbox out.
//!
//! # Theory of operation
//!
//! The driver hands in what came out of the file descriptors, with the time at which it woke up; the engine answers by
//! putting things into an [`Outbox`], which the driver flushes in a fixed order (see there). The engine knows no clock,
//! no socket and no kernel, so a test is a list of packets and times.
//!
//! ```text
//! Out   handle_tun        parse -> verdict -> mapping -> transmit         (or a rejection back into the TUN)
//! Back  handle_datagram   filter -> headers before the payload -> packet for the TUN
//!       handle_error      what the error queue returned -> ICMP to the application
//! TCP   handle_connected / handle_connect_failed / handle_stream (see the `tcp` module)
//! Time  poll_timeout -> handle_timeout: mappings end
//! Shell handle_opened / handle_open_failed: what became of a command
//! ```
//!
//! What comes out of the TUN and is not in the policy is rejected, never forwarded: this process is no way around the
//! VPN for anything but the policy.

mod outbox;
mod stats;
mod tcp;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::nat::{self, MapError, Mapped, Refusal};
use crate::net::{Endpoint, Inside, MappingId, Outside, Protocol, TrafficClass};
use crate::policy::{Action, Policy};
use crate::wire::{Packet, Transport, icmp, udp};

pub use outbox::{Command, Event, Outbox, Transmit};
pub use stats::{Counters, DropReason, MappingReport, Snapshot};
pub use tcp::{ConnectError, ConnectionReport, ConnectionState, TcpCounters, TcpSettings};

/// The room that a received payload must have before it: the headers are written there.
pub const HEADROOM: usize = crate::wire::HEADROOM;

/// The hop limit of datagrams that we write: the kernel does not tell with which one they arrived at the socket.
const HOP_LIMIT: u8 = 64;

/// An address of this machine that replies must not name on their way in, and the one they carry instead until the
/// firewall's prerouting has translated it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Alias {
    /// The address that is written into the packet.
    pub alias: IpAddr,
    /// The address that the application's socket is bound to.
    pub real: IpAddr,
}

/// What a socket's error queue returned of a datagram that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnedError<'a> {
    /// Whom the datagram was for.
    pub to: Endpoint,
    /// Who reported the error; `None` when it was this machine.
    pub offender: Option<IpAddr>,
    /// What went wrong.
    pub error: icmp::Error,
    /// As much of the datagram's payload as came back.
    pub payload: &'a [u8],
}

/// The state between the TUN and the sockets.
#[derive(Debug)]
pub struct Engine {
    policy: Arc<Policy>,
    nat: nat::Table,
    tcp: tcp::Proxy,
    aliases: Vec<Alias>,
    counters: Counters,
}

impl Engine {
    /// Makes an engine without mappings.
    #[must_use]
    pub fn new(policy: Arc<Policy>, nat: nat::Settings) -> Self {
        Self {
            policy,
            nat: nat::Table::new(nat),
            tcp: tcp::Proxy::new(TcpSettings::default()),
            aliases: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Takes a packet that an application sent into the TUN.
    pub fn handle_tun(&mut self, bytes: &[u8], now: Instant, outbox: &mut Outbox) {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(fault) => return self.counters.drop_out(DropReason::Malformed(fault)),
        };
        match packet.transport() {
            Transport::Udp(datagram) => {
                let inside = Inside(Endpoint::new(packet.source(), datagram.source_port));
                let remote = Endpoint::new(packet.destination(), datagram.destination_port);
                let verdict = self.policy.evaluate(Protocol::Udp, remote);
                if verdict.action != Action::Relay {
                    return self.reject(
                        &packet,
                        DropReason::NotInPolicy,
                        icmp::Error::AdminProhibited,
                        outbox,
                    );
                }
                if packet.hop_limit() <= 1 {
                    let expired = icmp::Error::HopLimitExceeded;
                    return self.reject(&packet, DropReason::HopLimitExceeded, expired, outbox);
                }
                let mapping = match self.nat.map(inside, remote, now) {
                    Ok(Mapped::Known(mapping)) => mapping,
                    Ok(Mapped::New(mapping)) => {
                        let treatment = verdict.treatment;
                        outbox.command(Command::Open {
                            mapping,
                            inside,
                            treatment,
                        });
                        mapping
                    }
                    Err(limit) => {
                        return self.reject(
                            &packet,
                            limit.into(),
                            icmp::Error::AdminProhibited,
                            outbox,
                        );
                    }
                };
                self.counters.count_out(datagram.payload.len());
                outbox.transmit(mapping, remote, verdict.treatment, datagram.payload);
            }
            Transport::Tcp(segment) => self.handle_segment(&packet, segment, now, outbox),
            Transport::Fragment(_) => self.counters.drop_out(DropReason::Fragment),
            _ => self.reject(
                &packet,
                DropReason::NotInPolicy,
                icmp::Error::AdminProhibited,
                outbox,
            ),
        }
    }

    /// Takes a datagram that a mapping's socket received from `from`: the payload lies at `payload` in `buffer`, behind
    /// at least [`HEADROOM`] bytes that are overwritten.
    ///
    /// # Panics
    /// When the headroom is missing.
    pub fn handle_datagram(
        &mut self,
        mapping: MappingId,
        from: Endpoint,
        traffic_class: TrafficClass,
        buffer: &mut [u8],
        payload: std::ops::Range<usize>,
        outbox: &mut Outbox,
    ) {
        let inside = match self.nat.admit(mapping, from) {
            Ok(inside) => inside,
            Err(refusal) => return self.counters.drop_in(refusal.into()),
        };
        let length = payload.len();
        let destination = Endpoint::new(self.alias_of(inside.0.addr), inside.0.port);
        let headers = udp::Headers {
            source: from,
            destination,
            traffic_class,
            hop_limit: HOP_LIMIT,
        };
        match udp::prepend(buffer, payload, &headers) {
            Ok(packet) => {
                self.counters.count_in(length);
                outbox.packet(&buffer[packet]);
            }
            Err(fault) => self.counters.drop_in(DropReason::Unwritable(fault)),
        }
    }

    /// Takes an error that the direct path, or this machine, returned for a datagram of a mapping.
    ///
    /// The application gets it as the ICMP message that it would have got without us. The mapping stands (RFC 4787
    /// REQ-12).
    pub fn handle_error(
        &mut self,
        mapping: MappingId,
        returned: &ReturnedError<'_>,
        outbox: &mut Outbox,
    ) {
        // The error names a remote: only one that the mapping has sent to can be meant.
        let inside = match self.nat.admit(mapping, returned.to) {
            Ok(inside) => inside,
            Err(refusal) => return self.counters.drop_in(refusal.into()),
        };
        let sent = udp::Headers {
            source: inside.0,
            destination: returned.to,
            traffic_class: TrafficClass::default(),
            hop_limit: HOP_LIMIT,
        };
        let reporter = returned.offender.unwrap_or(returned.to.addr);
        let written = udp::write_datagram(outbox.scratch(), &sent, returned.payload)
            .and_then(|()| outbox.icmp(returned.error, reporter, self.alias_of(inside.0.addr)));
        match written {
            Ok(()) => self.counters.errors_returned += 1,
            Err(fault) => self.counters.drop_in(DropReason::Unwritable(fault)),
        }
    }

    /// Takes the news that a mapping's socket is open.
    pub fn handle_opened(
        &mut self,
        mapping: MappingId,
        outside: Outside<Endpoint>,
        outbox: &mut Outbox,
    ) {
        self.nat.opened(mapping, outside);
        if let Some(entry) = self.nat.get(mapping) {
            outbox.event(Event::Established {
                mapping,
                inside: entry.inside,
                outside,
            });
        }
    }

    /// Takes the news that a mapping's socket could not be opened: the mapping ends, the next packet tries again.
    pub fn handle_open_failed(&mut self, mapping: MappingId) {
        if self.nat.remove(mapping).is_some() {
            self.counters.drop_out(DropReason::OpenFailed);
        }
    }

    /// Takes the news that the kernel refused to send a datagram, for a reason that no error queue tells.
    pub fn handle_send_failed(&mut self) {
        self.counters.drop_out(DropReason::SendFailed);
    }

    /// Takes the news that the TUN took a packet not: its queue is full.
    pub fn handle_delivery_failed(&mut self) {
        self.counters.drop_in(DropReason::TunFull);
    }

    /// Takes a new policy: every later packet is judged by it. Mappings stand; what it no longer relays is rejected.
    /// TCP connections that it no longer relays are reset at the next [`Engine::handle_timeout`], which is due at once.
    pub fn handle_policy(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
        self.revoke_connections();
    }

    /// Takes the addresses that replies must not name (see [`Alias`]).
    pub fn handle_aliases(&mut self, aliases: Vec<Alias>) {
        self.aliases = aliases;
    }

    /// When [`Engine::handle_timeout`] has something to do next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = [self.nat.poll_timeout(), self.tcp.poll_timeout()];
        due.into_iter().flatten().min()
    }

    /// Ends what is over at `now`.
    pub fn handle_timeout(&mut self, now: Instant, outbox: &mut Outbox) {
        while let Some((mapping, entry)) = self.nat.expire(now) {
            outbox.command(Command::Close { mapping });
            outbox.event(Event::Ended {
                mapping,
                inside: entry.inside,
            });
        }
        self.handle_connections_due(now, outbox);
    }

    /// The mappings and counters as they are.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let mappings = self.nat.iter().map(|(id, mapping)| MappingReport {
            id,
            inside: mapping.inside,
            outside: mapping.outside,
            contacts: mapping.contacts(),
            age: now.saturating_duration_since(mapping.created),
            idle: now.saturating_duration_since(mapping.refreshed),
        });
        Snapshot {
            mappings: mappings.collect(),
            connections: self.tcp.reports(now),
            counters: self.counters.clone(),
        }
    }

    fn reject(
        &mut self,
        packet: &Packet<'_>,
        reason: DropReason,
        error: icmp::Error,
        outbox: &mut Outbox,
    ) {
        self.counters.drop_out(reason);
        if !icmp::may_answer(packet) {
            return;
        }
        // The TUN has no address of its own: the far end speaks for the path to it, as a filtering router's REJECT does.
        let (from, to) = (packet.destination(), self.alias_of(packet.source()));
        outbox.scratch().extend_from_slice(packet.bytes());
        if outbox.icmp(error, from, to).is_ok() {
            self.counters.rejected += 1;
        }
    }

    fn alias_of(&self, real: IpAddr) -> IpAddr {
        self.aliases
            .iter()
            .find(|entry| entry.real == real)
            .map_or(real, |entry| entry.alias)
    }
}

impl From<MapError> for DropReason {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Mappings => Self::TooManyMappings,
            MapError::Contacts => Self::TooManyContacts,
        }
    }
}

impl From<Refusal> for DropReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoMapping => Self::NoMapping,
            Refusal::Unsolicited => Self::Unsolicited,
        }
    }
}
