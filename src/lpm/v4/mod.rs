//! The engines for IPv4 addresses. The number and spread of the intervals choose one when a table is compiled.

mod bit_select;
mod block;
mod block_tree;
#[cfg(target_arch = "x86_64")]
mod bulk;
mod directory;
mod simd_search;
#[cfg(target_arch = "x86_64")]
mod sse2;
mod two_level;

use super::Level;
use bit_select::BitSelectDirectory;
use directory::{LargeDirectory, SmallDirectory};
use simd_search::SimdSearch;
use two_level::{ClassCell, TwoLevelDirectory};

/// A compiled table of IPv4 intervals.
#[derive(Clone)]
pub(super) struct Ipv4Engine {
    search: Ipv4Search,
    /// Looks up many at once where the table is small enough.
    simd: Option<SimdSearch>,
    /// No higher than the processor's.
    level: Level,
}

#[derive(Clone)]
enum Ipv4Search {
    SmallDirectory(SmallDirectory),
    LargeDirectory(LargeDirectory),
    BitSelect(BitSelectDirectory),
    SizedTwoLevel(SizedTwoLevel),
}

/// TwoLevelDirectory whose cells are as narrow as the classes allow.
#[derive(Clone)]
enum SizedTwoLevel {
    Byte(TwoLevelDirectory<u8>),
    Half(TwoLevelDirectory<u16>),
    Word(TwoLevelDirectory<u32>),
}

/// Up to this many intervals go into a directory.
const DIRECTORY_MAX: usize = 4096;

/// The most bytes of a bit-select directory: more leave the caches sooner than a two-level directory does.
const BIT_SELECT_MEMORY: usize = 6 << 20;

impl Ipv4Engine {
    /// Compiles intervals (start and class): ascending, the first start is 0, neighbours have different classes below
    /// 2^31.
    pub(super) fn new(intervals: &[(u32, u32)], level: Level) -> Self {
        let level = level.min(Level::detect());
        Self {
            search: Ipv4Search::new(intervals),
            simd: SimdSearch::new(intervals, level),
            level,
        }
    }

    /// The class of the interval that holds `key`.
    #[expect(
        clippy::inline_always,
        reason = "a call would cost as much as the lookup"
    )]
    #[inline(always)]
    pub(super) fn lookup(&self, key: u32) -> u32 {
        match &self.search {
            Ipv4Search::SmallDirectory(directory) => directory.lookup(key),
            Ipv4Search::LargeDirectory(directory) => directory.lookup(key),
            Ipv4Search::BitSelect(directory) => directory.lookup(key),
            Ipv4Search::SizedTwoLevel(large) => large.lookup(key),
        }
    }

    /// The class of the interval that holds each of `keys`.
    pub(super) fn lookup_batch(&self, keys: &[u32], classes: &mut [u32]) {
        if let Some(simd) = &self.simd {
            return simd.lookup_batch(keys, classes);
        }
        match &self.search {
            Ipv4Search::SmallDirectory(directory) => {
                one_by_one(keys, classes, |key| directory.lookup(key));
            }
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Ipv4Search::LargeDirectory(directory) if self.level >= Level::Avx512 => {
                // SAFETY: the level is no higher than the processor's.
                unsafe { bulk::directory(directory, keys, classes) }
            }
            Ipv4Search::LargeDirectory(directory) => {
                one_by_one(keys, classes, |key| directory.lookup(key));
            }
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Ipv4Search::BitSelect(directory) if self.level >= Level::Avx512 => {
                // SAFETY: the level is no higher than the processor's.
                unsafe { bulk::bit_select_avx512(directory, keys, classes) }
            }
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Ipv4Search::BitSelect(directory) if self.level >= Level::Avx2 => {
                // SAFETY: the level is no higher than the processor's.
                unsafe { bulk::bit_select_avx2(directory, keys, classes) }
            }
            Ipv4Search::BitSelect(directory) => {
                one_by_one(keys, classes, |key| directory.lookup(key));
            }
            Ipv4Search::SizedTwoLevel(large) => large.lookup_batch(keys, classes, self.level),
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        let simd = self.simd.as_ref().map_or(0, SimdSearch::memory);
        simd + match &self.search {
            Ipv4Search::SmallDirectory(directory) => directory.memory(),
            Ipv4Search::LargeDirectory(directory) => directory.memory(),
            Ipv4Search::BitSelect(directory) => directory.memory(),
            Ipv4Search::SizedTwoLevel(SizedTwoLevel::Byte(pages)) => pages.memory(),
            Ipv4Search::SizedTwoLevel(SizedTwoLevel::Half(pages)) => pages.memory(),
            Ipv4Search::SizedTwoLevel(SizedTwoLevel::Word(pages)) => pages.memory(),
        }
    }

    /// What it is, for reports.
    pub(super) fn name(&self) -> &'static str {
        match (&self.search, &self.simd) {
            (Ipv4Search::SmallDirectory(_), None) => "small directory",
            (Ipv4Search::SmallDirectory(_), Some(_)) => "small directory, bulk SIMD",
            (Ipv4Search::LargeDirectory(_), None) => "directory",
            (Ipv4Search::LargeDirectory(_), Some(_)) => "directory, bulk SIMD",
            (Ipv4Search::BitSelect(_), None) => "bit select",
            (Ipv4Search::BitSelect(_), Some(_)) => "bit select, bulk SIMD",
            (Ipv4Search::SizedTwoLevel(SizedTwoLevel::Byte(_)), _) => "two-level, 8 bits",
            (Ipv4Search::SizedTwoLevel(SizedTwoLevel::Half(_)), _) => "two-level, 16 bits",
            (Ipv4Search::SizedTwoLevel(SizedTwoLevel::Word(_)), _) => "two-level, 32 bits",
        }
    }
}

