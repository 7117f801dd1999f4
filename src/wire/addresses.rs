//! The address pair of a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{Ipv4Header, Ipv6Header};

use super::WriteError;
use crate::net::Family;

/// The source and destination of a packet, of one family.
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

    /// Reads the addresses of a packet whose IP header is valid. A further read is faster than a struct,
    /// whose partial copies defeat store forwarding.
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

    /// Returns the addresses of a reply.
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

    /// Returns the length in bytes of an IP header without options.
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
