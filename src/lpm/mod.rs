//! Longest-prefix match: which of many nested prefixes speaks for an address.
//!
//! Two types for two times of life. A [`PrefixTable`] is filled and asked about its structure while a policy is
//! compiled, and answers `explain`. A [`LookupTable`] is compiled from it once, never changes, and answers the data
//! path.
//!
//! IPv4 and IPv6 are two spaces: an IPv4-mapped address (`::ffff:0:0/96`) is an IPv6 address here, matched by IPv6
//! prefixes only.

mod address;
mod cpu;
mod intervals;
mod lookup_table;
mod prefix_table;
mod v4;
mod v6;

pub use address::Address;
pub use cpu::Level;
pub use lookup_table::LookupTable;
pub use prefix_table::PrefixTable;

/// What both tables are tested against: prefixes in a list, and addresses that are likely to tell prefixes apart.
#[cfg(test)]
mod model {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use crate::net::{Family, Prefix, PrefixError};

    pub(super) fn longest_match<V>(list: &[(Prefix, V)], addr: IpAddr) -> Option<&(Prefix, V)> {
        list.iter()
            .filter(|(prefix, _)| prefix.contains(addr))
            .max_by_key(|(prefix, _)| prefix.len())
    }

    /// Few distinct bits at the ends, so that prefixes nest, repeat and touch both ends of the address space.
    fn address() -> impl Strategy<Value = IpAddr> {
        let bits = prop_oneof![
            any::<u128>(),
            (0..4u128, 0..4u128, 0..8u128)
                .prop_map(|(high, middle, low)| high << 126 | middle << 96 | low),
            (0..8u128).prop_map(|low| u128::MAX - low),
        ];
        (bits, any::<bool>()).prop_map(|(bits, v6)| {
            if v6 {
                IpAddr::from(bits.to_be_bytes())
            } else {
                let folded = bits.rotate_left(2).to_be_bytes();
                IpAddr::from([folded[12], folded[13], folded[14], folded[15]])
            }
        })
    }

    pub(super) fn prefix() -> impl Strategy<Value = Prefix> {
        let len = prop_oneof![Just(0), Just(128), 0..=128u8, 0..=4u8, 28..=32u8];
        (address(), len).prop_map(|(addr, len)| {
            match Prefix::new(addr, len.min(Family::of(addr).bits())) {
                Ok(prefix) | Err(PrefixError::HostBits { meant: prefix }) => prefix,
                Err(error) => unreachable!("the length was cut to the family's: {error}"),
            }
        })
    }

    pub(super) fn entries() -> impl Strategy<Value = Vec<(Prefix, u8)>> {
        prop::collection::vec((prefix(), 0..3u8), 0..40)
    }

    fn neighbour(addr: IpAddr, up: bool) -> IpAddr {
        match (addr, up) {
            (IpAddr::V4(addr), true) => IpAddr::V4(addr.to_bits().wrapping_add(1).into()),
            (IpAddr::V4(addr), false) => IpAddr::V4(addr.to_bits().wrapping_sub(1).into()),
            (IpAddr::V6(addr), true) => IpAddr::V6(addr.to_bits().wrapping_add(1).into()),
            (IpAddr::V6(addr), false) => IpAddr::V6(addr.to_bits().wrapping_sub(1).into()),
        }
    }

    /// Both ends of every prefix, the addresses just outside, and `more`.
    pub(super) fn probes<V>(list: &[(Prefix, V)], more: &[IpAddr]) -> Vec<IpAddr> {
        list.iter()
            .flat_map(|(prefix, _)| [prefix.first(), prefix.last()])
            .chain(more.iter().copied())
            .flat_map(|addr| [neighbour(addr, false), addr, neighbour(addr, true)])
            .collect()
    }

    pub(super) fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
        prop::collection::vec(address(), 1..20)
    }
}
