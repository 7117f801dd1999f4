//! The table that can be changed and queried for its structure.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

    /// Sets the value of `prefix`; returns the previous one.
    pub fn insert(&mut self, prefix: Prefix, value: V) -> Option<V> {
        self.trie.insert(prefix.into(), value)
    }

    /// Removes `prefix`; returns its value.
    pub fn remove(&mut self, prefix: Prefix) -> Option<V> {
        self.trie.remove(&prefix.into())
    }

    /// Returns the value of exactly `prefix`.
    #[must_use]
    pub fn get(&self, prefix: Prefix) -> Option<&V> {
        self.trie.get(&prefix.into())
    }

    /// Returns the value of exactly `prefix` for a change.
    #[must_use]
    pub fn get_mut(&mut self, prefix: Prefix) -> Option<&mut V> {
        self.trie.get_mut(&prefix.into())
    }

    /// Returns the longest prefix that contains `addr`.
    #[must_use]
    pub fn longest_match(&self, addr: IpAddr) -> Option<(Prefix, &V)> {
        self.trie.get_lpm(&addr.into()).map(entry)
    }

    /// Returns the longest prefix that covers `prefix`, which may be `prefix` itself.
    #[must_use]
    pub fn longest_match_of(&self, prefix: Prefix) -> Option<(Prefix, &V)> {
        self.trie.get_lpm(&prefix.into()).map(entry)
    }

    /// Returns the shortest prefix that contains `addr`.
    #[must_use]
    pub fn shortest_match(&self, addr: IpAddr) -> Option<(Prefix, &V)> {
        self.trie.get_spm(&addr.into()).map(entry)
    }

    /// Returns the prefixes that cover `prefix`, itself included, shortest first.
    pub fn supernets(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, &V)> {
        self.trie.cover(&prefix.into()).map(entry)
    }

    /// Returns the prefixes that `prefix` covers, itself included, in order.
    pub fn subnets(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, &V)> {
        self.trie.children(&prefix.into()).map(entry)
    }

    /// Returns whether any prefix shares an address with `prefix`.
    #[must_use]
    pub fn overlaps(&self, prefix: Prefix) -> bool {
        self.longest_match_of(prefix).is_some() || self.subnets(prefix).next().is_some()
    }

    /// Returns whether any prefix shares an address with one of `other`.
    #[must_use]
    pub fn overlaps_table<W>(&self, other: &PrefixTable<W>) -> bool {
        self.iter().any(|(prefix, _)| other.overlaps(prefix))
    }

    /// Returns all prefixes in order: IPv4 first, then by address, a covering prefix before the covered ones.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &V)> {
        self.trie.iter().map(entry)
    }

    /// Removes the prefixes for which `keep` returns false.
    pub fn retain(&mut self, mut keep: impl FnMut(Prefix, &V) -> bool) {
        self.trie.retain(|net, value| keep(prefix(net), value));
    }

    /// Replaces the prefixes by the fewest that give each address the same value or none.
    pub fn aggregate(&mut self)
    where
        V: Clone + Ord,
    {
        self.trie.t1.aggregate();
        self.trie.t2.aggregate();
    }
}

fn entry<V>((net, value): (IpNet, V)) -> (Prefix, V) {
    (prefix(net), value)
}

fn prefix(net: IpNet) -> Prefix {
    Prefix::new(net.addr(), net.prefix_len()).expect("the trie keeps no host bits")
}

impl<V> Default for PrefixTable<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: fmt::Debug> fmt::Debug for PrefixTable<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<V: PartialEq> PartialEq for PrefixTable<V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<V: Eq> Eq for PrefixTable<V> {}

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

/// A map from prefixes, as texts, to values.
impl<V: Serialize> Serialize for PrefixTable<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.iter()
                .map(|(prefix, value)| (prefix.to_string(), value)),
        )
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for PrefixTable<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor(PhantomData))
    }
}

