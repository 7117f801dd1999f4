//! Captures the packets of every host on the path of a call.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::wireguard;
use crate::call::{DatagramKind, RtpHeader};
use crate::lab::{Frame, FrameCapture, FrameDirection, Namespace};
use crate::net::{Dscp, Endpoint};

/// The longest time of a packet in flight, the VPN's delay included.
const TRANSIT: Duration = Duration::from_millis(60);

/// A host with a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CapturePoint {
    Laptop,
    Home,
    Gateway,
    Cloud,
}

/// The kind of a packet that an observer on the wire can recognise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketKind {
    /// A WireGuard message, to or from the gateway's port.
    WireGuard,
    /// RTP in clear.
    Rtp { ssrc: u32 },
    /// Anything else.
    Other,
}

/// A packet on an interface of a host.
#[derive(Clone, Debug)]
pub(super) struct Sighting {
    pub(super) point: CapturePoint,
    pub(super) kind: PacketKind,
    pub(super) frame: Frame,
}

/// The captures of all hosts.
#[derive(Debug, Default)]
pub(super) struct Captures(Vec<(CapturePoint, FrameCapture)>);

impl Captures {
    /// Starts a capture on all interfaces of a host, also on later ones.
    ///
    /// # Errors
    /// The packet socket cannot be opened.
    pub(super) fn start(&mut self, host: &Namespace, point: CapturePoint) -> anyhow::Result<()> {
        let capture = FrameCapture::start(host).context("cannot open a packet socket")?;
        self.0.push((point, capture));
        Ok(())
    }

    /// Returns the packets since `start` that `wanted` accepts, in order at each host. Waits for packets in flight.
    pub(super) fn since(
        &self,
        start: Instant,
        wanted: impl Fn(&Sighting) -> bool,
    ) -> Vec<Sighting> {
        thread::sleep(TRANSIT);
        let mut found = Vec::new();
        for (point, capture) in &self.0 {
            let frames = capture.frames(|frame| frame.at >= start && frame.interface != "lo");
            let sightings = frames.into_iter().map(|frame| Sighting::new(*point, frame));
            found.extend(sightings.filter(&wanted));
        }
        found
    }
}

impl Sighting {
    fn new(point: CapturePoint, frame: Frame) -> Self {
        let kind = PacketKind::of(&frame);
        Self { point, kind, frame }
    }

    /// Returns whether the packet passed this interface.
    pub(super) fn is_on(&self, point: CapturePoint, interface: &str) -> bool {
        self.point == point && self.frame.interface == interface
    }

    /// Returns whether the host sent the packet, rather than received it.
    pub(super) fn is_outgoing(&self) -> bool {
        self.frame.direction == FrameDirection::Out
    }

    /// Returns the source endpoint, with port 0 for protocols without ports.
    pub(super) fn source(&self) -> Endpoint {
        let port = self.frame.headers.ports().map_or(0, |(source, _)| source);
        Endpoint::new(self.frame.headers.from, port)
    }

    /// Returns the destination endpoint, with port 0 for protocols without ports.
    pub(super) fn destination(&self) -> Endpoint {
        let port = self
            .frame
            .headers
            .ports()
            .map_or(0, |(_, destination)| destination);
        Endpoint::new(self.frame.headers.to, port)
    }

    /// Returns the DSCP.
    pub(super) fn dscp(&self) -> Dscp {
        Dscp::new(self.frame.headers.dscp()).expect("six bits")
    }
}

impl PacketKind {
    fn of(frame: &Frame) -> Self {
        let payload = frame.udp_payload();
        let ports = frame.headers.ports();
        let at_gateway = ports.is_some_and(|(from, to)| [from, to].contains(&wireguard::PORT));
        // A message type of 1 to 4 and three reserved zeros (WireGuard paper, section 5.4).
        if at_gateway && matches!(payload, [1..=4, 0, 0, 0, ..]) {
            return Self::WireGuard;
        }
        let is_rtp = DatagramKind::of(payload) == Some(DatagramKind::Rtp);
        match RtpHeader::parse(payload).filter(|_| is_rtp) {
            Some(header) => Self::Rtp { ssrc: header.ssrc },
            None => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn sighting(to: u16, payload: &[u8]) -> Sighting {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
            .udp(40_000, to)
            .write(&mut packet, payload)
            .expect("room");
        packet[1] = 0xb8;
        let frame = Frame::parse("eth0", FrameDirection::Out, &packet);
        Sighting::new(CapturePoint::Laptop, frame.expect("a packet"))
    }

    #[test]
    fn rtp_wireguard_and_other_packets_are_distinguished() {
        let rtp = RtpHeader {
            padding: false,
            marker: false,
            payload_type: 111,
            sequence: 1,
            timestamp: 0,
            ssrc: 7,
        };
        let media = sighting(24_680, &rtp.to_bytes());
        assert_eq!(media.kind, PacketKind::Rtp { ssrc: 7 });
        assert_eq!((media.dscp(), media.destination().port), (Dscp::EF, 24_680));
        let tunnelled = sighting(wireguard::PORT, &[4, 0, 0, 0, 9, 9]);
        assert_eq!(tunnelled.kind, PacketKind::WireGuard);
        assert_eq!(sighting(53, b"question").kind, PacketKind::Other);
    }
}
