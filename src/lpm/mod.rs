//! Longest-prefix match: the value of the most specific prefix that contains an address.
//!
//! Two types serve two phases. A [`PrefixTable`] is filled, changed and queried for its structure. A [`LookupTable`] is
//! compiled from it, never changes, and serves the data path: one address a call
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
//! IPv4 and IPv6 are separate: an IPv4-mapped address (`::ffff:0:0/96`) is an IPv6 address here.
//!
//! # Operations
//!
//! `n` is the number of prefixes, `W` the length of an address in bits, `k` the number of results.
//!
//! | operation | method | complexity |
//! |---|---|---|
//! | insert, remove, exact match | [`PrefixTable::insert`], [`remove`](PrefixTable::remove), [`get`](PrefixTable::get) | O(W) |
//! | longest and shortest match of an address | [`longest_match`](PrefixTable::longest_match), [`shortest_match`](PrefixTable::shortest_match) | O(W) |
//! | longest match of a prefix, covering prefixes | [`longest_match_of`](PrefixTable::longest_match_of), [`supernets`](PrefixTable::supernets) | O(W) |
//! | covered prefixes | [`subnets`](PrefixTable::subnets) | O(W + k) |
//! | overlap with a prefix, with a table | [`overlaps`](PrefixTable::overlaps), [`overlaps_table`](PrefixTable::overlaps_table) | O(W), O(nW) |
//! | ordered iteration, filter, aggregation, serde | [`iter`](PrefixTable::iter), [`retain`](PrefixTable::retain), [`aggregate`](PrefixTable::aggregate) | O(n) |
//! | compilation | [`LookupTable::new`] | O(n) for most tables; about 1 ms for 1,000 IPv4 prefixes and 8 ms for 8,000; IPv6 takes up to twice that, far more if prefixes crowd extremely |
//! | value of an address | [`LookupTable::lookup`] | two to four dependent loads |
//! | values of many addresses | [`LookupTable::lookup_batch`] | as above, overlapped or in vectors |
//!
//! Beside other libraries:
//!
//! | library | changes | bulk lookup | memory of 901,899 IPv4 prefixes | strength |
//! |---|---|---|---|---|
//! | this module | compiled anew | AVX2, AVX-512, portable | 5 MB, and 13 MB for the `PrefixTable` | lookups without unpredictable branches |
//! | prefix-trie | in place | no | 13 MB | set operations; the `PrefixTable` uses it |
//! | bart (Go), ts_bart | in place, persistent | no | 20 to 25 MB | frequent changes |
//! | rte_lpm, rte_fib | in place | yes; rte_fib with AVX-512 | 75 MB, 38 MB and more | changes and bulk lookups of long-lived routing tables |
//!
//! Do not use a `LookupTable` where prefixes change more often than some hundred times a second: each change compiles it
//! anew. Do not use it where the matching prefix itself is wanted, or all covering ones: it returns values only, and a
//! `PrefixTable` returns prefixes. Do not use it to save memory on a handful of prefixes: it takes 8 KiB at least.
//!
//! # Method
//!
//! A lookup finds a value, not a prefix. The nested prefixes are first flattened: the address space becomes disjoint
//! intervals, each with one value or none, and neighbours with equal values are joined. Each distinct value has a
//! number, its *class*; class 0 is no match.
//!
//! ```text
//!   prefixes    |---------------- 168.86.0.0/16 = a ----------------|
//!                                  |-- 168.86.128.0/18 = b --|
//!   intervals  0|a                 |b                        |a      |0
//!   starts      168.86.0.0          168.86.128.0              168.86.192.0   168.87.0.0
//! ```
//!
//! `n` prefixes make at most `2n + 1` intervals. The engine that finds the interval of an address depends on their
//! number and spread:
//!
//! | IPv4 engine | when | one lookup | memory |
//! |---|---|---|---|
//! | small directory | up to 4,096 intervals, at most 5 in any /12 | 2 loads, one comparison of 4 | 8 KiB, and 64 B for each /12 with a boundary |
//! | directory | up to 4,096 intervals, at most 8 in any /14 | 2 loads, two comparisons of 4 | 32 KiB, and 64 B for each /14 with a boundary |
//! | bit select | any crowding, while it takes up to 6 MiB | 2 loads, two comparisons of 8 | 256 KiB, and 64 B for each /16 with a boundary; more lines where a /16 has more than 16 intervals |
//! | two-level directory | more | 2 loads; a /24 with several intervals: a hash table and a B-tree | 1 MiB, and 64 cells of 1, 2 or 4 B for each distinct /18 |
//! | SIMD search | up to 32 intervals with AVX2, 128 with AVX-512, in bulk | permutations in registers | 1 KiB |
//!
//! | IPv6 engine | when | one lookup | memory |
//! |---|---|---|---|
//! | Eytzinger search | up to 32 intervals | 5 comparisons; in bulk with AVX-512 in registers | 1 KiB |
//! | bit-select tree | up to 16,384 intervals, any crowding | 2 to 4 loads, one comparison of 6 | 25 to 60 B an interval |
//! | B+-tree | more | 1 load, then 1 to 3 nodes of 128 B | 4 B for each slot of the directory, 6 or 8 B an interval |
//!
//! **Bit selection.** Providers publish prefixes that crowd: five /13s hold a third of them, and hosts come in bunches. A
//! directory that is indexed by leading bits then needs many levels or much memory. Here each crowded block names the
//! bit field that separates its intervals best, wherever it lies in the address. The field's value chooses a line of
//! 64 B, and one comparison of the whole line finds the interval. The work is the same for each address, without a
//! branch that depends on it.
//!
//! **Memory.** 16 prefixes take 10 KiB; 1,000 take 90 KiB, or 290 KiB if they crowd; 8,000 crowded ones 0.4 to 1.6 MiB;
//! 1,000 crowded IPv6 prefixes 60 KiB, 3,000 take 150 to 300 KiB. A full BGP table with 250 classes takes 5.0 MiB for
//! IPv4 and 1.8 MB for IPv6.
//!
//! # Processors
//!
//! The binary is built for any x86-64 processor. Further instruction sets are detected when a table is compiled
//! ([`Level`]), and bulk lookups use them. A single lookup does not: it is inlined into its caller, and a function for
//! another instruction set would be a call. It uses SSE2, which every x86-64 processor has, or plain code elsewhere.
//! All engines give the same answers at all levels.
//!
//! # Changes under load
//!
//! Compile a new table, put it into an [`Arc`](std::sync::Arc) and send it to the readers, which take it between two
//! packets. No lookup takes a lock, counts a reference or sees half of a change. The old table is freed with its last
//! reader. [`Engine::set_policy`](crate::engine::Engine::set_policy) works like that.
//!
//! The data path looks up one address a packet. The last line of `scripts/bench lpm` compares that with a bulk lookup
//! of the 64 packets of one TUN batch.

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

/// The model of both tables: prefixes in a list, and addresses near their ends.
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
