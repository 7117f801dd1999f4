//! Up to some thousand intervals: the address's high bits choose a block, one compare finishes.
//!
//! ```text
//!   address   168.86.133.20
//!             |___ high bits: cell   |
//!   cells     | 3 | 3 | 4 | 4 | 5 |  v ...
//!   blocks    ends  .128.0-1  .192.0-1   -   -       <- compared with the whole address, all at once
//!             class    0         7       0
//! ```
//!
//! A boundary may lie at any bit, so that a /32 costs what a /8 costs: a policy is full of hosts and small ranges. No
//! branch depends on the address. Where more boundaries meet in a cell than a block holds, the block's class is a link
//! into a [`Tree`].

use std::collections::HashMap;

use super::block::{Block, Octet, Quad};
use super::tree::Tree;

/// A directory of `CELLS` cells, a power of two.
#[derive(Clone)]
pub(super) struct Directory<B, const CELLS: usize> {
    cells: Box<[u16; CELLS]>,
    blocks: Box<[B]>,
    tree: Tree,
    crowded: usize,
}

impl<B: Block, const CELLS: usize> Directory<B, CELLS> {
    const SHIFT: u32 = 32 - CELLS.ilog2();

    /// Compiles intervals; `None` if they or their classes are too many.
    pub(super) fn new(intervals: &[(u32, u32)]) -> Option<Self> {
        let too_high = |(_, class): &(u32, u32)| *class >= B::LINK;
        if intervals.iter().any(too_high) {
            return None;
        }
        let (mut cells, mut blocks, mut tree) =
            (Vec::with_capacity(CELLS), Vec::new(), Tree::default());
        let mut uniform = HashMap::new();
        let mut crowded = 0;
        // The interval that holds the cell's first address.
        let mut first = 0;
        for cell in 0..=u32::MAX >> Self::SHIFT {
            let highest = (cell << Self::SHIFT) | ((1 << Self::SHIFT) - 1);
            let boundaries = intervals[first + 1..].partition_point(|(start, _)| *start <= highest);
            let here = &intervals[first..=first + boundaries];
            let new = blocks.len();
            let number = if let [(_, class)] = here {
                *uniform.entry(*class).or_insert(new)
            } else {
                new
            };
            cells.push(u16::try_from(number).ok()?);
            if number == new {
                blocks.push(if here.len() <= B::WAYS {
                    B::new(here)
                } else {
                    crowded += here.len();
                    let root = tree.insert(here);
                    if root >= B::LINK {
                        return None;
                    }
                    B::new(&[(0, B::LINK | root)])
                });
            }
            first += boundaries;
            // A boundary at the next cell's first address belongs to that cell alone.
            let next = highest.wrapping_add(1);
            if intervals
                .get(first + 1)
                .is_some_and(|(start, _)| *start == next)
            {
                first += 1;
            }
        }
        tree.shrink();
        let cells = cells.into_boxed_slice().try_into().ok();
        Some(Self {
            cells: cells.expect("one number was pushed for each cell"),
            blocks: blocks.into(),
            tree,
            crowded,
        })
    }

    /// The number of intervals that lie in crowded cells.
    pub(super) fn crowded(&self) -> usize {
        self.crowded
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.cells) + size_of_val(&*self.blocks) + self.tree.memory()
    }

    /// The class of the interval that holds `key`.
    #[inline]
    pub(super) fn lookup(&self, key: u32) -> u32 {
        let block = &self.blocks[usize::from(self.cells[(key >> Self::SHIFT) as usize])];
        let class = block.class(key);
        if class & B::LINK == 0 {
            class
        } else {
            self.tree.class(class & !B::LINK, key)
        }
    }
}

/// A directory for a few prefixes that lie apart: 8 KiB of cells.
pub(super) type Small = Directory<Quad, { 1 << 12 }>;
/// A directory for the rest: 32 KiB of cells.
pub(super) type Medium = Directory<Octet, { 1 << 14 }>;
