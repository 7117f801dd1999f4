//! The engines for IPv6 addresses.
//!
//! Most prefixes end at /64 or above. Each engine therefore searches the high half of an address, in intervals that
//! begin at the first boundary; see [`wrapped_intervals`]. Boundaries of longer prefixes are searched in full length.
//!
//! | engine | number of intervals | one lookup | memory |
//! |---|---|---|---|
//! | Eytzinger search | up to 32; up to 8,192 where the bit-select tree is too large | one comparison for each doubling; in bulk with AVX-512 in registers, then by gathers | 12 B an interval, up to twice that |
//! | bit-select tree | 33 to 16,384 | two to four loads and a comparison of one line; more loads only for extreme crowding | 25 to 60 B an interval |
//! | B+-tree | more | one load of the directory, then one to three nodes of 128 B | 4 B a slot, 6 or 8 B an interval |
//!
//! # The B+-tree
//!
//! The directory has one word for each block of addresses from the first boundary to the last. The nodes below compare
//! the next 32 bits. The blocks' length depends on the table: as short as the height allows, as long as prefixes need
//! to end within those 32 bits. For the routed Internet, blocks are /20s, and the fast search ends at /52.
//!
//! A leaf holds 22 intervals (16 above 2^15 classes) in 128 B, an inner node 32 children. Height 2 holds 22,528
//! intervals in one slot.

#![allow(
    clippy::inline_always,
    reason = "what is compiled for an instruction set must be compiled into the function that has it"
)]

mod bit_select;
mod bplus_tree;
mod eytzinger;
mod portable;
mod wrapped_intervals;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::Level;
use bit_select::BitSelectTree;
use bplus_tree::{BPlusTree, LOW_BITS, NarrowLeaf, WideLeaf};
use eytzinger::EytzingerSearch;
#[cfg(not(target_arch = "x86_64"))]
use portable::{bit_select_batch, eytzinger_batch, tree_batch, tree_lookup};
use wrapped_intervals::{ClassOrBlock, LongPrefixes, WrappedIntervals, high};
#[cfg(target_arch = "x86_64")]
use x86::{bit_select_batch, eytzinger_batch, tree_batch, tree_lookup};

/// Finds the interval that holds an IPv6 address, and tells its class.
#[derive(Clone, Debug)]
pub(super) struct Ipv6Engine {
    level: Level,
    base: u64,
    search: Ipv6Search,
    long: LongPrefixes,
}

#[derive(Clone, Debug)]
enum Ipv6Search {
    BitSelect(BitSelectTree),
    EytzingerSearch(EytzingerSearch),
    NarrowLeaf(BPlusTree<NarrowLeaf>),
    WideLeaf(BPlusTree<WideLeaf>),
}

/// Up to so many wrapped are searched in registers.
const REGISTERS: usize = 1 << eytzinger::SHALLOW;

/// The most wrapped of a bit-select tree.
const BIT_SELECT_MAX: usize = 1 << 14;

/// The most bytes of a bit-select tree's lines.
const BIT_SELECT_MEMORY: usize = 4 << 20;

/// The keys of a batch between two looks for long outcomes: few enough to be still in the cache.
const BATCH: usize = 1024;

impl Ipv6Engine {
    /// Compiles intervals, given by start and class: ascending, the first start is 0, neighbours differ in class.
    ///
    /// A level above the processor's is lowered to it.
    ///
    /// # Panics
    /// If no interval starts at 0, or at a class from 2^31.
    pub(super) fn new(intervals: &[(u128, u32)], level: Level) -> Self {
        let level = level.min(Level::detect());
        let wrapped = WrappedIntervals::new(intervals, u64::BITS);
        let (starts, long) = wrapped.cut(u64::BITS);
        if (REGISTERS + 1..=BIT_SELECT_MAX).contains(&starts.len()) {
            // Bit fields separate prefixes only where these begin at multiples of their sizes.
            let aligned = WrappedIntervals::new(intervals, u128::BITS - 1);
            let (starts, long) = aligned.cut(u64::BITS);
            if let Some(tree) = BitSelectTree::new(&starts, BIT_SELECT_MEMORY) {
                return Self {
                    level,
                    base: aligned.base(),
                    search: Ipv6Search::BitSelect(tree),
                    long,
                };
            }
        }
        if let Some(search) = EytzingerSearch::new(&starts).map(Ipv6Search::EytzingerSearch) {
            return Self {
                level,
                base: wrapped.base(),
                search,
                long,
            };
        }
        let shift = shift(intervals);
        let wrapped = WrappedIntervals::new(intervals, u64::BITS + LOW_BITS + shift);
        let (starts, long) = wrapped.cut(u64::BITS + shift);
        let narrow = |&(_, outcome): &(u64, ClassOrBlock)| i16::try_from(outcome).is_ok();
        let search = if starts.iter().all(narrow) {
            Ipv6Search::NarrowLeaf(BPlusTree::new(&starts, shift))
        } else {
            Ipv6Search::WideLeaf(BPlusTree::new(&starts, shift))
        };
        Self {
            level,
            base: wrapped.base(),
            search,
            long,
        }
    }

