//! The IP header of packets written into the TUN.

use std::net::IpAddr;

use etherparse::{IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header};

use super::addresses::Addresses;
use super::{WriteError, checksum};
use crate::net::TrafficClass;

/// The hop limit of packets that voicelane originates (IANA "IP Time to Live Parameter").
pub(super) const HOP_LIMIT: u8 = 64;

/// An IP header without options or extension headers.
///
/// Over IPv4 DF is set and the identification zero: the packet is atomic (RFC 6864 section 4.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct IpHeader {
    pub(super) addresses: Addresses,
    pub(super) traffic_class: TrafficClass,
    pub(super) hop_limit: u8,
    pub(super) protocol: IpNumber,
}

impl IpHeader {
    /// Writes the header over the first bytes of `packet`, whose other bytes are the payload.
    ///
    /// # Errors
    /// [`WriteError::TooLong`] if the payload exceeds the length field.
    ///
    /// # Panics
    /// If `packet` is shorter than the header.
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

/// Sets the destination of a packet whose header is as [`IpHeader::write`] writes it, and the IPv4 checksum. Returns the
/// addresses; `None`, without a change, if the destination is of the other family. The transport checksum is left stale.
pub(super) fn set_destination(packet: &mut [u8], destination: IpAddr) -> Option<Addresses> {
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
