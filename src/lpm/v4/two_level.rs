//! Any number of intervals: two loads, and no branch that depends on the address but for split /24s.
//!
//! ```text
//!   address   | 18 bits: place in the root | 6 bits: cell | 8 bits |
//!   root      |  0 | 64 | 64 | 128 | 0 | ...        the first cell of each page, 1 MiB
//!   cells     | page of 64 classes | page of 64 classes | ...
//!                                          ^ the class of a /24, or SPLIT
//! ```
//!
//! A cell has 8, 16 or 32 bits, as the number of classes allows. Equal pages are stored once: a full BGP table takes
//! 5 MiB, a flat array 16 MiB. Where a boundary lies within a /24, the cell is `SPLIT`, and a hash table names the
//! [`BlockTree`] of that /24.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::advance;
use super::block_tree::BlockTree;

/// The number of pages that the address space is cut into.
const ROOT: usize = 1 << 18;
pub(super) const ROOT_SHIFT: u32 = 32 - ROOT.ilog2();
/// The number of /24s in a page, as a power of two.
pub(super) const PAGE_BITS: u32 = 6;
const PAGE: usize = 1 << PAGE_BITS;
/// A cell stands for this many addresses, as a power of two.
pub(super) const CELL_SHIFT: u32 = 8;

/// What a cell is stored as.
pub(super) trait ClassCell: Copy + Eq + std::hash::Hash + TryFrom<u32> {
    /// The class that says: look deeper.
    const SPLIT: Self;

    fn class(self) -> u32;
}

macro_rules! cell {
    ($($int:ty),*) => {$(
        impl ClassCell for $int {
            const SPLIT: Self = Self::MAX;

            #[inline]
            fn class(self) -> u32 {
                self.into()
            }
        }
    )*};
}

cell!(u8, u16, u32);

/// TwoLevelDirectory of cells, and the directory of pages.
#[derive(Clone)]
pub(super) struct TwoLevelDirectory<C> {
    /// Where each page begins in `cells`: a whole one.
    pub(super) root: Box<[u32; ROOT]>,
    /// The pages, and `PADDING` behind them.
    pub(super) cells: Box<[C]>,
    pub(super) split: SplitSlash24s,
}

/// Cells behind the last page, so that four bytes can be read at any cell.
const PADDING: usize = 4;

impl<C: ClassCell> TwoLevelDirectory<C> {
    /// Compiles intervals; `None` if there are too many classes for the cell.
    pub(super) fn new(intervals: &[(u32, u32)]) -> Option<Self> {
        let cell = |class| C::try_from(class).ok().filter(|cell| *cell != C::SPLIT);
        let mut root = Vec::with_capacity(ROOT);
        let mut cells = Vec::new();
        let mut split = Vec::new();
        let mut tree = BlockTree::default();
        let mut pages: HashMap<[C; PAGE], u32, FixedState> = HashMap::default();
        // The last page of one class alone, and the class.
        let mut uniform: Option<(u32, u32)> = None;
        // From the interval that holds the present address.
        let mut rest = intervals;
        for place in 0..=u32::MAX >> ROOT_SHIFT {
            let first = place << ROOT_SHIFT;
            let last = first | (u32::MAX >> ROOT.ilog2());
            rest = advance(rest, first);
            let class = rest[0].1;
            let mixed = rest.get(1).is_some_and(|(start, _)| *start <= last);
            if let (false, Some((page, _))) = (mixed, uniform.filter(|known| known.1 == class)) {
                root.push(page);
                continue;
            }
            let mut content = [cell(class)?; PAGE];
            if mixed {
                for (slash24, content) in (first >> CELL_SHIFT..).zip(&mut content) {
                    rest = advance(rest, slash24 << CELL_SHIFT);
                    let starts = rest[1..].iter().map(|(start, _)| start >> CELL_SHIFT);
                    let boundaries = starts.take_while(|start| *start == slash24).count();
                    *content = if boundaries == 0 {
                        cell(rest[0].1)?
                    } else {
                        split.push((slash24, tree.insert(&rest[..=boundaries])));
                        C::SPLIT
                    };
                    rest = &rest[boundaries..];
                }
            }
            let page = *pages.entry(content).or_insert_with(|| {
                let page = u32::try_from(cells.len()).expect("no more cells than addresses");
                cells.extend(content);
                page
            });
            if !mixed {
                uniform = Some((page, class));
            }
            root.push(page);
        }
        cells.extend([C::SPLIT; PADDING]);
        Some(Self {
            root: root.try_into().expect("one place for each page"),
            cells: cells.into(),
            split: SplitSlash24s::new(&split, tree),
        })
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.root) + size_of_val(&*self.cells) + self.split.memory()
    }

    /// The class of the interval that holds `key`.
    #[inline]
    pub(super) fn lookup(&self, key: u32) -> u32 {
        let page = self.root[(key >> ROOT_SHIFT) as usize] as usize;
        let cell = self.cells[page + (key >> CELL_SHIFT) as usize % PAGE];
        if cell == C::SPLIT {
            self.split.class(key)
        } else {
            cell.class()
        }
    }
}

/// The /24s that more than one interval lies in: a hash table with linear probing, at most half full.
#[derive(Clone)]
pub(super) struct SplitSlash24s {
    /// The /24 and where its tree begins. What is asked for is always there, so that nothing marks a free slot but
    /// that its /24 is beyond all others.
    slots: Box<[(u32, u32)]>,
    tree: BlockTree,
}

impl SplitSlash24s {
    const FREE: u32 = u32::MAX;

    fn new(roots: &[(u32, u32)], tree: BlockTree) -> Self {
        let size = (roots.len() * 2).next_power_of_two();
        let mut split = Self {
            slots: vec![(Self::FREE, 0); size].into(),
            tree,
        };
        for &(slash24, root) in roots {
            let slot = split.slot(slash24, Self::FREE);
            split.slots[slot] = (slash24, root);
        }
        split
    }

    /// The class of the interval that holds `key`, whose cell is `SPLIT`.
    #[cold]
    pub(super) fn class(&self, key: u32) -> u32 {
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

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.slots) + self.tree.memory()
    }
}
