//! The table that is filled, changed and asked about its structure.

use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use crate::net::Prefix;

/// A map from prefixes of both families to values, with longest match: a multi-bit trie per family.
#[derive(Clone)]
pub struct PrefixTable<V> {
    trie: JointPrefixMap<IpNet, V>,
}

impl<V> PrefixTable<V> {
    /// Makes an empty table.
    #[must_use]
    pub fn new() -> Self {
        Self {
            trie: JointPrefixMap::new(),
        }
    }

    /// The number of prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.trie.len()
    }

    /// Whether the table holds no prefix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trie.is_empty()
    }

    /// Puts `value` at `prefix`; returns the value that was there.
    pub fn insert(&mut self, prefix: Prefix, value: V) -> Option<V> {
        self.trie.insert(prefix.into(), value)
    }

    /// Takes the value of `prefix` itself out.
    pub fn remove(&mut self, prefix: Prefix) -> Option<V> {
        self.trie.remove(&prefix.into())
    }

    /// The value of `prefix` itself.
    #[must_use]
    pub fn get(&self, prefix: Prefix) -> Option<&V> {
        self.trie.get(&prefix.into())
    }

    /// The value of `prefix` itself, to be changed.
    #[must_use]
    pub fn get_mut(&mut self, prefix: Prefix) -> Option<&mut V> {
        self.trie.get_mut(&prefix.into())
    }

    /// The longest prefix that `addr` lies in.
    #[must_use]
    pub fn longest_match(&self, addr: IpAddr) -> Option<(Prefix, &V)> {
        self.trie.get_lpm(&addr.into()).map(entry)
    }

    /// The prefixes that cover `prefix`, itself included, from the shortest to the longest.
    pub fn supernets(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, &V)> {
        self.trie.cover(&prefix.into()).map(entry)
    }

    /// All prefixes in order: IPv4 first, then by address, a covering prefix before what it covers.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &V)> {
        self.trie.iter().map(entry)
    }
}

fn entry<V>((net, value): (IpNet, V)) -> (Prefix, V) {
    let prefix = Prefix::new(net.addr(), net.prefix_len());
    (prefix.expect("the trie keeps no host bits"), value)
}

impl<V> Default for PrefixTable<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: std::fmt::Debug> std::fmt::Debug for PrefixTable<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<V> Extend<(Prefix, V)> for PrefixTable<V> {
    fn extend<I: IntoIterator<Item = (Prefix, V)>>(&mut self, entries: I) {
        for (prefix, value) in entries {
            self.insert(prefix, value);
        }
    }
}

impl<V> FromIterator<(Prefix, V)> for PrefixTable<V> {
    fn from_iter<I: IntoIterator<Item = (Prefix, V)>>(entries: I) -> Self {
        let mut table = Self::new();
        table.extend(entries);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::super::model;
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_list(
            entries in model::entries(),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            more in model::addresses(),
            asked in model::prefix(),
        ) {
            let mut table = PrefixTable::new();
            let mut model = BTreeMap::new();
            for &(prefix, value) in &entries {
                prop_assert_eq!(table.insert(prefix, value), model.insert(prefix, value));
            }
            for which in removed.iter().filter(|_| !entries.is_empty()) {
                let (prefix, _) = which.get(&entries);
                prop_assert_eq!(table.remove(*prefix), model.remove(prefix));
            }
            for (prefix, _) in &entries {
                prop_assert_eq!(table.get(*prefix), model.get(prefix));
            }
            let list: Vec<_> = model.into_iter().collect();
            let owned = |(prefix, value): (Prefix, &u8)| (prefix, *value);
            prop_assert_eq!(table.len(), list.len());
            prop_assert_eq!(table.iter().map(owned).collect::<Vec<_>>(), list.clone());
            for addr in model::probes(&list, &more) {
                let expected = model::longest_match(&list, addr).copied();
                prop_assert_eq!(table.longest_match(addr).map(owned), expected, "{}", addr);
            }
            for prefix in list.iter().map(|(prefix, _)| *prefix).chain([asked]) {
                let mut expected: Vec<_> =
                    list.iter().filter(|(above, _)| above.covers(prefix)).copied().collect();
                expected.sort_by_key(|(above, _)| above.len());
                prop_assert_eq!(table.supernets(prefix).map(owned).collect::<Vec<_>>(), expected);
            }
        }
    }
}
