//! The addresses of the lab. The IPv4 media range is Talkdesk's. On IPv6 none is published, so the lab uses documentation
//! prefixes (RFC 3849).

use std::net::{Ipv4Addr, Ipv6Addr};

pub use voicelane::lab::DualAddress;

const fn dual(v4: Ipv4Addr, v6: Ipv6Addr) -> DualAddress {
    DualAddress { v4, v6 }
}

/// The laptop on the home network.
pub const LAPTOP: DualAddress = dual(
    Ipv4Addr::new(192, 168, 7, 10),
    Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0x10),
);
/// The home router on the home network.
pub const HOME: DualAddress = dual(
    Ipv4Addr::new(192, 168, 7, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 1),
);
/// The laptop on the home network's cable.
pub const LAPTOP_CABLE: DualAddress = dual(
    Ipv4Addr::new(192, 168, 8, 10),
    Ipv6Addr::new(0x2001, 0xdb8, 8, 0, 0, 0, 0, 0x10),
);
/// The home router at the other end of the cable.
pub const HOME_CABLE: DualAddress = dual(
    Ipv4Addr::new(192, 168, 8, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 8, 0, 0, 0, 0, 1),
);
/// The home router on the internet: the public address of the home network.
pub const HOME_PUBLIC: DualAddress = dual(
    Ipv4Addr::new(203, 0, 113, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 2),
);
/// The internet's router towards the home.
pub const PROVIDER: DualAddress = dual(
    Ipv4Addr::new(203, 0, 113, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1),
);
/// The VPN gateway on the internet.
pub const VPN_SERVER: DualAddress = dual(
    Ipv4Addr::new(198, 51, 100, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 2),
);
/// The internet's router towards the VPN gateway.
pub const CARRIER: DualAddress = dual(
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1),
);
/// The VPN gateway inside the VPN.
pub const VPN_GATEWAY: DualAddress = dual(
    Ipv4Addr::new(10, 8, 0, 1),
    Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, 1),
);
/// The laptop inside the VPN.
pub const VPN_LAPTOP: DualAddress = dual(
    Ipv4Addr::new(10, 8, 0, 2),
    Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, 0x1000),
);

/// A media gateway: 168.86.128.0/18 and `2001:db8:86:4000::/50`.
pub const MEDIA: DualAddress = dual(
    Ipv4Addr::new(168, 86, 130, 7),
    Ipv6Addr::new(0x2001, 0xdb8, 0x86, 0x4000, 0, 0, 0, 7),
);
/// Another media gateway.
pub const MEDIA_2: DualAddress = dual(
    Ipv4Addr::new(168, 86, 150, 9),
    Ipv6Addr::new(0x2001, 0xdb8, 0x86, 0x5000, 0, 0, 0, 9),
);
/// A host of the network test.
pub const TEST_HOST: DualAddress = dual(
    Ipv4Addr::new(13, 231, 194, 210),
    Ipv6Addr::new(0x2001, 0xdb8, 0x31, 0, 0, 0, 0, 0x210),
);
/// A host outside the policy.
pub const OTHER: DualAddress = dual(
    Ipv4Addr::new(192, 0, 2, 53),
    Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53),
);

/// The prefixes of the internet, which answers for every address.
pub const INTERNET: [&str; 6] = [
    "168.86.0.0/16",
    "13.231.194.0/24",
    "192.0.2.0/24",
    "2001:db8:86::/48",
    "2001:db8:31::/64",
    "2001:db8:53::/64",
];
