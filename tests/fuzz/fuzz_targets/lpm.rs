//! Any prefixes and any addresses: the table finds at every level what a search through the list finds.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use voicelane::lpm::{Level, LookupTable, PrefixTable};
use voicelane::net::{Family, Prefix, PrefixError};

#[derive(Arbitrary, Debug)]
struct Input {
    /// An address, a length, and one of few or many values.
    entries: Vec<(IpAddr, u8, u16)>,
    /// Addresses to ask for beside the ends of the prefixes.
    probes: Vec<IpAddr>,
    /// How many times the entries are repeated further up, so that tables of every size come about.
    copies: u8,
    /// How far, as a power of two: small ones crowd the copies into one block, in bunches.
    apart: u8,
}

fuzz_target!(|input: Input| {
    let shifted = (0..=u32::from(input.copies)).flat_map(|copy| {
        input.entries.iter().map(move |(addr, len, value)| {
            let addr = match *addr {
                IpAddr::V4(addr) => {
                    IpAddr::V4((addr.to_bits().wrapping_add(copy << (input.apart % 16))).into())
                }
                IpAddr::V6(addr) => IpAddr::V6(
                    (addr
                        .to_bits()
                        .wrapping_add(u128::from(copy) << (60 + input.apart % 32)))
                    .into(),
                ),
            };
            match Prefix::new(addr, len % (Family::of(addr).bits() + 1)) {
                Ok(prefix) | Err(PrefixError::HostBits { meant: prefix }) => (prefix, *value),
                Err(error) => unreachable!("the length is the family's: {error}"),
            }
        })
    });
    let source: PrefixTable<u16> = shifted.take(4_000).collect();
    let list: Vec<_> = source
        .iter()
        .map(|(prefix, value)| (prefix, *value))
        .collect();
    let ends = list
        .iter()
        .take(100)
        .flat_map(|(prefix, _)| [prefix.first(), prefix.last()]);
    let addrs: Vec<_> = ends
        .chain(input.probes.iter().copied())
        .flat_map(|addr| match addr {
            IpAddr::V4(addr) => {
                [u32::MAX, 0, 1].map(|by| IpAddr::V4(addr.to_bits().wrapping_add(by).into()))
            }
            IpAddr::V6(addr) => {
                [u128::MAX, 0, 1].map(|by| IpAddr::V6(addr.to_bits().wrapping_add(by).into()))
            }
        })
        .collect();
    let longest = |addr: &IpAddr| {
        let covering = list.iter().filter(|(prefix, _)| prefix.contains(*addr));
        covering.max_by_key(|(prefix, _)| prefix.len()).copied()
    };
    let expected: Vec<_> = addrs.iter().map(longest).collect();
    for (addr, expected) in addrs.iter().zip(&expected) {
        let found = source
            .longest_match(*addr)
            .map(|(prefix, value)| (prefix, *value));
        assert_eq!(found, *expected, "{addr}");
    }
    let expected: Vec<_> = expected
        .iter()
        .map(|found| found.map(|(_, value)| value))
        .collect();
    for level in [Level::Portable, Level::Avx2, Level::Avx512] {
        let table = LookupTable::with_level(&source, level);
        for (addr, expected) in addrs.iter().zip(&expected) {
            assert_eq!(table.lookup(*addr), *expected, "{level:?} {table:?} {addr}");
        }
        let mut values = vec![None; addrs.len()];
        table.lookup_batch(&addrs, &mut values);
        assert_eq!(values, expected, "{level:?} {table:?}");
    }
});
