//! Any number of intervals: two loads, and no branch that depends on the address.
//!
//! ```text
//!   address   | 18 bits: place in the root | 6 bits: cell | 8 bits |
//!   root      |  0 | 64 | 64 | 128 | 0 | ...        where the page begins, 1 MiB
//!   cells     | page of 64 classes | page of 64 classes | ...
//!                                          ^ the class of a /24, or DEEP
//! ```
//!
//! A cell is as narrow as the classes allow: a byte up to 255 of them. Equal pages are stored once, which makes a full
//! BGP table 5 MiB where one flat array would be 16: it stays in the cache and in the reach of the TLB, and that is
//! worth more than the load it costs. Where a boundary lies within a /24, the cell is `DEEP`, and a hash table names
//! the [`Tree`] of that /24.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::tree::Tree;

/// The number of pages that the address space is cut into.
const ROOT: usize = 1 << 18;
const ROOT_SHIFT: u32 = 32 - ROOT.ilog2();
/// The number of /24s in a page.
const PAGE: usize = 1 << 6;
const CELL_SHIFT: u32 = 8;

/// What a cell is stored as.
pub(super) trait Cell: Copy + Eq + std::hash::Hash + TryFrom<u32> {
    /// The class that says: look deeper.
    const DEEP: Self;

    fn class(self) -> u32;
}

macro_rules! cell {
    ($($int:ty),*) => {$(
        impl Cell for $int {
            const DEEP: Self = Self::MAX;

            #[inline]
            fn class(self) -> u32 {
                self.into()
            }
        }
    )*};
}

cell!(u8, u16, u32);

/// Pages of cells, and the directory of pages.
#[derive(Clone)]
pub(super) struct Pages<C> {
    /// Where each page begins in `cells`.
    pub(super) root: Box<[u32; ROOT]>,
    /// The pages, and `PADDING` behind them.
    pub(super) cells: Box<[C]>,
    deep: Deep,
}

/// Cells behind the last page, so that four bytes can be read at any cell.
const PADDING: usize = 4;

impl<C: Cell> Pages<C> {
    /// Compiles intervals; `None` if there are too many classes for the cell.
    pub(super) fn new(intervals: &[(u32, u32)]) -> Option<Self> {
        let cell = |class| C::try_from(class).ok().filter(|cell| *cell != C::DEEP);
        let mut root = Vec::with_capacity(ROOT);
        let mut cells = Vec::new();
        let mut deep = Vec::new();
        let mut tree = Tree::default();
        let mut known: HashMap<[C; PAGE], u32, FixedState> = HashMap::default();
        let mut uniform: Option<(u32, u32)> = None;
        // The interval that holds the present address.
        let mut at = 0;
        for page in 0..=u32::MAX >> ROOT_SHIFT {
            let first = page << ROOT_SHIFT;
            let last = first | ((1 << ROOT_SHIFT) - 1);
            at += usize::from(starts_at(intervals, at + 1, first));
            let class = intervals[at].1;
            let mixed = intervals
                .get(at + 1)
                .is_some_and(|(start, _)| *start <= last);
            if let (false, Some((begins, _))) = (mixed, uniform.filter(|(_, of)| *of == class)) {
                root.push(begins);
                continue;
            }
            let mut content = [cell(class)?; PAGE];
            if mixed {
                for (slash24, content) in (first >> CELL_SHIFT..).zip(&mut content) {
                    let first = slash24 << CELL_SHIFT;
                    at += usize::from(starts_at(intervals, at + 1, first));
                    let boundaries = intervals[at + 1..]
                        .iter()
                        .take_while(|(start, _)| *start <= first | 0xff)
                        .count();
                    *content = if boundaries == 0 {
                        cell(intervals[at].1)?
                    } else {
                        deep.push((slash24, tree.insert(&intervals[at..=at + boundaries])));
                        C::DEEP
                    };
                    at += boundaries;
                }
            }
            let begins = *known.entry(content).or_insert_with(|| {
                let begins = u32::try_from(cells.len()).expect("no more cells than addresses");
                cells.extend(content);
                begins
            });
            if !mixed {
                uniform = Some((begins, class));
            }
            root.push(begins);
        }
        cells.extend([C::DEEP; PADDING]);
        tree.shrink();
        Some(Self {
            root: root
                .into_boxed_slice()
                .try_into()
                .ok()
                .expect("one place for each page"),
            cells: cells.into(),
            deep: Deep::new(&deep, tree),
        })
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.root) + size_of_val(&*self.cells) + self.deep.memory()
    }

    /// The class of the interval that holds `key`.
    #[inline]
    pub(super) fn lookup(&self, key: u32) -> u32 {
        let page = self.root[(key >> ROOT_SHIFT) as usize] as usize;
        let cell = self.cells[page + (key >> CELL_SHIFT) as usize % PAGE];
        if cell == C::DEEP {
            self.deep(key)
        } else {
            cell.class()
        }
    }

    /// The class of the interval that holds `key`, whose cell is `DEEP`.
    #[cold]
    pub(super) fn deep(&self, key: u32) -> u32 {
        self.deep.class(key)
    }
}

/// Whether interval `at` starts at `key`.
fn starts_at(intervals: &[(u32, u32)], at: usize, key: u32) -> bool {
    intervals.get(at).is_some_and(|(start, _)| *start == key)
}

/// The /24s that more than one interval lies in: a hash table with linear probing, at most half full.
#[derive(Clone)]
struct Deep {
    /// The /24 and where its tree begins. What is asked for is always there, so that nothing marks a free slot but
    /// that its /24 is beyond all others.
    slots: Box<[(u32, u32)]>,
    tree: Tree,
}

impl Deep {
    const FREE: u32 = u32::MAX;

    fn new(roots: &[(u32, u32)], tree: Tree) -> Self {
        let size = (roots.len() * 2).next_power_of_two();
        let mut deep = Self {
            slots: vec![(Self::FREE, 0); size].into(),
            tree,
        };
        for &(slash24, root) in roots {
            let slot = deep.slot(slash24, Self::FREE);
            deep.slots[slot] = (slash24, root);
        }
        deep
    }

    fn class(&self, key: u32) -> u32 {
        let slash24 = key >> CELL_SHIFT;
        let (_, root) = self.slots[self.slot(slash24, slash24)];
        self.tree.class(root, key)
    }

    /// The first slot from the one that `slash24` belongs in which holds `wanted`.
    fn slot(&self, slash24: u32, wanted: u32) -> usize {
        // Fibonacci hashing: the high bits of the product are mixed best.
        let mixed = slash24.wrapping_mul(0x9e37_79b9) >> 8;
        let mut slot = mixed as usize % self.slots.len();
        while self.slots[slot].0 != wanted {
            slot = (slot + 1) % self.slots.len();
        }
        slot
    }

    fn memory(&self) -> usize {
        size_of_val(&*self.slots) + self.tree.memory()
    }
}
