//! A captured packet. Its headers are read without voicelane's own parser, which they are to test.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::unique_number;

/// The direction of a packet on an interface, seen from the host that has the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameDirection {
    /// The host received it.
    In,
    /// The host sent it.
    Out,
}

/// The transport of a packet, with its ports or its ICMP type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameTransport {
    /// UDP with source and destination port.
    Udp(u16, u16),
    /// TCP with source and destination port.
    Tcp(u16, u16),
    /// ICMP or `ICMPv6` with type and code.
    Icmp(u8, u8),
    /// Anything else, by its protocol number.
    Other(u8),
}

/// The headers of a packet.
#[derive(Clone, Copy, Debug)]
pub struct FrameHeaders {
    /// Source address.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
    /// The TOS octet or traffic class: DSCP and ECN.
    pub class: u8,
    /// The transport header.
    pub transport: FrameTransport,
    /// Whether every checksum is right: the IPv4 header's and the transport's.
    pub checksums: bool,
}

/// A packet on an interface.
#[derive(Clone)]
pub struct Frame {
    /// When the capture read it.
    pub at: Instant,
    /// The interface's name.
    pub interface: String,
    /// Whether the host received or sent it.
    pub direction: FrameDirection,
    /// The packet from the IP header on.
    pub bytes: Vec<u8>,
    /// The headers of the packet.
    pub headers: FrameHeaders,
    /// The label of the probe that the packet carries in clear.
    label: Option<String>,
}

/// The start of a probe's label, and the label's length with its number.
const LABEL: (&[u8], usize) = (b"voicelane-probe-", 24);

/// Returns a payload of the size of a voice packet with a label that no other probe has.
#[must_use]
pub fn probe() -> String {
    format!(
        "{:-<160}",
        format!("voicelane-probe-{:08}", unique_number())
    )
}

impl Frame {
    /// Reads an IP packet; `None` when it is malformed.
    #[must_use]
    pub fn parse(interface: &str, direction: FrameDirection, bytes: &[u8]) -> Option<Self> {
        let (start, length) = LABEL;
        let label = bytes
            .windows(length)
            .find(|window| window.starts_with(start))
            .map(|window| String::from_utf8_lossy(window).into_owned());
        Some(Self {
            at: Instant::now(),
            interface: interface.to_owned(),
            direction,
            bytes: bytes.to_vec(),
            headers: FrameHeaders::parse(bytes)?,
            label,
        })
    }

    /// Returns whether the packet carries the probe in clear.
    #[must_use]
    pub fn carries(&self, payload: &str) -> bool {
        self.label
            .as_deref()
            .is_some_and(|label| payload.starts_with(label))
    }

    /// Returns whether the packet is destined for the endpoint.
    #[must_use]
    pub fn goes_to(&self, to: SocketAddr) -> bool {
        self.headers.to == to.ip()
            && self
                .headers
                .ports()
                .is_some_and(|(_, port)| port == to.port())
    }

    /// Returns the source port, for UDP and TCP.
    #[must_use]
    pub fn source_port(&self) -> Option<u16> {
        self.headers.ports().map(|(port, _)| port)
    }

    /// Returns the payload of a UDP datagram, empty for other packets.
    #[must_use]
    pub fn udp_payload(&self) -> &[u8] {
        match SlicedPacket::from_ip(&self.bytes).map(|packet| packet.transport) {
            Ok(Some(TransportSlice::Udp(udp))) => udp.payload(),
            _ => &[],
        }
    }
}

impl FrameHeaders {
    /// Returns the DSCP, 0 to 63.
    #[must_use]
    pub const fn dscp(&self) -> u8 {
        self.class >> 2
    }

    /// Returns source and destination port, for UDP and TCP.
    #[must_use]
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            FrameTransport::Udp(from, to) | FrameTransport::Tcp(from, to) => Some((from, to)),
            FrameTransport::Icmp(..) | FrameTransport::Other(_) => None,
        }
    }

    /// Reads an IP packet; `None` when it is malformed.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ip(bytes).ok()?;
        let net = packet.net?;
        let (from, to, class, header) = match &net {
            NetSlice::Ipv4(ip) => (
                IpAddr::from(ip.header().source()),
                IpAddr::from(ip.header().destination()),
                bytes[1],
                ones_complement(&[ip.header().slice()]) == 0,
            ),
            NetSlice::Ipv6(ip) => (
                IpAddr::from(ip.header().source()),
                IpAddr::from(ip.header().destination()),
                ip.header().traffic_class(),
                true,
            ),
            NetSlice::Arp(_) => return None,
        };
        let payload = net.ip_payload_ref()?;
        let transport = match &packet.transport {
            Some(TransportSlice::Udp(udp)) => {
                FrameTransport::Udp(udp.source_port(), udp.destination_port())
            }
            Some(TransportSlice::Tcp(tcp)) => {
                FrameTransport::Tcp(tcp.source_port(), tcp.destination_port())
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                FrameTransport::Icmp(icmp.slice()[0], icmp.slice()[1])
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                FrameTransport::Icmp(icmp.slice()[0], icmp.slice()[1])
            }
            _ => FrameTransport::Other(payload.ip_number.0),
        };
        let body = payload.payload;
        let carried = match transport {
            // A zero UDP checksum means "none" on IPv4. Neither Linux nor voicelane sends it.
            FrameTransport::Udp(..) if body[6..8] == [0, 0] => false,
            FrameTransport::Icmp(..) if from.is_ipv4() => ones_complement(&[body]) == 0,
            FrameTransport::Other(_) => true,
            _ => {
                ones_complement(&[
                    &pseudo_header(from, to, payload.ip_number.0, body.len()),
                    body,
                ]) == 0
            }
        };
        Some(Self {
            from,
            to,
            class,
            transport,
            checksums: header && carried,
        })
    }
}

/// The pseudo-header that the transports' checksums cover (RFC 768, RFC 9293 section 3.1, RFC 8200 section 8.1).
fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut header = Vec::with_capacity(40);
    for address in [from, to] {
        match address {
            IpAddr::V4(v4) => header.extend(v4.octets()),
            IpAddr::V6(v6) => header.extend(v6.octets()),
        }
    }
    let length = u32::try_from(length).expect("a packet is below 4 GiB");
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0, protocol]);
    header
}

/// Computes the Internet checksum (RFC 1071), which is 0 over data that includes a right checksum. Every part but the last
/// has an even length.
fn ones_complement(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u64 = words
        .map(|word| u64::from(word[0]) << 8 | word.get(1).copied().map_or(0, u64::from))
        .sum();
    let folded = (0..4).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16));
    !u16::try_from(folded).expect("four folds leave 16 bits")
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            interface,
            direction,
            headers,
            ..
        } = self;
        write!(
            f,
            "{interface} {direction:?} {} > {} {:?} dscp {} checksums {} {} bytes",
            headers.from,
            headers.to,
            headers.transport,
            headers.dscp(),
            headers.checksums,
            self.bytes.len()
        )
    }
}