impl SizedTwoLevel {
    fn new(intervals: &[(u32, u32)]) -> Self {
        let byte = || TwoLevelDirectory::new(intervals).map(Self::Byte);
        let half = || TwoLevelDirectory::new(intervals).map(Self::Half);
        let word = || TwoLevelDirectory::new(intervals).map(Self::Word);
        let narrowest = byte().or_else(half).or_else(word);
        narrowest.expect("classes have 31 bits")
    }

    #[inline]
    fn lookup(&self, key: u32) -> u32 {
        match self {
            Self::Byte(pages) => pages.lookup(key),
            _ => self.lookup_wide(key),
        }
    }

    /// Keeps out of the callers' loops what few tables need.
    #[inline(never)]
    fn lookup_wide(&self, key: u32) -> u32 {
        match self {
            Self::Byte(pages) => pages.lookup(key),
            Self::Half(pages) => pages.lookup(key),
            Self::Word(pages) => pages.lookup(key),
        }
    }

    fn lookup_batch(&self, keys: &[u32], classes: &mut [u32], level: Level) {
        fn within<C: ClassCell>(
            pages: &TwoLevelDirectory<C>,
            keys: &[u32],
            classes: &mut [u32],
            level: Level,
        ) {
            match level {
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code)]
                Level::Avx2 | Level::Avx512 => {
                    // SAFETY: the level is no higher than the processor's.
                    unsafe { bulk::pages(pages, keys, classes) }
                }
                _ => one_by_one(keys, classes, |key| pages.lookup(key)),
            }
        }
        match self {
            Self::Byte(pages) => within(pages, keys, classes, level),
            Self::Half(pages) => within(pages, keys, classes, level),
            Self::Word(pages) => within(pages, keys, classes, level),
        }
    }
}

fn one_by_one(keys: &[u32], classes: &mut [u32], lookup: impl Fn(u32) -> u32) {
    for (key, class) in keys.iter().zip(classes) {
        *class = lookup(*key);
    }
}

/// Drops the interval before `key` if the next one starts there.
fn advance(rest: &[(u32, u32)], key: u32) -> &[(u32, u32)] {
    let next = rest.get(1).is_some_and(|(start, _)| *start == key);
    &rest[usize::from(next)..]
}

