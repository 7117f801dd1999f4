//! The UDP half of the engine.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::ICMP_ERRORS;
use super::failover::{MappingPath, SocketState};
use super::{
    DropReason, EndCause, Engine, EngineEvent, FailbackCause, FailoverCause, Outbox,
    ReceivedDatagram, ReturnedError, Transmit,
};
use crate::call::DatagramKind;
use crate::nat::{AdmitError, MapError, Mapped};
use crate::net::{
    Dscp, Egress, Endpoint, Inside, MappingId, Outside, Protocol, TrafficClass, Treatment,
};
use crate::policy::Action;
use crate::wire::{IcmpError, Packet, WriteError, reply, udp};

/// The hop limit of datagrams written into the TUN: the relay does not read the received one.
const HOP_LIMIT: u8 = 64;

/// The longest time that media may wait in a socket's queue. Older media is of no use (ITU-T G.114: at most 400 ms from
/// mouth to ear on the whole path), and delays what follows.
const MAX_MEDIA_DELAY: Duration = Duration::from_millis(250);

impl Engine {
    /// Handles a datagram that an application sent into the TUN.
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
        let (hairpin_target, treatment) = match verdict.action {
            Action::Relay => (None, verdict.treatment),
            other => match (other, self.nat.at_outside(Outside(remote))) {
                (_, Some(hairpin_target)) => (Some(hairpin_target), Treatment::of(Dscp::DF)),
                (Action::Tunnel, None) => {
                    let prohibited = IcmpError::AdminProhibited;
                    return self.reject(packet, DropReason::NotInPolicy, prohibited, now, outbox);
                }
                // Prefix capture: the packet returns to the VPN with its DSCP unchanged.
                (_, None) => (None, Treatment::of(packet.traffic_class().dscp)),
            },
        };
        if !reply::may_answer(packet) {
            return self.counters.drop_out(DropReason::Martian);
        }
        if packet.hop_limit() <= 1 {
            let expired = IcmpError::HopLimitExceeded;
            return self.reject(packet, DropReason::HopLimitExceeded, expired, now, outbox);
        }
        let mut mapped = self.nat.map(inside, remote, now);
        if let Err(MapError::Mappings | MapError::MappingsOfAddress) = mapped
            && let Some((evicted, entry)) = self.nat.evict(inside.0.addr)
        {
            for egress in Egress::BOTH {
                outbox.recall(evicted, egress);
            }
            self.end_mapping(evicted, &entry, EndCause::Evicted, outbox);
            self.counters.evicted += 1;
            mapped = self.nat.map(inside, remote, now);
        }
        let mapping = match mapped {
            Ok(Mapped::Known(mapping)) => {
                if self.paths.resync.is_some() {
                    self.resync(mapping, now, outbox);
                }
                mapping
            }
            Ok(Mapped::New(mapping)) => {
                self.init_path(mapping, inside, treatment, now, outbox);
                mapping
            }
            Err(limit) => {
                let prohibited = IcmpError::AdminProhibited;
                return self.reject(packet, limit.into(), prohibited, now, outbox);
            }
        };
        if let Some(hairpin_target) = hairpin_target {
            let class = packet.traffic_class();
            if self.nat.get(mapping).is_some_and(|it| it.outside.is_none()) {
                let egress = self
                    .paths
                    .get(mapping)
                    .map_or(Egress::Direct, MappingPath::egress);
                self.ensure_socket(mapping, egress, outbox);
            }
            return self.hairpin(
                mapping,
                hairpin_target,
                class,
                datagram.payload,
                now,
                outbox,
            );
        }
        let payload = datagram.payload;
        let egress = match verdict.action {
            Action::Relay => self.select_egress(mapping, remote, treatment, payload, now, outbox),
            Action::Return | Action::Tunnel => Egress::Tunnel,
        };
        self.ensure_socket(mapping, egress, outbox);
        self.counters.count_out(egress, payload.len());
        let transmit = outbox.transmit(mapping, egress, remote, treatment, payload);
        transmit.dont_fragment = dont_fragment;
        transmit.ecn = packet.traffic_class().ecn;
    }

    /// Hairpins a datagram to the inside endpoint whose outside endpoint is its destination (RFC 4787 REQ-9). Its source
    /// is the sender's outside endpoint, and it passes the receiver's filter.
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
        // A socket that is not open yet, or that is bound to every address, has no outside endpoint.
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
                outbox.scratch_packet(self.mtu, self.next_identification());
            }
            Err(fault) => self.counters.drop_in(DropReason::Unwritable(fault)),
        }
    }

    /// Handles a datagram that one of a mapping's sockets received.
    ///
    /// # Panics
    /// If the headroom is missing.
    pub fn handle_datagram(
        &mut self,
        mapping: MappingId,
        egress: Egress,
        arrival: ReceivedDatagram<'_>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let ReceivedDatagram {
            from,
            traffic_class,
            queue_delay,
            buffer,
            payload,
        } = arrival;
        let inside = match self.nat.admit(mapping, from, now) {
            Ok(inside) => inside,
            Err(refusal) => return self.counters.drop_in(refusal.into()),
        };
        self.on_received(mapping, egress, &buffer[payload.clone()], now, outbox);
        if queue_delay > MAX_MEDIA_DELAY && is_media(&buffer[payload.clone()]) {
            return self.counters.drop_in(DropReason::Stale);
        }
        let length = payload.len();
        let headers = self.headers(from, inside, self.remarked(from, traffic_class));
        match udp::prepend(buffer, payload, &headers) {
            Ok(packet) => {
                self.counters.count_in(length);
                outbox.packet(&buffer[packet], self.mtu, self.next_identification());
            }
            Err(fault) => self.counters.drop_in(DropReason::Unwritable(fault)),
        }
    }

    /// Handles an error that the path or this machine returned for a datagram of a mapping.
    ///
    /// The application gets the error as an ICMP message, unless the call fails over into the VPN. The mapping neither ends
    /// (RFC 4787 REQ-12) nor is refreshed.
    pub fn handle_error(
        &mut self,
        mapping: MappingId,
        egress: Egress,
        returned: &ReturnedError<'_>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        // Only a remote that the mapping has sent to can cause an error.
        let inside = match self.nat.admit_error(mapping, returned.to) {
            Ok(inside) => inside,
            Err(refusal) => return self.counters.drop_in(refusal.into()),
        };
        if egress == Egress::Direct && self.is_direct_path_error(mapping, returned, now, outbox) {
            return;
        }
        self.report_error(inside, returned, now, outbox);
    }

    /// Whether an error concerns the direct path alone, while the mapping's datagrams take another.
    fn is_direct_path_error(
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
        if path.failover_cause().is_some() {
            path.on_probe_failed();
            return true;
        }
        let is_from_router = returned.reporter.is_some_and(|it| it != returned.to.addr);
        if !is_from_router {
            // An error from the remote itself concerns the remote, not the path.
            if returned.error == IcmpError::PortUnreachable {
                path.on_peer_closed();
            }
            return false;
        }
        if !blocks_direct_path(returned.error) {
            return false;
        }
        let fails_over = path.on_router_error(now);
        self.paths.queue(mapping);
        fails_over && self.fail_over(mapping, FailoverCause::Unreachable, now, outbox)
    }

    /// Sends the application an error, within the rate limit.
    fn report_error(
        &mut self,
        inside: Inside<Endpoint>,
        returned: &ReturnedError<'_>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if !self.forwarded_errors.take(ICMP_ERRORS, now) {
            self.counters.errors_suppressed += 1;
            return;
        }
        let headers = quoted_headers(inside, returned.to);
        let reporter = returned.reporter.unwrap_or(returned.to.addr);
        let written = udp::write_datagram(outbox.scratch(), &headers, returned.payload);
        self.forward_error(written, returned.error, reporter, inside, outbox);
    }

    /// Records that a socket of a mapping is open, for the first time or on another uplink.
    pub fn handle_opened(
        &mut self,
        mapping: MappingId,
        egress: Egress,
        outside: Outside<Endpoint>,
        outbox: &mut Outbox,
    ) {
        let is_current = self.record_opened(mapping, egress, outside);
        let Some(entry) = self.nat.get(mapping) else {
            return;
        };
        let inside = entry.inside;
        if is_current || entry.outside.is_none() {
            self.nat.opened(mapping, outside);
        }
        outbox.event(EngineEvent::Established {
            mapping,
            inside,
            egress,
            outside,
        });
    }

    /// Handles a socket that could not be opened. If the mapping fails over, waiting datagrams leave by the tunnel socket;
    /// otherwise each is answered with `error`. A mapping without any socket ends.
    pub fn handle_open_failed(
        &mut self,
        mapping: MappingId,
        egress: Egress,
        error: IcmpError,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let Some(inside) = self.nat.get(mapping).map(|entry| entry.inside) else {
            return;
        };
        let mut is_probe = false;
        if let Some(path) = self.paths.get_mut(mapping) {
            path.set_socket(egress, SocketState::Closed);
            is_probe = egress == Egress::Direct && path.failover_cause().is_some();
            path.on_probe_failed();
        }
        let fails = egress == Egress::Direct && blocks_direct_path(error) && !is_prohibited(error);
        if fails && !is_probe && self.fail_over(mapping, FailoverCause::NoSocket, now, outbox) {
            return outbox.redirect(mapping, Egress::Direct, Egress::Tunnel);
        }
        let recalled = outbox.recall(mapping, egress);
        if is_probe {
            return;
        }
        let path = self.paths.get(mapping);
        let has_socket = |egress| path.is_some_and(|it| it.socket(egress) != SocketState::Closed);
        if Egress::BOTH.into_iter().any(has_socket) {
            self.fail_back(mapping, FailbackCause::TunnelUnavailable, now, outbox);
        } else if let Some(entry) = self.nat.remove(mapping) {
            if entry.outside.is_some() {
                self.record_end(mapping, &entry, EndCause::NoSocket, outbox);
            } else {
                self.paths.remove(mapping);
            }
        }
        for (to, payload) in recalled {
            self.counters.drop_out(DropReason::OpenFailed);
            if !self.forwarded_errors.take(ICMP_ERRORS, now) {
                self.counters.errors_suppressed += 1;
                continue;
            }
            let written = outbox.quote(&quoted_headers(inside, to), payload);
            self.forward_error(written, error, to.addr, inside, outbox);
        }
    }

    /// Handles a datagram that the kernel rejected, by its index in the outbox. `icmp_error` is the equivalent of
    /// the kernel's error, if there is one.
    ///
    /// If the mapping fails over, the datagram is added to the outbox again, for the tunnel.
    pub fn handle_send_failed(
        &mut self,
        at: usize,
        icmp_error: Option<IcmpError>,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let Some((transmit, payload)) = outbox.transmit_at(at) else {
            return;
        };
        let &Transmit {
            mapping,
            egress,
            to,
            is_copy,
            ..
        } = transmit;
        let payload = payload.to_vec();
        let failed_over = egress == Egress::Direct
            && icmp_error.is_some_and(blocks_direct_path)
            && self.fail_over(mapping, FailoverCause::Refused, now, outbox);
        if is_copy {
            // Not the application's own datagram: nothing to report.
            if let Some(path) = self.paths.get_mut(mapping) {
                path.on_probe_failed();
            }
            return;
        }
        if failed_over {
            return outbox.send_again(at, Egress::Tunnel);
        }
        self.counters.drop_out(DropReason::SendFailed);
        let inside = self.nat.admit_error(mapping, to);
        if let Some((error, inside)) = icmp_error.zip(inside.ok()) {
            let returned = ReturnedError {
                to,
                reporter: None,
                error,
                payload: &payload,
            };
            self.report_error(inside, &returned, now, outbox);
        }
    }

    /// Sends an error about the datagram in the scratch buffer on behalf of `reporter`.
    fn forward_error(
        &mut self,
        written: Result<(), WriteError>,
        error: IcmpError,
        reporter: IpAddr,
        inside: Inside<Endpoint>,
        outbox: &mut Outbox,
    ) {
        let to = self.reply_source_of(inside.0.addr);
        match written.and_then(|()| outbox.icmp(error, reporter, to)) {
            Ok(()) => self.counters.errors_returned += 1,
            Err(fault) => self.counters.drop_in(DropReason::Unwritable(fault)),
        }
    }

    /// Returns the headers of a datagram for an inside endpoint.
    fn headers(
        &self,
        source: Endpoint,
        inside: Inside<Endpoint>,
        traffic_class: TrafficClass,
    ) -> udp::UdpHeaders {
        udp::UdpHeaders {
            source,
            destination: Endpoint::new(self.reply_source_of(inside.0.addr), inside.0.port),
            traffic_class,
            hop_limit: HOP_LIMIT,
        }
    }

    /// Returns the traffic class of a received datagram: media is re-marked if that is configured.
    fn remarked(&self, from: Endpoint, arrived: TrafficClass) -> TrafficClass {
        let is_media = || self.policy.evaluate(Protocol::Udp, from).action == Action::Relay;
        match self.remark.filter(|_| is_media()) {
            Some(dscp) => TrafficClass { dscp, ..arrived },
            None => arrived,
        }
    }

    /// Returns the identification of the next fragmented packet.
    fn next_identification(&mut self) -> u32 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }
}

/// Whether a datagram is media, which is useless when it is late; late checks and handshakes are not.
pub(super) fn is_media(payload: &[u8]) -> bool {
    matches!(
        DatagramKind::of(payload),
        Some(DatagramKind::Rtp | DatagramKind::Rtcp | DatagramKind::TurnChannel)
    )
}

/// Whether an error from a router or this machine concerns the path, not the remote.
fn blocks_direct_path(error: IcmpError) -> bool {
    use IcmpError::{HostUnreachable, NetUnreachable};
    matches!(error, NetUnreachable | HostUnreachable) || is_prohibited(error)
}

fn is_prohibited(error: IcmpError) -> bool {
    error == IcmpError::AdminProhibited
}

/// Returns the headers of the application's datagram that an error quotes.
fn quoted_headers(inside: Inside<Endpoint>, to: Endpoint) -> udp::UdpHeaders {
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
            MapError::PermittedRemotes => Self::TooManyRemotes,
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
