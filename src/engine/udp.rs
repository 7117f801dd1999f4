//! The UDP half of the engine.

use std::net::IpAddr;
use std::time::Instant;

use super::{Arrival, Command, DropReason, Engine, Event, Outbox, ReturnedError, TUN_MTU};
use crate::nat::{MapError, Mapped, Refusal};
use crate::net::{Dscp, Endpoint, Inside, MappingId, Outside, Protocol, TrafficClass, Treatment};
use crate::policy::Action;
use crate::wire::{Packet, WriteError, icmp, udp};

/// The hop limit of datagrams that we write: the kernel does not tell with which one they arrived at the socket.
const HOP_LIMIT: u8 = 64;

impl Engine {
    /// Takes a datagram that an application sent into the TUN.
    pub(super) fn handle_udp(
        &mut self,
        packet: &Packet<'_>,
        datagram: &udp::Datagram<'_>,
        dont_fragment: bool,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let inside = Inside(Endpoint::new(packet.source(), datagram.source_port));
        let remote = Endpoint::new(packet.destination(), datagram.destination_port);
        let verdict = self.policy.evaluate(Protocol::Udp, remote);
        let (neighbour, treatment) = if verdict.action == Action::Relay {
            (None, verdict.treatment)
        } else if let Some(neighbour) = self.nat.at_outside(Outside(remote)) {
            (Some(neighbour), Treatment::of(Dscp::DF))
        } else {
            let prohibited = icmp::Error::AdminProhibited;
            return self.reject(packet, DropReason::NotInPolicy, prohibited, now, outbox);
        };
        if !icmp::may_answer(packet) {
            return self.counters.drop_out(DropReason::Martian);
        }
        if packet.hop_limit() <= 1 {
            let expired = icmp::Error::HopLimitExceeded;
            return self.reject(packet, DropReason::HopLimitExceeded, expired, now, outbox);
        }
        let mapping = match self.nat.map(inside, remote, now) {
            Ok(Mapped::Known(mapping)) => mapping,
            Ok(Mapped::New(mapping)) => {
                outbox.command(Command::Open {
                    mapping,
                    inside,
                    treatment,
                });
                mapping
            }
            Err(limit) => {
                let prohibited = icmp::Error::AdminProhibited;
                return self.reject(packet, limit.into(), prohibited, now, outbox);
            }
        };
        if let Some(neighbour) = neighbour {
            let class = packet.traffic_class();
            return self.hairpin(mapping, neighbour, class, datagram.payload, now, outbox);
        }
        self.counters.count_out(datagram.payload.len());
        outbox.transmit(mapping, remote, treatment, dont_fragment, datagram.payload);
    }

    /// Turns a datagram back to the inside endpoint whose outside endpoint it was sent to (RFC 4787 REQ-9). It arrives
    /// from the sender's outside endpoint, and passes the same filter as if it had been outside.
    fn hairpin(
        &mut self,
        from: MappingId,
        to: MappingId,
        traffic_class: TrafficClass,
        payload: &[u8],
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let known = self.nat.get(from).and_then(|mapping| mapping.outside);
        // A socket that is not open yet, or that is bound to no address, has no endpoint to come from.
        let Some(Outside(source)) = known.filter(|it| !it.0.addr.is_unspecified()) else {
            return self.counters.drop_out(DropReason::NoOutsideEndpoint);
        };
        let inside = match self.nat.admit(to, source, now) {
            Ok(inside) => inside,
            Err(refusal) => return self.counters.drop_in(refusal.into()),
        };
        let headers = self.headers(source, inside, traffic_class);
        let written = udp::write_datagram(outbox.scratch(), &headers, payload);
        match written {
            Ok(()) => {
                self.counters.hairpinned += 1;
                outbox.scratched_packet(TUN_MTU, self.identify());
            }
            Err(fault) => self.counters.drop_in(DropReason::Unwritable(fault)),
        }
    }

