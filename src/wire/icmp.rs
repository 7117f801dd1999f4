//! ICMP messages of both families (RFC 792, RFC 4443).

use etherparse::IpNumber;
use etherparse::checksum::Sum16BitWords;

use super::addresses::Addresses;
use super::{ParseError, checksum};
use crate::net::Family;

/// The length in bytes of every message's header.
pub(super) const HEADER_LEN: usize = 8;

/// An echo request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpEcho {
    /// Whether it is a request, not a reply.
    pub is_request: bool,
    /// Identifies the sender's process.
    pub identifier: u16,
    /// Counts the sender's requests.
    pub sequence: u16,
}

/// An ICMP message other than an echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpMessage {
    /// The type, by the numbers of the packet's family.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// Whether the message is an error or a redirect, which no error may answer.
    pub is_error: bool,
}

/// A delivery error that both families can express.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// No route to the network.
    NetUnreachable,
    /// The host does not answer.
    HostUnreachable,
    /// The host does not support the protocol.
    ProtocolUnreachable,
    /// No socket is bound to the port.
    PortUnreachable,
    /// A policy prohibits the packet (RFC 1812 section 5.2.7.1).
    AdminProhibited,
    /// The packet exceeds the next link's MTU and may not be fragmented (RFC 1191, RFC 8201).
    PacketTooBig {
        /// The MTU in bytes; 0 if the router did not report it.
        mtu: u32,
    },
    /// The hop limit was exceeded in transit.
    HopLimitExceeded,
    /// Fragments of the datagram did not arrive in time.
    ReassemblyTimeExceeded,
}

impl IcmpError {
    /// Returns the type, the code and the second word of the header.
    #[must_use]
    pub fn to_icmp(self, family: Family) -> (u8, u8, u32) {
        match family {
            Family::V4 => match self {
                Self::NetUnreachable => (3, 0, 0),
                Self::HostUnreachable => (3, 1, 0),
                Self::ProtocolUnreachable => (3, 2, 0),
                Self::PortUnreachable => (3, 3, 0),
                Self::PacketTooBig { mtu } => (3, 4, mtu.min(u16::MAX.into())),
                Self::AdminProhibited => (3, 13, 0),
                Self::HopLimitExceeded => (11, 0, 0),
                Self::ReassemblyTimeExceeded => (11, 1, 0),
            },
            Family::V6 => match self {
                Self::NetUnreachable => (1, 0, 0),
                Self::AdminProhibited => (1, 1, 0),
                Self::HostUnreachable => (1, 3, 0),
                Self::PortUnreachable => (1, 4, 0),
                Self::PacketTooBig { mtu } => (2, 0, mtu),
                Self::HopLimitExceeded => (3, 0, 0),
                Self::ReassemblyTimeExceeded => (3, 1, 0),
                // An unrecognised next header, which the fixed header names at offset 6.
                Self::ProtocolUnreachable => (4, 1, 6),
            },
        }
    }

    /// Returns the error of a type, a code and an MTU, as in a message or a socket's error queue. `None` if it is no error or
    /// not to be forwarded, such as a source quench (RFC 6633).
    ///
    /// Codes without an equivalent are mapped as in RFC 7915 section 4.2.
    #[must_use]
    pub const fn from_icmp(family: Family, kind: u8, code: u8, mtu: u32) -> Option<Self> {
        match (family, kind, code) {
            (Family::V4, 3, 0 | 6 | 11) | (Family::V6, 1, 0 | 2) => Some(Self::NetUnreachable),
            (Family::V4, 3, 1 | 5 | 7 | 8 | 12) | (Family::V6, 1, 3) => Some(Self::HostUnreachable),
            (Family::V4, 3, 2) | (Family::V6, 4, 1) => Some(Self::ProtocolUnreachable),
            (Family::V4, 3, 3) | (Family::V6, 1, 4) => Some(Self::PortUnreachable),
            (Family::V4, 3, 4) | (Family::V6, 2, _) => Some(Self::PacketTooBig { mtu }),
            (Family::V4, 3, 9 | 10 | 13 | 15) | (Family::V6, 1, 1 | 5 | 6) => {
                Some(Self::AdminProhibited)
            }
            (Family::V4, 11, 0) | (Family::V6, 3, 0) => Some(Self::HopLimitExceeded),
            (Family::V4, 11, 1) | (Family::V6, 3, 1) => Some(Self::ReassemblyTimeExceeded),
            _ => None,
        }
    }
}

/// A parsed message.
pub(super) enum ParsedIcmp {
    Echo(IcmpEcho),
    Other(IcmpMessage),
}

