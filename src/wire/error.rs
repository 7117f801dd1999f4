//! Errors of reading and writing packets.

use etherparse::LenSource;
use etherparse::err::{self, Layer};

/// Why a packet was rejected. Each error is a drop reason with a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ParseError {
    /// Neither IPv4 nor IPv6.
    #[error("the version is neither 4 nor 6")]
    NotIp,
    /// The packet is shorter than the IP header or its length field.
    #[error("the packet is cut off")]
    Truncated,
    /// The IPv4 header length or total length is too small.
    #[error("the IP header's lengths contradict each other")]
    IpLength,
    /// The IPv4 header checksum is wrong (RFC 1122 section 3.2.1.2).
    #[error("the IPv4 header checksum is wrong")]
    IpChecksum,
    /// An extension header exceeds the packet or is in the wrong place (RFC 8200 section 4).
    #[error("an extension header is malformed")]
    ExtensionHeader,
    /// The UDP length is below 8 or beyond the packet.
    #[error("the UDP length is wrong")]
    UdpLength,
    /// The UDP checksum is wrong.
    #[error("the UDP checksum is wrong")]
    UdpChecksum,
    /// UDP without a checksum over IPv6 (RFC 8200 section 8.1).
    #[error("UDP over IPv6 came without a checksum")]
    UdpChecksumMissing,
    /// The TCP header is cut off or its data offset is wrong.
    #[error("the TCP header is malformed")]
    TcpHeader,
    /// The TCP checksum is wrong.
    #[error("the TCP checksum is wrong")]
    TcpChecksum,
    /// The ICMP message is shorter than its header.
    #[error("the ICMP message is cut off")]
    IcmpLength,
    /// The ICMP checksum is wrong.
    #[error("the ICMP checksum is wrong")]
    IcmpChecksum,
}

impl ParseError {
    /// Every error.
    pub const ALL: [Self; 12] = [
        Self::NotIp,
        Self::Truncated,
        Self::IpLength,
        Self::IpChecksum,
        Self::ExtensionHeader,
        Self::UdpLength,
        Self::UdpChecksum,
        Self::UdpChecksumMissing,
        Self::TcpHeader,
        Self::TcpChecksum,
        Self::IcmpLength,
        Self::IcmpChecksum,
    ];

    /// Returns the stable label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Truncated => "truncated",
            Self::IpLength => "ip_length",
            Self::IpChecksum => "ip_checksum",
            Self::ExtensionHeader => "extension_header",
            Self::UdpLength => "udp_length",
            Self::UdpChecksum => "udp_checksum",
            Self::UdpChecksumMissing => "udp_checksum_missing",
            Self::TcpHeader => "tcp_header",
            Self::TcpChecksum => "tcp_checksum",
            Self::IcmpLength => "icmp_length",
            Self::IcmpChecksum => "icmp_checksum",
        }
    }
}

impl From<err::ipv4::SliceError> for ParseError {
    fn from(error: err::ipv4::SliceError) -> Self {
        use err::ipv4::{HeaderError, SliceError};
        match error {
            SliceError::Len(len) if len.len_source == LenSource::Slice => Self::Truncated,
            SliceError::Len(len) if len.layer == Layer::IpAuthHeader => Self::ExtensionHeader,
            SliceError::Header(HeaderError::UnexpectedVersion { .. }) => Self::NotIp,
            SliceError::Len(_)
            | SliceError::Header(HeaderError::HeaderLengthSmallerThanHeader { .. }) => {
                Self::IpLength
            }
            SliceError::Exts(_) => Self::ExtensionHeader,
        }
    }
}

impl From<err::ipv6::SliceError> for ParseError {
    fn from(error: err::ipv6::SliceError) -> Self {
        use err::ipv6::SliceError;
        match error {
            SliceError::Len(len) if len.len_source == LenSource::Slice => Self::Truncated,
            SliceError::Header(_) => Self::NotIp,
            SliceError::Len(_) | SliceError::Exts(_) => Self::ExtensionHeader,
        }
    }
}

/// Why a packet could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WriteError {
    /// Source and destination are of different families.
    #[error("source and destination are of different address families")]
    MixedFamilies,
    /// The payload exceeds the length fields: 65,507 bytes over IPv4, 65,527 over IPv6.
    #[error("the payload is too long for one packet")]
    TooLong,
    /// The headers do not fit before the payload.
    #[error("no room for the headers before the payload")]
    NoHeadroom,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn labels_are_distinct_snake_case() {
        let labels: BTreeSet<_> = ParseError::ALL.map(ParseError::label).into();
        assert_eq!(labels.len(), ParseError::ALL.len());
        for label in labels {
            assert!(
                label.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'),
                "{label}"
            );
        }
    }
}