    /// The class of the interval that holds `key`.
    #[inline]
    pub(super) fn lookup(&self, key: u128) -> u32 {
        let at = high(key).wrapping_sub(self.base);
        let outcome = match &self.search {
            Ipv6Search::BitSelect(tree) => tree.lookup(at),
            Ipv6Search::EytzingerSearch(eytzinger) => eytzinger.lookup(at),
            Ipv6Search::NarrowLeaf(tree) => tree_lookup(self.level, tree, at),
            Ipv6Search::WideLeaf(tree) => tree_lookup(self.level, tree, at),
        };
        self.long.resolve(outcome, key)
    }

    /// The class of the interval that holds each of `keys`.
    ///
    /// # Panics
    /// If the two are not equally long.
    pub(super) fn lookup_batch(&self, keys: &[u128], classes: &mut [u32]) {
        assert_eq!(keys.len(), classes.len(), "one class for each key");
        for (keys, classes) in keys.chunks(BATCH).zip(classes.chunks_mut(BATCH)) {
            match &self.search {
                Ipv6Search::BitSelect(tree) => {
                    bit_select_batch(self.level, tree, self.base, keys, classes);
                }
                Ipv6Search::EytzingerSearch(eytzinger) => {
                    eytzinger_batch(self.level, eytzinger, self.base, keys, classes);
                }
                Ipv6Search::NarrowLeaf(tree) => {
                    tree_batch(self.level, tree, self.base, keys, classes);
                }
                Ipv6Search::WideLeaf(tree) => {
                    tree_batch(self.level, tree, self.base, keys, classes);
                }
            }
            if !self.long.is_empty() {
                for (key, class) in keys.iter().zip(classes) {
                    *class = self.long.resolve(class.cast_signed(), *key);
                }
            }
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        let search = match &self.search {
            Ipv6Search::BitSelect(tree) => tree.memory(),
            Ipv6Search::EytzingerSearch(eytzinger) => eytzinger.memory(),
            Ipv6Search::NarrowLeaf(tree) => tree.memory(),
            Ipv6Search::WideLeaf(tree) => tree.memory(),
        };
        size_of::<Self>() + search + self.long.memory()
    }

    /// What it is, for reports.
    pub(super) fn name(&self) -> &'static str {
        match (&self.search, self.level) {
            (Ipv6Search::BitSelect(_), _) => "bit select",
            (Ipv6Search::EytzingerSearch(_), Level::Portable | Level::Avx2) => "eytzinger",
            (Ipv6Search::EytzingerSearch(_), Level::Avx512) => "eytzinger, bulk AVX-512",
            (Ipv6Search::NarrowLeaf(_) | Ipv6Search::WideLeaf(_), Level::Portable) => "tree",
            (Ipv6Search::NarrowLeaf(_) | Ipv6Search::WideLeaf(_), Level::Avx2) => "tree, AVX2",
            (Ipv6Search::NarrowLeaf(_) | Ipv6Search::WideLeaf(_), Level::Avx512) => "tree, AVX-512",
        }
    }
}

