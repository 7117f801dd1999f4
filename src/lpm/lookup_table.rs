//! The table of the data path: disjoint intervals and a binary search.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::PrefixTable;

/// An immutable map from addresses to the value of their longest prefix.
///
/// The nested prefixes are flattened to intervals that fill the address space of their family and do not overlap; a
/// lookup finds the interval that holds the address. Neighbours of equal value are one interval, so that a prefix
/// costs nothing where it makes no difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupTable<V> {
    v4: Intervals<u32, V>,
    v6: Intervals<u128, V>,
}

impl<V: Copy + Eq> LookupTable<V> {
    /// Compiles a table.
    #[must_use]
    pub fn new(table: &PrefixTable<V>) -> Self {
        let (mut v4, mut v6) = (vec![0], vec![0]);
        for (prefix, _) in table.iter() {
            match (prefix.first(), prefix.last()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    v4.push(first.to_bits());
                    v4.extend(last.to_bits().checked_add(1));
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    v6.push(first.to_bits());
                    v6.extend(last.to_bits().checked_add(1));
                }
                _ => unreachable!("both ends of a prefix are of its family"),
            }
        }
        let value = |addr| table.longest_match(addr).map(|(_, value)| *value);
        Self {
            v4: Intervals::new(v4, |start| value(Ipv4Addr::from_bits(start).into())),
            v6: Intervals::new(v6, |start| value(Ipv6Addr::from_bits(start).into())),
        }
    }

    /// The value of the longest prefix that `addr` lies in.
    #[must_use]
    pub fn lookup(&self, addr: IpAddr) -> Option<V> {
        match addr {
            IpAddr::V4(addr) => self.v4.lookup(addr.to_bits()),
            IpAddr::V6(addr) => self.v6.lookup(addr.to_bits()),
        }
    }
}

/// One family's intervals: each runs from its start to before the next one's, the last to the end of the space.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Intervals<A, V> {
    /// Ascending; the first is address 0.
    starts: Box<[A]>,
    /// The value of each interval, `None` where no prefix reaches.
    values: Box<[Option<V>]>,
}

impl<A: Copy + Ord, V: Copy + Eq> Intervals<A, V> {
    /// Makes the intervals of the addresses at which a value may change.
    ///
    /// The longest match can change at the first address of a prefix and after its last, and nowhere else: so one
    /// question at each of these addresses answers for the whole interval.
    fn new(mut boundaries: Vec<A>, value: impl Fn(A) -> Option<V>) -> Self {
        boundaries.sort_unstable();
        let mut intervals: Vec<_> = boundaries
            .into_iter()
            .map(|start| (start, value(start)))
            .collect();
        intervals.dedup_by_key(|(_, value)| *value);
        let (starts, values): (Vec<_>, Vec<_>) = intervals.into_iter().unzip();
        Self {
            starts: starts.into(),
            values: values.into(),
        }
    }

    fn lookup(&self, addr: A) -> Option<V> {
        let after = self.starts.partition_point(|start| *start <= addr);
        self.values[after - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::super::model;
    use super::*;
    use crate::net::Prefix;

    use proptest::prelude::*;

    fn table(entries: &[(&str, u8)]) -> LookupTable<u8> {
        let entry =
            |(text, value): &(&str, u8)| (text.parse::<Prefix>().expect("a prefix"), *value);
        LookupTable::new(&entries.iter().map(entry).collect())
    }

    fn at(table: &LookupTable<u8>, addr: &str) -> Option<u8> {
        table.lookup(addr.parse().expect("an address"))
    }

    #[test]
    fn an_empty_table_matches_nothing() {
        let empty = table(&[]);
        for addr in ["0.0.0.0", "255.255.255.255", "::", "::1"] {
            assert_eq!(at(&empty, addr), None, "{addr}");
        }
    }

    #[test]
    fn nested_prefixes_give_way_to_the_longest() {
        let nested = table(&[
            ("0.0.0.0/0", 0),
            ("168.86.128.0/18", 1),
            ("168.86.128.0/24", 2),
            ("168.86.128.7/32", 3),
            ("255.255.255.255/32", 4),
        ]);
        for (addr, value) in [
            ("0.0.0.0", 0),
            ("168.86.127.255", 0),
            ("168.86.128.0", 2),
            ("168.86.128.7", 3),
            ("168.86.128.8", 2),
            ("168.86.129.0", 1),
            ("168.86.191.255", 1),
            ("168.86.192.0", 0),
            ("255.255.255.254", 0),
            ("255.255.255.255", 4),
        ] {
            assert_eq!(at(&nested, addr), Some(value), "{addr}");
        }
        assert_eq!(at(&nested, "::"), None);
    }

    #[test]
    fn neighbours_of_equal_value_are_one_interval() {
        let halves = table(&[("10.0.0.0/9", 1), ("10.128.0.0/9", 1), ("10.1.0.0/16", 1)]);
        assert_eq!(halves, table(&[("10.0.0.0/8", 1)]));
        assert_eq!(halves.v4.starts.len(), 3);
    }

    #[test]
    fn a_mapped_address_is_an_ipv6_address() {
        let mapped = table(&[("192.0.2.0/24", 4), ("::ffff:192.0.2.0/120", 6)]);
        assert_eq!(at(&mapped, "192.0.2.1"), Some(4));
        assert_eq!(at(&mapped, "::ffff:192.0.2.1"), Some(6));
        assert_eq!(at(&table(&[("192.0.2.0/24", 4)]), "::ffff:192.0.2.1"), None);
    }

    proptest! {
        #[test]
        fn agrees_with_a_search_through_the_list(entries in model::entries(), more in model::addresses()) {
            let source: PrefixTable<u8> = entries.iter().copied().collect();
            let compiled = LookupTable::new(&source);
            let list: Vec<_> = source.iter().map(|(prefix, value)| (prefix, *value)).collect();
            for addr in model::probes(&list, &more) {
                let expected = model::longest_match(&list, addr).map(|(_, value)| *value);
                prop_assert_eq!(compiled.lookup(addr), expected, "{}", addr);
            }
        }
    }
}