struct EntryVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for EntryVisitor<V> {
    type Value = PrefixTable<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from prefixes to values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut table = PrefixTable::new();
        while let Some((text, value)) = map.next_entry::<String, V>()? {
            let prefix = text.parse().map_err(A::Error::custom)?;
            if table.insert(prefix, value).is_some() {
                return Err(A::Error::custom(format_args!("{prefix} is there twice")));
            }
        }
        Ok(table)
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
                let matching = || list.iter().filter(|(prefix, _)| prefix.contains(addr)).copied();
                let (longest, shortest) = (
                    matching().max_by_key(|(prefix, _)| prefix.len()),
                    matching().min_by_key(|(prefix, _)| prefix.len()),
                );
                prop_assert_eq!(table.longest_match(addr).map(owned), longest, "{}", addr);
                prop_assert_eq!(table.shortest_match(addr).map(owned), shortest, "{}", addr);
            }
            for prefix in list.iter().map(|(prefix, _)| *prefix).chain([asked]) {
                let mut above: Vec<_> =
                    list.iter().filter(|(above, _)| above.covers(prefix)).copied().collect();
                above.sort_by_key(|(above, _)| above.len());
                let below = list.iter().filter(|(below, _)| prefix.covers(*below)).copied();
                let overlaps = list.iter().any(|(other, _)| other.overlaps(prefix));
                prop_assert_eq!(table.longest_match_of(prefix).map(owned), above.last().copied());
                prop_assert_eq!(table.supernets(prefix).map(owned).collect::<Vec<_>>(), above);
                prop_assert!(table.subnets(prefix).map(owned).eq(below));
                prop_assert_eq!(table.overlaps(prefix), overlaps);
                prop_assert_eq!(table.overlaps_table(&PrefixTable::from_iter([(prefix, ())])), overlaps);
            }
            let text = serde_json::to_string(&table).expect("prefixes can be keys");
            prop_assert_eq!(&serde_json::from_str::<PrefixTable<u8>>(&text).expect("its own text"), &table);
            let kept: PrefixTable<u8> = list.iter().filter(|(_, value)| *value > 0).copied().collect();
            table.retain(|prefix, value| list.contains(&(prefix, *value)) && *value > 0);
            prop_assert_eq!(&table, &kept);
            for (prefix, value) in kept.iter() {
                *table.get_mut(prefix).expect("it was kept") = 10 + value;
            }
            let raised = kept.iter().map(|(prefix, value)| (prefix, value + 10));
            prop_assert!(table.iter().map(owned).eq(raised));
        }

        #[test]
        fn aggregation_changes_no_answer(entries in model::entries(), more in model::addresses()) {
            let table: PrefixTable<u8> = entries.iter().copied().collect();
            let mut fewer = table.clone();
            fewer.aggregate();
            prop_assert!(fewer.len() <= table.len());
            for addr in model::probes(&entries, &more) {
                let value = |table: &PrefixTable<u8>| table.longest_match(addr).map(|(_, value)| *value);
                prop_assert_eq!(value(&fewer), value(&table), "{}", addr);
            }
        }
    }

    #[test]
    fn halves_of_equal_value_aggregate() {
        let table = |text| serde_json::from_str::<PrefixTable<u8>>(text).expect("a table");
        let mut halves =
            table(r#"{"10.0.0.0/9": 1, "10.128.0.0/9": 1, "10.1.0.0/16": 1, "::/1": 2}"#);
        halves.aggregate();
        assert_eq!(halves, table(r#"{"10.0.0.0/8": 1, "::/1": 2}"#));
    }

    #[test]
    fn a_bad_text_is_refused_with_its_reason() {
        for (text, reason) in [
            (r#"{"10.0.0.1/8": 1}"#, "did you mean 10.0.0.0/8?"),
            (
                r#"{"10.0.0.0/8": 1, "10.0.0.0/8": 2}"#,
                "10.0.0.0/8 is there twice",
            ),
            (
                r#"["10.0.0.0/8"]"#,
                "expected a map from prefixes to values",
            ),
        ] {
            let error = serde_json::from_str::<PrefixTable<u8>>(text).expect_err(text);
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