/// Parses a message and verifies its checksum.
pub(super) fn parse(addresses: Addresses, segment: &[u8]) -> Result<ParsedIcmp, ParseError> {
    let &[kind, code, _, _, id0, id1, seq0, seq1, ..] = segment else {
        return Err(ParseError::IcmpLength);
    };
    if !checksum::is_valid(&sum(addresses, segment)) {
        return Err(ParseError::IcmpChecksum);
    }
    let echo = |is_request| {
        ParsedIcmp::Echo(IcmpEcho {
            is_request,
            identifier: u16::from_be_bytes([id0, id1]),
            sequence: u16::from_be_bytes([seq0, seq1]),
        })
    };
    let other = |is_error| {
        ParsedIcmp::Other(IcmpMessage {
            kind,
            code,
            is_error,
        })
    };
    Ok(match (addresses.family(), kind) {
        (Family::V4, 8) | (Family::V6, 128) => echo(true),
        (Family::V4, 0) | (Family::V6, 129) => echo(false),
        // Unreachable, source quench, redirect, time exceeded, parameter problem; over IPv6 the lower half and redirect.
        (Family::V4, 3 | 4 | 5 | 11 | 12) | (Family::V6, 0..128 | 137) => other(true),
        _ => other(false),
    })
}

/// Returns the checksum of a message: with a pseudo-header over IPv6 (RFC 4443 section 2.3), without over IPv4.
pub(super) fn sum(addresses: Addresses, message: &[u8]) -> Sum16BitWords {
    match addresses.family() {
        Family::V4 => checksum::plain(message),
        Family::V6 => checksum::transport(addresses, IpNumber::IPV6_ICMP, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use etherparse::{icmpv4, icmpv6};

    #[test]
    fn numbers_are_those_of_the_registries() {
        for (error, code) in [
            (IcmpError::NetUnreachable, icmpv4::CODE_DST_UNREACH_NET),
            (IcmpError::HostUnreachable, icmpv4::CODE_DST_UNREACH_HOST),
            (
                IcmpError::ProtocolUnreachable,
                icmpv4::CODE_DST_UNREACH_PROTOCOL,
            ),
            (IcmpError::PortUnreachable, icmpv4::CODE_DST_UNREACH_PORT),
            (
                IcmpError::AdminProhibited,
                icmpv4::CODE_DST_UNREACH_FILTER_PROHIB,
            ),
        ] {
            let expected = (icmpv4::TYPE_DEST_UNREACH, code, 0);
            assert_eq!(error.to_icmp(Family::V4), expected);
        }
        let too_big = IcmpError::PacketTooBig { mtu: 1400 };
        let need_frag = icmpv4::CODE_DST_UNREACH_NEED_FRAG;
        assert_eq!(
            too_big.to_icmp(Family::V4),
            (icmpv4::TYPE_DEST_UNREACH, need_frag, 1400)
        );
        assert_eq!(
            too_big.to_icmp(Family::V6),
            (icmpv6::TYPE_PACKET_TOO_BIG, 0, 1400)
        );
        for (error, code) in [
            (
                IcmpError::NetUnreachable,
                icmpv6::DestUnreachableCode::NoRoute,
            ),
            (
                IcmpError::HostUnreachable,
                icmpv6::DestUnreachableCode::Address,
            ),
            (
                IcmpError::PortUnreachable,
                icmpv6::DestUnreachableCode::Port,
            ),
            (
                IcmpError::AdminProhibited,
                icmpv6::DestUnreachableCode::Prohibited,
            ),
        ] {
            assert_eq!(
                error.to_icmp(Family::V6),
                (icmpv6::TYPE_DST_UNREACH, code.code_u8(), 0)
            );
        }
        let exceeded = IcmpError::HopLimitExceeded;
        assert_eq!(
            exceeded.to_icmp(Family::V4),
            (icmpv4::TYPE_TIME_EXCEEDED, 0, 0)
        );
        assert_eq!(
            exceeded.to_icmp(Family::V6),
            (icmpv6::TYPE_TIME_EXCEEDED, 0, 0)
        );
    }

    #[test]
    fn only_errors_to_forward_are_recognised() {
        for (kind, code) in [(0, 0), (4, 0), (5, 1), (8, 0), (11, 2), (3, 16)] {
            assert_eq!(
                IcmpError::from_icmp(Family::V4, kind, code, 0),
                None,
                "{kind}, {code}"
            );
        }
        for (kind, code) in [(1, 7), (3, 2), (4, 0), (128, 0), (137, 0)] {
            assert_eq!(
                IcmpError::from_icmp(Family::V6, kind, code, 0),
                None,
                "{kind}, {code}"
            );
        }
    }

    #[test]
    fn an_mtu_beyond_the_field_is_clamped() {
        let error = IcmpError::PacketTooBig { mtu: 70_000 };
        assert_eq!(error.to_icmp(Family::V4).2, 65_535);
        assert_eq!(error.to_icmp(Family::V6).2, 70_000);
    }
}
