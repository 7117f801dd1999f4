//! Networks made of network namespaces: the vocabulary of the demo, the tests and the benchmarks.
//!
//! A host is a [`Namespace`]. [`link`] joins hosts by veth links and configures them. A [`FrameCapture`] records every
//! packet of a host. All of it needs CAP_SYS_ADMIN and CAP_NET_ADMIN in the user namespace of the process.

mod capture;
mod frame;
pub mod link;
mod namespace;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;

pub use capture::FrameCapture;
pub use frame::{Frame, FrameDirection, FrameTransport};
#[cfg(feature = "lab")]
pub use frame::{FrameHeaders, probe};
pub use namespace::Namespace;

use crate::net::Family;

/// Returns a number that is unique in this process.
#[must_use]
pub fn unique_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The IPv4 and the IPv6 address of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DualAddress {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl DualAddress {
    /// Returns the address of a family.
    #[must_use]
    pub const fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }

    /// Returns the endpoint of a family.
    #[must_use]
    pub const fn at(self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.of(family), port)
    }

    /// Returns the endpoints of both families.
    #[must_use]
    pub fn both(self, port: u16) -> [SocketAddr; 2] {
        Family::BOTH.map(|family| self.at(family, port))
    }

    /// Returns the address with the prefix length of its link: `v4_bits` for IPv4, 64 for IPv6.
    #[must_use]
    pub fn on_link(self, family: Family, v4_bits: u8) -> IpNet {
        let bits = if family == Family::V4 { v4_bits } else { 64 };
        IpNet::new_assert(self.of(family), bits)
    }
}
