//! A B-tree of cache lines for the boundaries within one /24.

use super::block::{Block8, IntervalBlock};

/// Blocks of eight, in which a class may be a link to another block.
#[derive(Clone, Default)]
pub(super) struct BlockTree {
    blocks: Vec<Block8>,
}

impl BlockTree {
    /// Stores intervals; returns the number of the block to start from.
    pub(super) fn insert(&mut self, intervals: &[(u32, u32)]) -> u32 {
        let block = if intervals.len() <= Block8::WAYS {
            Block8::new(intervals)
        } else {
            let share = intervals.len().div_ceil(Block8::WAYS);
            let links: Vec<_> = intervals
                .chunks(share)
                .map(|part| (part[0].0, Block8::LINK | self.insert(part)))
                .collect();
            Block8::new(&links)
        };
        self.blocks.push(block);
        u32::try_from(self.blocks.len() - 1).expect("half as many blocks as addresses at most")
    }

    /// The class of the interval that holds `key`, from block `at` downwards.
    #[cold]
    #[inline(never)]
    pub(super) fn class(&self, mut at: u32, key: u32) -> u32 {
        loop {
            let class = self.blocks[at as usize].class(key);
            if class & Block8::LINK == 0 {
                return class;
            }
            at = class & !Block8::LINK;
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.blocks.capacity() * size_of::<Block8>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_intervals_is_told_apart() {
        for count in [1u32, 7, 8, 9, 63, 64, 65, 513] {
            let intervals: Vec<_> = (0..count).map(|i| (i * 3, i)).collect();
            let mut tree = BlockTree::default();
            tree.insert(&[(0, 99)]);
            let root = tree.insert(&intervals);
            for key in (0..count * 3).chain([u32::MAX]) {
                assert_eq!(tree.class(root, key), (key / 3).min(count - 1), "{count}");
            }
        }
    }
}
