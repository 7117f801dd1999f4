//! The IP header of packets that are built here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header};

use super::{WriteError, checksum};
use crate::net::{Family, TrafficClass};

/// The hop limit of packets that begin here (IANA "IP Time to Live Parameter").
pub(super) const HOP_LIMIT: u8 = 64;

/// Where a packet comes from and goes to, in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addresses {
    V4 {
        source: Ipv4Addr,
        destination: Ipv4Addr,
    },
    V6 {
        source: Ipv6Addr,
        destination: Ipv6Addr,
    },
}

impl Addresses {
    pub(super) const fn new(source: IpAddr, destination: IpAddr) -> Result<Self, WriteError> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Ok(Self::V4 {
                source,
                destination,
            }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Ok(Self::V6 {
                source,
                destination,
            }),
            _ => Err(WriteError::MixedFamilies),
        }
    }

    /// Those of a packet of which the IP header has been validated. Read where they lie whenever they are asked for: kept in a
    /// struct they would be copied by pieces, which the CPU's store buffer cannot hand on.
    #[inline]
    pub(super) fn of(packet: &[u8]) -> Self {
        if packet[0] >> 4 == 4 {
            let [source, destination] = [12, 16].map(|at| octets::<4>(packet, at).into());
            Self::V4 {
                source,
                destination,
            }
        } else {
            let [source, destination] = [8, 24].map(|at| octets::<16>(packet, at).into());
            Self::V6 {
                source,
                destination,
            }
        }
    }

    pub(super) const fn source(self) -> IpAddr {
        match self {
            Self::V4 { source, .. } => IpAddr::V4(source),
            Self::V6 { source, .. } => IpAddr::V6(source),
        }
    }

    pub(super) const fn destination(self) -> IpAddr {
        match self {
            Self::V4 { destination, .. } => IpAddr::V4(destination),
            Self::V6 { destination, .. } => IpAddr::V6(destination),
        }
    }

    pub(super) const fn family(self) -> Family {
        match self {
            Self::V4 { .. } => Family::V4,
            Self::V6 { .. } => Family::V6,
        }
    }

    /// The addresses of an answer.
    pub(super) const fn reversed(self) -> Self {
        match self {
            Self::V4 {
                source,
                destination,
            } => Self::V4 {
                source: destination,
                destination: source,
            },
            Self::V6 {
                source,
                destination,
            } => Self::V6 {
                source: destination,
                destination: source,
            },
        }
    }

    /// The length in bytes of the header that [`IpHeader::write`] writes.
    pub(super) const fn header_len(self) -> usize {
        match self {
            Self::V4 { .. } => Ipv4Header::MIN_LEN,
            Self::V6 { .. } => Ipv6Header::LEN,
        }
    }
}

fn octets<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    let octets = packet[at..].first_chunk::<N>();
    *octets.expect("a packet holds its header")
}

/// An IP header without options or extension headers.
///
/// Over IPv4 it has DF set and so an identification of zero: the packet is atomic (RFC 6864 section 4.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct IpHeader {
    pub(super) addresses: Addresses,
    pub(super) traffic_class: TrafficClass,
    pub(super) hop_limit: u8,
    pub(super) protocol: IpNumber,
}

impl IpHeader {
    /// Writes the header over the first bytes of `packet`; what follows them is the payload.
    ///
    /// # Errors
    /// [`WriteError::TooLong`] when the payload is too long for the length field.
    ///
    /// # Panics
    /// When `packet` is shorter than the header.
    pub(super) fn write(&self, packet: &mut [u8]) -> Result<(), WriteError> {
        let (header, payload) = packet.split_at_mut(self.addresses.header_len());
        let len = u16::try_from(payload.len()).map_err(|_| WriteError::TooLong)?;
        match self.addresses {
            Addresses::V4 {
                source,
                destination,
            } => {
                let mut ip = Ipv4Header::new(
                    len,
                    self.hop_limit,
                    self.protocol,
                    source.octets(),
                    destination.octets(),
                )
                .map_err(|_| WriteError::TooLong)?;
                ip.dscp = IpDscp::try_new(self.traffic_class.dscp.value())
                    .expect("a code point has six bits");
                ip.ecn = IpEcn::try_new(self.traffic_class.ecn as u8).expect("ECN has two bits");
                ip.header_checksum = ip.calc_header_checksum();
                header.copy_from_slice(&ip.to_bytes());
            }
            Addresses::V6 {
                source,
                destination,
            } => {
                let ip = Ipv6Header {
                    traffic_class: self.traffic_class.octet(),
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: len,
                    next_header: self.protocol,
                    hop_limit: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                header.copy_from_slice(&ip.to_bytes());
            }
        }
        Ok(())
    }
}

/// Sends a packet that begins with a header as [`IpHeader::write`] writes it to another destination, and answers its
/// addresses; `None`, and nothing changes, when the destination is of the other family. The IPv4 checksum is right
/// afterwards, the transport's is the caller's.
pub(super) fn redirect(packet: &mut [u8], destination: IpAddr) -> Option<Addresses> {
    match (packet[0] >> 4, destination) {
        (4, IpAddr::V4(destination)) => {
            let header = &mut packet[..Ipv4Header::MIN_LEN];
            header[16..20].copy_from_slice(&destination.octets());
            header[10..12].fill(0);
            let field = checksum::field(&checksum::plain(header));
            header[10..12].copy_from_slice(&field);
            Some(Addresses::of(packet))
        }
        (6, IpAddr::V6(destination)) => {
            packet[24..40].copy_from_slice(&destination.octets());
            Some(Addresses::of(packet))
        }
        _ => None,
    }
}