impl Ipv4Search {
    fn new(intervals: &[(u32, u32)]) -> Self {
        if intervals.len() <= DIRECTORY_MAX {
            if let Some(small) = SmallDirectory::new(intervals) {
                return Self::SmallDirectory(small);
            }
            if let Some(medium) = LargeDirectory::new(intervals) {
                return Self::LargeDirectory(medium);
            }
        }
        if let Some(directory) = BitSelectDirectory::new(intervals, BIT_SELECT_MEMORY) {
            return Self::BitSelect(directory);
        }
        Self::SizedTwoLevel(SizedTwoLevel::new(intervals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEVELS: [Level; 3] = [Level::Portable, Level::Avx2, Level::Avx512];

    /// Every engine that takes the intervals, and not only the one that would be chosen.
    fn engines(intervals: &[(u32, u32)]) -> Vec<Ipv4Engine> {
        let kinds = [
            SmallDirectory::new(intervals).map(Ipv4Search::SmallDirectory),
            LargeDirectory::new(intervals).map(Ipv4Search::LargeDirectory),
            BitSelectDirectory::new(intervals, 64 << 20).map(Ipv4Search::BitSelect),
            TwoLevelDirectory::new(intervals)
                .map(|pages| Ipv4Search::SizedTwoLevel(SizedTwoLevel::Byte(pages))),
            TwoLevelDirectory::new(intervals)
                .map(|pages| Ipv4Search::SizedTwoLevel(SizedTwoLevel::Half(pages))),
            TwoLevelDirectory::new(intervals)
                .map(|pages| Ipv4Search::SizedTwoLevel(SizedTwoLevel::Word(pages))),
        ];
        let mut engines = vec![];
        for level in LEVELS.map(|level| level.min(Level::detect())) {
            engines.push(Ipv4Engine::new(intervals, level));
            for search in kinds.iter().flatten().cloned() {
                let simd = None;
                engines.push(Ipv4Engine {
                    search,
                    simd,
                    level,
                });
            }
        }
        engines
    }

    fn expected(intervals: &[(u32, u32)], key: u32) -> u32 {
        intervals[intervals.partition_point(|(start, _)| *start <= key) - 1].1
    }

    fn check(intervals: &[(u32, u32)], more: &[u32]) {
        let boundaries = intervals
            .iter()
            .flat_map(|(start, _)| [start.wrapping_sub(1), *start, start.wrapping_add(1)]);
        let keys: Vec<_> = boundaries.chain(more.iter().copied()).collect();
        let expected: Vec<_> = keys.iter().map(|key| expected(intervals, *key)).collect();
        for engine in engines(intervals) {
            let name = engine.name();
            for (key, class) in keys.iter().zip(&expected) {
                assert_eq!(engine.lookup(*key), *class, "{name}, {key:#x}");
            }
            let mut classes = vec![u32::MAX; keys.len()];
            engine.lookup_batch(&keys, &mut classes);
            assert_eq!(classes, expected, "{name}, {:?}", engine.level);
        }
    }

    /// Intervals of all these starts and classes; neighbours of one class are joined.
    fn intervals(mut starts: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
        starts.push((0, 0));
        starts.sort_unstable();
        starts.dedup_by_key(|(start, _)| *start);
        starts.dedup_by_key(|(_, class)| *class);
        starts
    }

    /// Starts that share cells, pages and /24s, and some at the ends of the space.
    fn start() -> impl Strategy<Value = u32> {
        prop_oneof![
            any::<u32>(),
            (0..4u32, 0..256u32).prop_map(|(high, low)| 0x0a00_0000 | high << 14 | low << 6),
            (0..256u32).prop_map(|low| 0xc000_0200 | low),
            (0..4u32, 0..4u32, 0..16u32)
                .prop_map(|(third, bunch, host)| 0x3456_0000 | third << 12 | bunch << 6 | host),
            (0..9u32).prop_map(|low| u32::MAX - low),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn all_engines_give_the_same_answers(
            starts in prop::collection::vec((start(), 0..6u32), 0..300),
            fewer in 0..300usize,
            more in prop::collection::vec(start(), 1..50),
        ) {
            let few = starts[..fewer.min(starts.len())].to_vec();
            check(&intervals(few), &more);
        }
    }

    #[test]
    fn the_number_of_classes_chooses_the_cell() {
        for (classes, name) in [
            (255, "two-level, 8 bits"),
            (256, "two-level, 16 bits"),
            (65_535, "two-level, 16 bits"),
            (65_536, "two-level, 32 bits"),
        ] {
            // One class to a /20, and one in the midst of a /24.
            let spread = (0..classes).map(|class| (class << 12, class));
            let all = intervals(spread.chain([(0xffff_ff80, 1)]).collect());
            let engine = Ipv4Engine {
                search: Ipv4Search::SizedTwoLevel(SizedTwoLevel::new(&all)),
                simd: None,
                level: Level::detect(),
            };
            assert_eq!(engine.name(), name);
            let keys: Vec<_> = all
                .iter()
                .map(|(start, _)| *start)
                .chain([u32::MAX])
                .collect();
            let mut found = vec![0; keys.len()];
            engine.lookup_batch(&keys, &mut found);
            for (key, class) in keys.iter().zip(found) {
                assert_eq!(class, expected(&all, *key), "{key:#x}");
                assert_eq!(engine.lookup(*key), class, "{key:#x}");
            }
        }
    }

    #[test]
    fn the_number_of_intervals_chooses_the_engine() {
        let spread = |count: u32| -> Vec<_> {
            (0..count)
                .map(|at| (at * (u32::MAX / count), at % 2))
                .collect()
        };
        let name = |count, level| Ipv4Engine::new(&spread(count), level).name();
        assert_eq!(name(32, Level::Portable), "small directory");
        if Level::detect() >= Level::Avx2 {
            assert_eq!(name(32, Level::Avx2), "small directory, bulk SIMD");
        }
        assert_eq!(name(1 << 12, Level::Portable), "small directory");
        assert_eq!(name(1 << 13, Level::Portable), "bit select");
        assert_eq!(name(1 << 22, Level::Portable), "two-level, 8 bits");
        let crowded = |count, apart| -> Vec<_> { (0..count).map(|at| (at << apart, at)).collect() };
        let name = |intervals: Vec<_>| Ipv4Engine::new(&intervals, Level::Portable).name();
        assert_eq!(name(crowded(6, 16)), "directory");
        assert_eq!(name(crowded(9, 8)), "bit select");
    }
}