    /// Takes a datagram that a mapping's socket received.
    ///
    /// # Panics
    /// When the headroom is missing.
    pub fn handle_datagram(
        &mut self,
        mapping: MappingId,
        arrival: Arrival<'_>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let Arrival {
            from,
            traffic_class,
            buffer,
            payload,
        } = arrival;
        let inside = match self.nat.admit(mapping, from, now) {
            Ok(inside) => inside,
            Err(refusal) => return self.counters.drop_in(refusal.into()),
        };
        let length = payload.len();
        let headers = self.headers(from, inside, traffic_class);
        match udp::prepend(buffer, payload, &headers) {
            Ok(packet) => {
                self.counters.count_in(length);
                outbox.packet(&buffer[packet], TUN_MTU, self.identify());
            }
            Err(fault) => self.counters.drop_in(DropReason::Unwritable(fault)),
        }
    }

    /// Takes an error that the direct path, or this machine, returned for a datagram of a mapping.
    ///
    /// The application gets it as the ICMP message that it would have got without us. The mapping stands (RFC 4787
    /// REQ-12), and is not refreshed.
    pub fn handle_error(
        &mut self,
        mapping: MappingId,
        returned: &ReturnedError<'_>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        // The error names a remote: only one that the mapping has sent to can be meant.
        let inside = match self.nat.admit_error(mapping, returned.to) {
            Ok(inside) => inside,
            Err(refusal) => return self.counters.drop_in(refusal.into()),
        };
        if !self.returns.allows(now) {
            self.counters.errors_suppressed += 1;
            return;
        }
        let sent = sent(inside, returned.to);
        let reporter = returned.offender.unwrap_or(returned.to.addr);
        let written = udp::write_datagram(outbox.scratch(), &sent, returned.payload);
        self.pass_on(written, returned.error, reporter, inside, outbox);
    }

    /// Takes the news that a mapping's socket is open, for the first time or on another uplink.
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

    /// Takes the news that a mapping's socket could not be opened: the mapping ends, the next packet tries again. What
    /// waits in the outbox for the socket is answered with `error`.
    pub fn handle_open_failed(
        &mut self,
        mapping: MappingId,
        error: icmp::Error,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let Some(entry) = self.nat.remove(mapping) else {
            return;
        };
        let inside = entry.inside;
        if entry.outside.is_some() {
            outbox.event(Event::Ended { mapping, inside });
        }
        for (to, payload) in outbox.recall(mapping) {
            self.counters.drop_out(DropReason::OpenFailed);
            if !self.returns.allows(now) {
                self.counters.errors_suppressed += 1;
                continue;
            }
            let written = outbox.quote(&sent(inside, to), payload);
            self.pass_on(written, error, to.addr, inside, outbox);
        }
    }

    /// Takes the news that the kernel refused to send a datagram. What the application is to be told of it comes by
    /// [`Engine::handle_error`].
    pub fn handle_send_failed(&mut self) {
        self.counters.drop_out(DropReason::SendFailed);
    }

    /// Sends an error of somebody else about what was written into the scratch buffer.
    fn pass_on(
        &mut self,
        written: Result<(), WriteError>,
        error: icmp::Error,
        reporter: IpAddr,
        inside: Inside<Endpoint>,
        outbox: &mut Outbox,
    ) {
        let to = self.alias_of(inside.0.addr);
        match written.and_then(|()| outbox.icmp(error, reporter, to)) {
            Ok(()) => self.counters.errors_returned += 1,
            Err(fault) => self.counters.drop_in(DropReason::Unwritable(fault)),
        }
    }

    /// The headers of a datagram for an inside endpoint.
    fn headers(
        &self,
        source: Endpoint,
        inside: Inside<Endpoint>,
        traffic_class: TrafficClass,
    ) -> udp::Headers {
        udp::Headers {
            source,
            destination: Endpoint::new(self.alias_of(inside.0.addr), inside.0.port),
            traffic_class,
            hop_limit: HOP_LIMIT,
        }
    }

    /// What tells the fragments of the next large packet from those of others.
    fn identify(&mut self) -> u32 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }
}

/// The headers of a datagram that the application sent, as far as an error has to quote them.
fn sent(inside: Inside<Endpoint>, to: Endpoint) -> udp::Headers {
    udp::Headers {
        source: inside.0,
        destination: to,
        traffic_class: TrafficClass::default(),
        hop_limit: HOP_LIMIT,
    }
}

impl From<MapError> for DropReason {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Mappings => Self::TooManyMappings,
            MapError::MappingsOfAddress => Self::TooManyMappingsOfAddress,
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
