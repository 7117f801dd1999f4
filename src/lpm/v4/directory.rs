//! Up to some thousand intervals that do not crowd: the high bits choose a block, one comparison finishes.
//!
//! ```text
//!   address   168.86.133.20
//!             |___ high bits: cell   |
//!   cells     | 3 | 3 | 4 | 4 | 5 |  v ...
//!   blocks    ends  .128.0-1  .192.0-1   -   -       <- compared with the whole address at once
//!             class    0         7       0
//! ```
//!
//! A boundary may lie at any bit: a /32 costs as much as a /8. No branch depends on the address. Where a cell has more
//! boundaries than a block holds, the intervals crowd, and [`bit_select`](super::bit_select) serves them.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::advance;
use super::block::{Block4, Block8, IntervalBlock};

/// A directory of `CELLS` cells, a power of two.
#[derive(Clone)]
pub(super) struct Directory<B, const CELLS: usize> {
    /// The number of each cell's block.
    cells: Box<[u16; CELLS]>,
    blocks: Box<[B]>,
}

/// For a few prefixes that lie apart: 8 KiB of cells, and blocks that answer fastest.
pub(super) type SmallDirectory = Directory<Block4, { 1 << 12 }>;

/// For more, or crowded ones: 32 KiB of cells.
pub(super) type LargeDirectory = Directory<Block8, { 1 << 14 }>;

impl<B: IntervalBlock, const CELLS: usize> Directory<B, CELLS> {
    const SHIFT: u32 = 32 - CELLS.ilog2();

    /// Compiles intervals; `None` if they are too many or too crowded, or their classes too high.
    pub(super) fn new(intervals: &[(u32, u32)]) -> Option<Self> {
        if intervals.iter().any(|(_, class)| *class >= B::CLASSES) {
            return None;
        }
        let mut cells = Vec::with_capacity(CELLS);
        let mut blocks = Vec::new();
        let mut uniform: HashMap<u32, usize, FixedState> = HashMap::default();
        // From the interval that holds the cell's first address.
        let mut rest = intervals;
        for cell in 0..=u32::MAX >> Self::SHIFT {
            let first = cell << Self::SHIFT;
            let last = first | (u32::MAX >> CELLS.ilog2());
            rest = advance(rest, first);
            let boundaries = rest[1..].iter().take_while(|(start, _)| *start <= last);
            let boundaries = boundaries.count();
            let here = &rest[..=boundaries];
            rest = &rest[boundaries..];
            let new = blocks.len();
            let number = match here {
                [(_, class)] => *uniform.entry(*class).or_insert(new),
                _ => new,
            };
            cells.push(u16::try_from(number).ok()?);
            if number < new {
                continue;
            }
            if here.len() > B::WAYS {
                return None;
            }
            blocks.push(B::new(here));
        }
        Some(Self {
            cells: cells.try_into().expect("one number for each cell"),
            blocks: blocks.into(),
        })
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.cells) + size_of_val(&*self.blocks)
    }

    /// The class of the interval that holds `key`.
    #[inline]
    pub(super) fn lookup(&self, key: u32) -> u32 {
        self.lookup_by(key, |block| block.class(key))
    }

    /// The same, with `search` in the place of [`IntervalBlock::class`].
    #[expect(
        clippy::inline_always,
        reason = "the search's vectors must not be passed in memory"
    )]
    #[inline(always)]
    pub(super) fn lookup_by(&self, key: u32, search: impl FnOnce(&B) -> u32) -> u32 {
        search(&self.blocks[usize::from(self.cells[(key >> Self::SHIFT) as usize])])
    }
}
