//! Longest-prefix match: which of many nested prefixes speaks for an address.
//!
//! Two types for two times of life. A [`PrefixTable`] is filled, changed and asked about its structure. A
//! [`LookupTable`] is compiled from it, never changes, and answers the data path: one address at a time
//! ([`lookup`](LookupTable::lookup)) or many ([`lookup_batch`](LookupTable::lookup_batch)).
//!
//! ```
//! use std::net::Ipv4Addr;
//! use voicelane::lpm::{LookupTable, PrefixTable};
//!
//! let mut table = PrefixTable::new();
//! for (prefix, value) in [("168.86.0.0/16", 'a'), ("168.86.128.0/18", 'b'), ("2001:db8::/32", 'c')] {
//!     table.insert(prefix.parse()?, value);
//! }
//! let (longest, _) = table.longest_match("168.86.133.20".parse()?).expect("two prefixes cover it");
//! assert_eq!(longest.to_string(), "168.86.128.0/18");
//!
//! let compiled = LookupTable::new(&table);
//! assert_eq!(compiled.lookup("168.86.133.20".parse()?), Some('b'));
//! assert_eq!(compiled.lookup("2001:db8::1".parse()?), Some('c'));
//!
//! let addrs = ["168.86.1.1", "168.86.128.1", "8.8.8.8"].map(|text| text.parse::<Ipv4Addr>().unwrap());
//! let mut values = [None; 3];
//! compiled.lookup_batch(&addrs, &mut values);
//! assert_eq!(values, [Some('a'), Some('b'), None]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! IPv4 and IPv6 are two spaces: an IPv4-mapped address (`::ffff:0:0/96`) is an IPv6 address here, matched by IPv6
//! prefixes only.
//!
//! # The idea
//!
//! What a lookup has to find is not a prefix but a value. So the nested prefixes are first laid flat: the address
//! space falls into disjoint intervals, each with one value or none, and neighbours of equal value are one interval.
//! Each distinct value gets a number, its *class*; class 0 is no match.
//!
//! ```text
//!   prefixes    |---------------- 168.86.0.0/16 = a ----------------|
//!                                  |-- 168.86.128.0/18 = b --|
//!   intervals  0|a                 |b                        |a      |0
//!   starts      168.86.0.0          168.86.128.0              168.86.192.0   168.87.0.0
//! ```
//!
//! `n` prefixes make at most `2n + 1` intervals, mostly fewer. To find the interval that holds an address is then all
//! that is left, and how that is done best depends on how many there are:
//!
//! | IPv4 engine | when | one lookup | memory |
//! |---|---|---|---|
//! | small directory | up to 4,096 intervals, at most 5 of them in any /12 | 2 loads, one compare of 4 | 8 KiB, and 64 B for each /12 with a boundary |
//! | directory | up to 4,096 intervals, however crowded | 2 loads, two compares of 4 | 32 KiB, and 64 B for each /14 with a boundary |
//! | pages | more | 2 loads | 1 MiB, and 64 cells of 1, 2 or 4 bytes for each distinct /18 |
//! | registers | up to 32 intervals with AVX2, 128 with AVX-512: the bulk lookup | 1/8 or 1/16 of a walk down 5 to 7 levels | 1 KiB |
//!
//! | IPv6 engine | when | one lookup | memory |
//! |---|---|---|---|
//! | walk | up to 8,192 intervals | one compare for each doubling of their number; in bulk, in registers and by gathers | 12 B an interval, up to twice that |
//! | tree | more | 1 load, then 1 to 3 cache-line pairs of 128 B | 4 B for each block of the directory, 6 or 8 B an interval |
//!
//! IPv6 is searched by the high half of an address, where nearly all prefixes end; where a longer one lies, the few
//! boundaries of its /64 are searched in full.
//!
//! An IPv4 lookup takes the same steps whatever the address and however long the prefix, without a branch that depends on
//! them, and so a stream of addresses that no predictor can follow costs what a steady one does. Two exceptions pay with
//! a short walk down a tree of cache lines: a /14 with more than 8 intervals in the directory, and a /24 with more than
//! one interval in the pages. In a policy the first is rare; in a BGP table one /24 in ten thousand is of the second
//! kind.
//!
//! Memory, worked out: 16 prefixes make at most 33 intervals, in at most 32 blocks: 8 KiB + 2 KiB + 1 KiB, of which
//! a stream touches a few lines, within any L1 cache. 1,000 prefixes: 32 KiB + some 900 blocks of 64 B = 87 KiB. The
//! 901,899 prefixes of a full BGP table, with 250 classes: 65,000 distinct /18s of 64 B = 4.0 MiB, and 1 MiB of root:
//! 5.0 MiB. (A flat array with a byte for each /24 takes 16 MiB. In huge pages and alone on a core it is up to twice as
//! fast; beside anything else that wants the cache it is slower by a third where addresses roam, and so there is no such
//! engine.)
//!
//! Compilation is one pass over the prefixes, which a [`PrefixTable`] keeps in order, and one over the cells: `O(n)`
//! and well below a millisecond for 1,000 prefixes, some tenths of a second at most for a full BGP table.
//!
//! # Processors
//!
//! The binary that users run is built for any x86-64 processor, so what more it may use is asked at run time, once,
//! when a table is compiled ([`Level`]). A single lookup never asks: it is inlined into its caller, and an instruction
//! set that the caller was not built for would cost a call, more than it gains. SSE2, which every x86-64 has, does its
//! compares; on other processors, plain code. A bulk lookup asks once for each batch: it compares in registers, or
//! gathers eight pages at a time.
//!
//! All engines give the same answers at all levels; the tests hold each against a search through the list.
//!
//! # Changing a table under load
//!
//! A compiled table is a value behind shared references. To change it, compile the new one aside, put it in an
//! [`Arc`](std::sync::Arc) and hand that to whoever looks up, to be taken between two packets: no lookup takes a
//! lock, counts a reference or sees half of a change, and the old table goes with its last reader. That is how
//! [`Engine::set_policy`](crate::engine::Engine::set_policy) works.

mod address;
mod bit_select;
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
