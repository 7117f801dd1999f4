//! The immutable table of the data path.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::FixedState;

use super::address::{Address, BATCH, Engines};
use super::intervals::Flattener;
use super::{Level, PrefixTable, v4, v6};

/// An immutable map from addresses to the value of their longest prefix.
///
/// The [module](super) describes its engines.
#[derive(Clone)]
pub struct LookupTable<V> {
    engines: Engines,
    /// The value of each class; class 0 is no match. At least [`FEW`] entries.
    values: Box<[Option<V>]>,
    few: bool,
}

/// The number of classes that 8 bits can name.
const FEW: usize = 1 << u8::BITS;

impl<V: Copy + Eq + Hash> LookupTable<V> {
    /// Compiles a table for this processor.
    #[must_use]
    pub fn new(table: &PrefixTable<V>) -> Self {
        Self::with_level(table, Level::detect())
    }

    /// Compiles a table that uses no instruction set above `level`.
    ///
    /// A level above the processor's is lowered to it. The answers do not depend on the level.
    #[must_use]
    pub fn with_level(table: &PrefixTable<V>, level: Level) -> Self {
        let level = level.min(Level::detect());
        let mut values = vec![None];
        let mut classes: HashMap<V, u32, FixedState> = HashMap::default();
        let mut class = |value: V| {
            *classes.entry(value).or_insert_with(|| {
                values.push(Some(value));
                u32::try_from(values.len() - 1).expect("fewer values than 2^31 prefixes")
            })
        };
        let (mut v4, mut v6) = (Flattener::new(), Flattener::new());
        for (prefix, value) in table.iter() {
            match (prefix.first(), prefix.last()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    v4.push(first.to_bits(), last.to_bits(), class(*value));
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    v6.push(first.to_bits(), last.to_bits(), class(*value));
                }
                _ => unreachable!("both ends of a prefix are of its family"),
            }
        }
        let few = values.len() <= FEW;
        values.resize(values.len().max(FEW), None);
        Self {
            engines: Engines {
                v4: v4::Ipv4Engine::new(&v4.finish(), level),
                v6: v6::Ipv6Engine::new(&v6.finish(), level),
            },
            values: values.into(),
            few,
        }
    }
}

impl<V: Copy> LookupTable<V> {
    /// The value of the longest prefix that `addr` lies in.
    #[inline]
    #[must_use]
    pub fn lookup(&self, addr: IpAddr) -> Option<V> {
        match addr {
            IpAddr::V4(addr) => self.lookup_v4(addr),
            IpAddr::V6(addr) => self.lookup_v6(addr),
        }
    }

    /// The value of the longest prefix that an IPv4 address lies in.
    #[inline]
    #[must_use]
    pub fn lookup_v4(&self, addr: Ipv4Addr) -> Option<V> {
        self.value(self.engines.v4.lookup(addr.to_bits()))
    }

    /// The value of the longest prefix that an IPv6 address lies in.
    #[inline]
    #[must_use]
    pub fn lookup_v6(&self, addr: Ipv6Addr) -> Option<V> {
        self.value(self.engines.v6.lookup(addr.to_bits()))
    }

    /// Looks up many addresses at once and writes their values in the same order.
    ///
    /// Addresses are std's types or numbers, of one family or mixed.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn lookup_batch<A: Address>(&self, addrs: &[A], values: &mut [Option<V>]) {
        assert_eq!(addrs.len(), values.len(), "one value for each address");
        let mut classes = [0; BATCH];
        for (addrs, values) in addrs.chunks(BATCH).zip(values.chunks_mut(BATCH)) {
            let classes = &mut classes[..addrs.len()];
            A::classify(&self.engines, addrs, classes);
            if self.few {
                let table = self
                    .values
                    .first_chunk::<FEW>()
                    .expect("filled up to so many");
                for (value, class) in values.iter_mut().zip(classes) {
                    // An index of 8 bits needs no check.
                    #[expect(clippy::cast_possible_truncation, reason = "few classes")]
                    let class = *class as u8;
                    *value = table[usize::from(class)];
                }
            } else {
                for (value, class) in values.iter_mut().zip(classes) {
                    *value = self.values[*class as usize];
                }
            }
        }
    }

    /// The value of a class.
    #[inline]
    fn value(&self, class: u32) -> Option<V> {
        self.values[class as usize]
    }

    /// Returns the table's memory in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.engines.v4.memory() + self.engines.v6.memory() + size_of_val(&*self.values)
    }

    /// Returns the names of the engines for IPv4 and IPv6, for reports.
    #[must_use]
    pub fn engines(&self) -> [&'static str; 2] {
        [self.engines.v4.name(), self.engines.v6.name()]
    }
}

impl<V: Copy> fmt::Debug for LookupTable<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [v4, v6] = self.engines();
        f.debug_struct("LookupTable")
            .field("v4", &v4)
            .field("v6", &v6)
            .field("memory", &self.memory())
            .finish_non_exhaustive()
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
    fn the_longest_of_nested_prefixes_wins() {
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
