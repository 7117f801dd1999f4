//! Valid packets made by another hand, etherparse's builder, for the tests of this room.

use std::net::IpAddr;

use etherparse::{
    IpDscp, IpEcn, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options,
    Ipv6Extensions, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, PacketBuilder,
    TcpHeader,
};
use proptest::prelude::*;

use super::addresses::Addresses;
use crate::net::TrafficClass;

/// The fields of a sample packet.
#[derive(Clone, Debug)]
pub(super) struct PacketSample {
    pub(super) addresses: Addresses,
    pub(super) traffic_class: TrafficClass,
    pub(super) hop_limit: u8,
    /// IPv4 options, or IPv6 extension headers.
    pub(super) extended: bool,
    /// The offset in units of eight bytes, and whether more fragments follow.
    pub(super) fragment: (u16, bool),
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) payload: Vec<u8>,
}

/// Addresses of two hosts.
pub(super) fn addresses() -> impl Strategy<Value = Addresses> {
    let v4 = any::<[u32; 2]>().prop_map(|[source, destination]| Addresses::V4 {
        source: (source % 0x6000_0000 + 0x8000_0000).into(),
        destination: (destination % 0x6000_0000 + 0x8000_0000).into(),
    });
    let v6 = any::<[u128; 2]>().prop_map(|[source, destination]| Addresses::V6 {
        source: (source >> 3 | 1 << 125).into(),
        destination: (destination >> 3 | 1 << 125).into(),
    });
    prop_oneof![v4, v6]
}

pub(super) fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..1500)
}

pub(super) fn sample() -> impl Strategy<Value = PacketSample> {
    (
        addresses(),
        any::<u8>().prop_map(TrafficClass::from_octet),
        any::<u8>(),
        any::<bool>(),
        any::<[u16; 2]>(),
        payload(),
    )
        .prop_map(
            |(addresses, traffic_class, hop_limit, extended, ports, payload)| PacketSample {
                addresses,
                traffic_class,
                hop_limit,
                extended,
                fragment: (0, false),
                source_port: ports[0],
                destination_port: ports[1],
                payload,
            },
        )
}

impl Default for PacketSample {
    fn default() -> Self {
        Self {
            addresses: Addresses::V4 {
                source: [192, 0, 2, 1].into(),
                destination: [198, 51, 100, 1].into(),
            },
            traffic_class: TrafficClass::default(),
            hop_limit: 64,
            extended: false,
            fragment: (0, false),
            source_port: 50_000,
            destination_port: 3478,
            payload: Vec::new(),
        }
    }
}

impl PacketSample {
    pub(super) fn source(&self) -> IpAddr {
        self.addresses.source()
    }

    pub(super) fn destination(&self) -> IpAddr {
        self.addresses.destination()
    }

    pub(super) fn udp(&self) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ip(self.ip())
            .udp(self.source_port, self.destination_port)
            .write(&mut packet, &self.payload)
            .expect("the sample fits a packet");
        packet
    }

    pub(super) fn tcp(&self, change: impl FnOnce(&mut TcpHeader)) -> Vec<u8> {
        let mut header = TcpHeader::new(self.source_port, self.destination_port, 0, 1024);
        change(&mut header);
        let mut packet = Vec::new();
        PacketBuilder::ip(self.ip())
            .tcp_header(header)
            .write(&mut packet, &self.payload)
            .expect("the sample fits a packet");
        packet
    }

    pub(super) fn icmp(&self, kind: u8, code: u8, word: [u8; 4]) -> Vec<u8> {
        let mut packet = Vec::new();
        let ip = PacketBuilder::ip(self.ip());
        match self.addresses {
            Addresses::V4 { .. } => ip
                .icmpv4_raw(kind, code, word)
                .write(&mut packet, &self.payload),
            Addresses::V6 { .. } => ip
                .icmpv6_raw(kind, code, word)
                .write(&mut packet, &self.payload),
        }
        .expect("the sample fits a packet");
        packet
    }

    /// A packet of a protocol that has no builder.
    pub(super) fn other(&self, protocol: IpNumber) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ip(self.ip())
            .write(&mut packet, protocol, &self.payload)
            .expect("the sample fits a packet");
        packet
    }

    fn ip(&self) -> IpHeaders {
        let (offset, more_fragments) = self.fragment;
        let fragment_offset = IpFragOffset::try_new(offset).expect("thirteen bits");
        match self.addresses {
            Addresses::V4 {
                source,
                destination,
            } => {
                let options: &[u8] = if self.extended { &[1; 8] } else { &[] };
                let header = Ipv4Header {
                    dscp: IpDscp::try_new(self.traffic_class.dscp.value()).expect("six bits"),
                    ecn: IpEcn::try_new(self.traffic_class.ecn as u8).expect("two bits"),
                    dont_fragment: self.fragment == (0, false),
                    more_fragments,
                    fragment_offset,
                    time_to_live: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                    options: Ipv4Options::try_from(options).expect("two words"),
                    ..Ipv4Header::default()
                };
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            Addresses::V6 {
                source,
                destination,
            } => {
                let header = Ipv6Header {
                    traffic_class: self.traffic_class.octet(),
                    flow_label: Ipv6FlowLabel::try_new(0x5_4321).expect("twenty bits"),
                    hop_limit: self.hop_limit,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                let mut extensions = Ipv6Extensions::default();
                if self.extended || self.fragment != (0, false) {
                    let options = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[1, 4, 0, 0, 0, 0]);
                    extensions.hop_by_hop_options = Some(options.expect("eight bytes"));
                    extensions.fragment = Some(Ipv6FragmentHeader::new(
                        IpNumber::UDP,
                        fragment_offset,
                        more_fragments,
                        7,
                    ));
                }
                IpHeaders::Ipv6(header, extensions)
            }
        }
    }
}