/// How many of the lowest bits of a key's high half the tree leaves to the exact search.
///
/// What counts, in this order: that the directory is no burden, that few boundaries are long, that the directory is
/// small beside the nodes, that the tree is low, and that there are few slots.
fn shift(intervals: &[(u128, u32)]) -> u32 {
    let boundaries = &intervals[1..];
    let (first, last) = (boundaries[0].0, boundaries[boundaries.len() - 1]);
    // Unless the interval behind the last boundary reaches around, the end of the space is a boundary too.
    let last = if last.1 == intervals[0].1 {
        last.0
    } else {
        u128::MAX
    };
    let merit = |shift: u32| {
        let (slot, below) = (u64::BITS + LOW_BITS + shift, u64::BITS + shift);
        let slots = (last >> slot) - (first >> slot) + 2;
        let long = boundaries
            .iter()
            .filter(|(start, _)| start.trailing_zeros() < below);
        let in_slot = boundaries.chunk_by(|a, b| (a.0 ^ b.0) >> slot == 0);
        let fullest = in_slot.map(<[_]>::len).max().unwrap_or(0);
        (
            slots > (1 << 20) + 1,
            long.count() * 16 > boundaries.len(),
            slots > (boundaries.len() as u128 / 4).max(1 << 12),
            bplus_tree::height::<NarrowLeaf>(fullest + 1),
            slots,
        )
    };
    // The highest makes 2^12 slots of the whole space.
    (0..=LOW_BITS - 12)
        .min_by_key(|shift| merit(*shift))
        .expect("there are shifts to choose from")
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const LEVELS: [Level; 3] = [Level::Portable, Level::Avx2, Level::Avx512];

    type Prefix = (u128, u32);

    fn last(&(first, len): &Prefix) -> u128 {
        first | u128::MAX.checked_shr(len).unwrap_or(0)
    }

    /// The class of a key: 1 more than that of the longest prefix, which the later one is of two that are the same.
    fn linear(prefixes: &[(Prefix, u32)], key: u128) -> u32 {
        let holding = |(prefix, _): &&(Prefix, u32)| prefix.0 <= key && key <= last(prefix);
        let longest = prefixes
            .iter()
            .filter(holding)
            .max_by_key(|((_, len), _)| *len);
        longest.map_or(0, |(_, class)| class + 1)
    }

    /// The intervals, and the first key of each before neighbours of the same class were merged.
    fn intervals(prefixes: &[(Prefix, u32)]) -> (Vec<(u128, u32)>, Vec<u128>) {
        let ends = |(prefix, _): &(Prefix, u32)| [Some(prefix.0), last(prefix).checked_add(1)];
        let mut starts: Vec<_> = prefixes
            .iter()
            .flat_map(ends)
            .flatten()
            .chain([0])
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let mut intervals: Vec<_> = starts
            .iter()
            .map(|start| (*start, linear(prefixes, *start)))
            .collect();
        intervals.dedup_by_key(|(_, class)| *class);
        (intervals, starts)
    }

    /// The engine that is chosen, and the one that serves the table if that does not.
    fn engines(intervals: &[(u128, u32)], level: Level) -> Vec<Ipv6Engine> {
        let chosen = Ipv6Engine::new(intervals, level);
        let align = match chosen.search {
            Ipv6Search::BitSelect(_) => u64::BITS,
            _ => u128::BITS - 1,
        };
        let wrapped = WrappedIntervals::new(intervals, align);
        let (starts, long) = wrapped.cut(u64::BITS);
        let search = match chosen.search {
            Ipv6Search::BitSelect(_) => {
                EytzingerSearch::new(&starts).map(Ipv6Search::EytzingerSearch)
            }
            _ => BitSelectTree::new(&starts, BIT_SELECT_MEMORY).map(Ipv6Search::BitSelect),
        };
        let other = search.map(|search| Ipv6Engine {
            level: chosen.level,
            base: wrapped.base(),
            search,
            long,
        });
        [chosen].into_iter().chain(other).collect()
    }

    /// Looks up `keys` in every engine, one by one and in batches of several lengths.
    fn assert_answers(intervals: &[(u128, u32)], keys: &[u128], expected: &[u32]) {
        for engine in LEVELS
            .into_iter()
            .flat_map(|level| engines(intervals, level))
        {
            let name = engine.name();
            for (key, class) in keys.iter().zip(expected) {
                assert_eq!(engine.lookup(*key), *class, "{name}: {key:#034x}");
            }
            for len in [1, 15, 16, 31, 32, 33, 100, BATCH, keys.len()] {
                let mut classes = vec![u32::MAX; keys.len()];
                for (keys, classes) in keys.chunks(len).zip(classes.chunks_mut(len)) {
                    engine.lookup_batch(keys, classes);
                }
                assert_eq!(classes, expected, "{name}, {len} at once");
            }
        }
    }

    fn around(key: u128) -> [u128; 4] {
        [key.wrapping_sub(1), key, key.wrapping_add(1), key ^ 1 << 64]
    }

    fn assert_agrees(prefixes: &[(Prefix, u32)], more: &[u128]) {
        let (intervals, starts) = intervals(prefixes);
        let keys: Vec<_> = starts
            .into_iter()
            .chain(more.iter().copied())
            .flat_map(around)
            .collect();
        let expected: Vec<_> = keys.iter().map(|key| linear(prefixes, *key)).collect();
        assert_answers(&intervals, &keys, &expected);
    }

    /// Keys of few different bits at the high end, at /32 to /48, around /64 and at the low end.
    fn key() -> impl Strategy<Value = u128> {
        let realistic = (0..4u128, 0..32u128, 0..4u128, 0..4u128, any::<u128>()).prop_map(
            |(root, net, site, subnet, host)| {
                0x2001 << 112 | root << 116 | net << 94 | site << 79 | subnet << 63 | host >> 66
            },
        );
        let bunched = (0..3u128, 0..3u128, 0..32u128).prop_map(|(net, site, subnet)| {
            0x2600_1f14 << 96 | net << 88 | site << 76 | subnet << 64
        });
        prop_oneof![
            4 => realistic,
            3 => bunched,
            1 => any::<u128>(),
            1 => (0..4u128).prop_map(|low| u128::MAX - low),
            1 => 0..4u128,
        ]
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        let len = prop_oneof![
            1 => Just(0),
            1 => Just(128),
            6 => 16..=64u32,
            2 => 60..=128u32,
            1 => 0..=128u32,
        ];
        (key(), len).prop_map(|(key, len)| (key & !u128::MAX.checked_shr(len).unwrap_or(0), len))
    }

    /// Prefixes, each once.
    fn prefixes(count: usize, classes: u32) -> impl Strategy<Value = Vec<(Prefix, u32)>> {
        prop::collection::btree_map(prefix(), 0..classes, 0..count)
            .prop_map(|prefixes| prefixes.into_iter().collect())
    }

    proptest! {
        #[test]
        fn few_prefixes_agree_with_a_list(
            prefixes in prefixes(24, 4),
            more in prop::collection::vec(key(), 1..20),
        ) {
            assert_agrees(&prefixes, &more);
        }

        #[test]
        fn sixteen_prefixes_fit_the_registers(prefixes in prefixes(17, 1000)) {
            let engine = Ipv6Engine::new(&intervals(&prefixes).0, Level::Portable);
            prop_assert!(matches!(engine.search, Ipv6Search::EytzingerSearch(EytzingerSearch { levels: eytzinger::SHALLOW, .. })), "{}", intervals(&prefixes).0.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn many_prefixes_agree_with_a_list(
            prefixes in prefixes(300, 1000),
            more in prop::collection::vec(key(), 1..200),
        ) {
            assert_agrees(&prefixes, &more);
        }
    }

    #[test]
    fn one_interval_is_the_answer_to_all() {
        assert_answers(&[(0, 7)], &[0, 1, u128::MAX], &[7; 3]);
    }

    #[test]
    fn the_whole_space_and_single_addresses_nest() {
        let ends = [
            (0, 0),
            (0, 128),
            (u128::MAX, 128),
            (1 << 127, 128),
            (1 << 127, 1),
        ];
        assert_agrees(&ends.map(|prefix| (prefix, prefix.1)), &[]);
        assert_agrees(
            &ends[1..]
                .iter()
                .map(|prefix| (*prefix, prefix.1))
                .collect::<Vec<_>>(),
            &[],
        );
    }

    /// Intervals of `count` starts, `step` apart, of which `class` tells the class; and keys around each.
    fn assert_even(count: u32, first: u128, step: u128, class: impl Fn(u32) -> u32) {
        let start = |interval: u32| first + u128::from(interval) * step;
        let inner = (0..count).map(|interval| (start(interval), class(interval)));
        let intervals: Vec<_> = [(0, 0)].into_iter().chain(inner).collect();
        let keys: Vec<_> = intervals
            .iter()
            .flat_map(|(start, _)| around(*start))
            .collect();
        let answer = |key: &u128| {
            let after = intervals.partition_point(|(start, _)| start <= key);
            intervals[after - 1].1
        };
        assert_answers(
            &intervals,
            &keys,
            &keys.iter().map(answer).collect::<Vec<_>>(),
        );
    }

    #[test]
    fn every_height_and_both_leaves_answer() {
        // Around the sizes at which the registers, a leaf, and an inner node are full; at either end of the space.
        let first = 0x2a00 << 112;
        for count in [1, 2, 21, 22, 30, 31, 32, 33, 34, 703, 704, 705] {
            for step in [1 << 64, 1 << 80] {
                let highest = u128::MAX - u128::from(count - 1) * step;
                assert_even(count, first, step, |interval| 1 + interval % 250);
                assert_even(count, first, step, |interval| 1_000_000 + interval);
                assert_even(count, highest, step, |interval| 1 + interval % 250);
            }
        }
        assert_even(22_530, first, 1 << 64, |interval| 1 + interval % 250);
    }

    #[test]
    fn tables_of_long_prefixes_only_are_searched() {
        for count in [20, 2000] {
            assert_even(count, 1 << 125, 3, |interval| 1 + interval % 2);
            assert_even(count, 1 << 125, (1 << 110) + 1, |interval| 1 + interval);
        }
    }

    #[test]
    #[should_panic(expected = "one class for each key")]
    fn a_batch_needs_room_for_its_answers() {
        Ipv6Engine::new(&[(0, 7)], Level::Portable).lookup_batch(&[1, 2], &mut [0]);
    }
}
