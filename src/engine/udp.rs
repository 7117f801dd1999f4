//! The UDP half of the engine.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::path::{MappingPath, SocketState};
use super::{
    DropReason, Engine, EngineEvent, FailbackCause, FailoverCause, Outbox, ReceivedDatagram,
    ReturnedError, Transmit,
};
use crate::call::DatagramKind;
use crate::nat::{AdmitError, MapError, Mapped};
use crate::net::{
    Dscp, Egress, Endpoint, Inside, MappingId, Outside, Protocol, TrafficClass, Treatment,
};
use crate::policy::Action;
use crate::wire::{IcmpError, Packet, WriteError, icmp, udp};

/// The hop limit of datagrams that we write: the kernel does not tell with which one they arrived at the socket.
const HOP_LIMIT: u8 = 64;

/// Media that waited in a queue for so long is of no use to a listener (ITU-T G.114: 400 ms from mouth to ear at most, the whole path
/// included), and keeps what comes behind it waiting.
const STALE: Duration = Duration::from_millis(250);

impl Engine {
    /// Takes a datagram that an application sent into the TUN.
    pub(super) fn handle_udp(
        &mut self,
        packet: &Packet<'_>,
        datagram: &udp::UdpDatagram<'_>,
        dont_fragment: bool,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let inside = Inside(Endpoint::new(packet.source(), datagram.source_port));
        let remote = Endpoint::new(packet.destination(), datagram.destination_port);
        let verdict = self.policy.evaluate(Protocol::Udp, remote);
        let (neighbour, treatment) = match verdict.action {
            Action::Relay => (None, verdict.treatment),
            other => match (other, self.nat.at_outside(Outside(remote))) {
                (_, Some(neighbour)) => (Some(neighbour), Treatment::of(Dscp::DF)),
                (Action::Tunnel, None) => {
                    let prohibited = IcmpError::AdminProhibited;
                    return self.reject(packet, DropReason::NotInPolicy, prohibited, now, outbox);
                }
                // It goes on as it would have gone without us, marks included.
                (_, None) => (None, Treatment::of(packet.traffic_class().dscp)),
            },
        };
        if !icmp::may_answer(packet) {
            return self.counters.drop_out(DropReason::Martian);
        }
        if packet.hop_limit() <= 1 {
            let expired = IcmpError::HopLimitExceeded;
            return self.reject(packet, DropReason::HopLimitExceeded, expired, now, outbox);
        }
        let mapping = match self.nat.map(inside, remote, now) {
            Ok(Mapped::Known(mapping)) => {
                if self.paths.sweep.is_some() {
                    self.catch_up(mapping, now, outbox);
                }
                mapping
            }
            Ok(Mapped::New(mapping)) => {
                self.lay_path(mapping, inside, treatment, now, outbox);
                mapping
            }
            Err(limit) => {
                let prohibited = IcmpError::AdminProhibited;
                return self.reject(packet, limit.into(), prohibited, now, outbox);
            }
        };
        if let Some(neighbour) = neighbour {
            let class = packet.traffic_class();
            if self.nat.get(mapping).is_some_and(|it| it.outside.is_none()) {
                let way = self
                    .paths
                    .get(mapping)
                    .map_or(Egress::Direct, MappingPath::way);
                self.need_socket(mapping, way, outbox);
            }
            return self.hairpin(mapping, neighbour, class, datagram.payload, now, outbox);
        }
        let payload = datagram.payload;
        let way = match verdict.action {
            Action::Relay => self.route(mapping, remote, treatment, payload, now, outbox),
            Action::Return | Action::Tunnel => Egress::Tunnel,
        };
        self.need_socket(mapping, way, outbox);
        self.counters.count_out(way, payload.len());
        outbox.transmit(mapping, way, remote, treatment, dont_fragment, payload);
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
                outbox.scratched_packet(self.mtu, self.identify());
            }
            Err(fault) => self.counters.drop_in(DropReason::Unwritable(fault)),
        }
    }

    /// Takes a datagram that one of a mapping's sockets received.
    ///
    /// # Panics
    /// When the headroom is missing.
    pub fn handle_datagram(
        &mut self,
        mapping: MappingId,
        way: Egress,
        arrival: ReceivedDatagram<'_>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let ReceivedDatagram {
            from,
            traffic_class,
            waited,
            buffer,
            payload,
        } = arrival;
        let inside = match self.nat.admit(mapping, from, now) {
            Ok(inside) => inside,
            Err(refusal) => return self.counters.drop_in(refusal.into()),
        };
        self.hear(mapping, way, &buffer[payload.clone()], now, outbox);
        if waited > STALE && is_media(&buffer[payload.clone()]) {
            return self.counters.drop_in(DropReason::Stale);
        }
        let length = payload.len();
        let headers = self.headers(from, inside, self.remarked(from, traffic_class));
        match udp::prepend(buffer, payload, &headers) {
            Ok(packet) => {
                self.counters.count_in(length);
                outbox.packet(&buffer[packet], self.mtu, self.identify());
            }
            Err(fault) => self.counters.drop_in(DropReason::Unwritable(fault)),
        }
    }

    /// Takes an error that the path, or this machine, returned for a datagram of a mapping.
    ///
    /// The application gets it as the ICMP message that it would have got without us, unless the call goes on in the
    /// VPN. The mapping stands (RFC 4787 REQ-12), and is not refreshed.
    pub fn handle_error(
        &mut self,
        mapping: MappingId,
        way: Egress,
        returned: &ReturnedError<'_>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        // The error names a remote: only one that the mapping has sent to can be meant.
        let inside = match self.nat.admit_error(mapping, returned.to) {
            Ok(inside) => inside,
            Err(refusal) => return self.counters.drop_in(refusal.into()),
        };
        if way == Egress::Direct && self.is_of_the_path(mapping, returned, now, outbox) {
            return;
        }
        self.tell(inside, returned, now, outbox);
    }

    /// Whether an error is one of the direct way's that the application has no use for, because its datagrams go another.
    fn is_of_the_path(
        &mut self,
        mapping: MappingId,
        returned: &ReturnedError<'_>,
        now: Instant,
        outbox: &mut Outbox,
    ) -> bool {
        if self.paths.is_on_former_uplink(mapping) {
            return true;
        }
        let Some(path) = self.paths.get_mut(mapping) else {
            return false;
        };
        if path.fallen().is_some() {
            path.trial_failed();
            return true;
        }
        // What the remote itself says is about the remote.
        let by_router = returned.offender.is_some_and(|it| it != returned.to.addr);
        by_router
            && denies_the_way(returned.error)
            && path.is_in_doubt(now)
            && self.fall(mapping, FailoverCause::Unreachable, now, outbox)
    }

    /// Tells the application of an error.
    fn tell(
        &mut self,
        inside: Inside<Endpoint>,
        returned: &ReturnedError<'_>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if !self.returns.allows(now) {
            self.counters.errors_suppressed += 1;
            return;
        }
        let sent = sent(inside, returned.to);
        let reporter = returned.offender.unwrap_or(returned.to.addr);
        let written = udp::write_datagram(outbox.scratch(), &sent, returned.payload);
        self.pass_on(written, returned.error, reporter, inside, outbox);
    }

    /// Takes the news that a socket of a mapping is open, for the first time or on another uplink.
    pub fn handle_opened(
        &mut self,
        mapping: MappingId,
        way: Egress,
        outside: Outside<Endpoint>,
        outbox: &mut Outbox,
    ) {
        let stands_for_it = self.note_opened(mapping, way, outside);
        let Some(entry) = self.nat.get(mapping) else {
            return;
        };
        let inside = entry.inside;
        if stands_for_it || entry.outside.is_none() {
            self.nat.opened(mapping, outside);
        }
        outbox.event(EngineEvent::Established {
            mapping,
            inside,
            way,
            outside,
        });
    }

    /// Takes the news that a socket of a mapping could not be opened. What waits in the outbox for it goes the other way
    /// if it may, and else is answered with `error`. Without any socket the mapping ends, and the next packet tries
    /// again.
    pub fn handle_open_failed(
        &mut self,
        mapping: MappingId,
        way: Egress,
        error: IcmpError,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let Some(inside) = self.nat.get(mapping).map(|entry| entry.inside) else {
            return;
        };
        let mut is_trial = false;
        if let Some(path) = self.paths.get_mut(mapping) {
            path.set_socket(way, SocketState::Closed);
            is_trial = way == Egress::Direct && path.fallen().is_some();
            path.trial_failed();
        }
        let is_gone = way == Egress::Direct && denies_the_way(error) && !prohibits(error);
        if is_gone && !is_trial && self.fall(mapping, FailoverCause::NoSocket, now, outbox) {
            return outbox.redirect(mapping, Egress::Direct, Egress::Tunnel);
        }
        let recalled = outbox.recall(mapping, way);
        if is_trial {
            return;
        }
        let path = self.paths.get(mapping);
        let has_socket = |way| path.is_some_and(|it| it.socket(way) != SocketState::Closed);
        if Egress::BOTH.into_iter().any(has_socket) {
            self.come_back(mapping, FailbackCause::TunnelUnavailable, now, outbox);
        } else if let Some(entry) = self.nat.remove(mapping) {
            self.paths.remove(mapping);
            if entry.outside.is_some() {
                outbox.event(EngineEvent::Ended { mapping, inside });
            }
        }
        for (to, payload) in recalled {
            self.counters.drop_out(DropReason::OpenFailed);
            if !self.returns.allows(now) {
                self.counters.errors_suppressed += 1;
                continue;
            }
            let written = outbox.quote(&sent(inside, to), payload);
            self.pass_on(written, error, to.addr, inside, outbox);
        }
    }

    /// Takes the news that the kernel refused to send the datagram at a place in the outbox, and what a router would say
    /// instead of the kernel's word, if it would say anything.
    ///
    /// A refusal of the direct way costs nothing: the datagram is in the outbox again, for the tunnel.
    pub fn handle_send_failed(
        &mut self,
        at: usize,
        told: Option<IcmpError>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let Some((transmit, payload)) = outbox.transmit_at(at) else {
            return;
        };
        let &Transmit {
            mapping,
            way,
            to,
            is_copy,
            ..
        } = transmit;
        let payload = payload.to_vec();
        let goes_on = way == Egress::Direct
            && told.is_some_and(denies_the_way)
            && self.fall(mapping, FailoverCause::Refused, now, outbox);
        if is_copy {
            // The application did not send it.
            if let Some(path) = self.paths.get_mut(mapping) {
                path.trial_failed();
            }
            return;
        }
        if goes_on {
            return outbox.send_again(at, Egress::Tunnel);
        }
        self.counters.drop_out(DropReason::SendFailed);
        let inside = self.nat.admit_error(mapping, to);
        if let Some((error, inside)) = told.zip(inside.ok()) {
            let returned = ReturnedError {
                to,
                offender: None,
                error,
                payload: &payload,
            };
            self.tell(inside, &returned, now, outbox);
        }
    }

    /// Sends an error of somebody else about what was written into the scratch buffer.
    fn pass_on(
        &mut self,
        written: Result<(), WriteError>,
        error: IcmpError,
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
    ) -> udp::UdpHeaders {
        udp::UdpHeaders {
            source,
            destination: Endpoint::new(self.alias_of(inside.0.addr), inside.0.port),
            traffic_class,
            hop_limit: HOP_LIMIT,
        }
    }

    /// The traffic class of an answer: another one where that is wanted, and if it is media's.
    fn remarked(&self, from: Endpoint, arrived: TrafficClass) -> TrafficClass {
        let is_media = || self.policy.evaluate(Protocol::Udp, from).action == Action::Relay;
        match self.remark.filter(|_| is_media()) {
            Some(dscp) => TrafficClass { dscp, ..arrived },
            None => arrived,
        }
    }

    /// What tells the fragments of the next large packet from those of others.
    fn identify(&mut self) -> u32 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }
}

/// Whether somebody is to hear or see this datagram; checks and handshakes are worth having late, too.
fn is_media(payload: &[u8]) -> bool {
    matches!(
        DatagramKind::of(payload),
        Some(DatagramKind::Rtp | DatagramKind::Rtcp | DatagramKind::TurnChannel)
    )
}

/// Whether an error, said by a router or by this machine, is about the way and not about the remote.
fn denies_the_way(error: IcmpError) -> bool {
    use IcmpError::{HostUnreachable, NetUnreachable};
    matches!(error, NetUnreachable | HostUnreachable) || prohibits(error)
}

fn prohibits(error: IcmpError) -> bool {
    error == IcmpError::AdminProhibited
}

/// The headers of a datagram that the application sent, as far as an error has to quote them.
fn sent(inside: Inside<Endpoint>, to: Endpoint) -> udp::UdpHeaders {
    udp::UdpHeaders {
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
            MapError::PermittedRemotes => Self::TooManyContacts,
        }
    }
}

impl From<AdmitError> for DropReason {
    fn from(refusal: AdmitError) -> Self {
        match refusal {
            AdmitError::NoMapping => Self::NoMapping,
            AdmitError::Unsolicited => Self::Unsolicited,
        }
    }
}
