//! A B-tree of cache lines, for the few places where boundaries crowd.

use super::block::{Block, Octet};

/// Blocks of eight, in which a class may be a link to another block.
#[derive(Clone, Default)]
pub(super) struct Tree {
    blocks: Vec<Octet>,
}

impl Tree {
    /// Stores intervals; returns the number of the block to start from.
    pub(super) fn insert(&mut self, intervals: &[(u32, u32)]) -> u32 {
        let block = if intervals.len() <= Octet::WAYS {
            Octet::new(intervals)
        } else {
            let share = intervals.len().div_ceil(Octet::WAYS);
            let links: Vec<_> = intervals
                .chunks(share)
                .map(|part| (part[0].0, Octet::LINK | self.insert(part)))
                .collect();
            Octet::new(&links)
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
            if class & Octet::LINK == 0 {
                return class;
            }
            at = class & !Octet::LINK;
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.blocks.capacity() * size_of::<Octet>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_intervals_is_told_apart() {
        for count in [1u32, 7, 8, 9, 63, 64, 65, 513] {
            let intervals: Vec<_> = (0..count).map(|i| (i * 3, i)).collect();
            let mut tree = Tree::default();
            tree.insert(&[(0, 99)]);
            let root = tree.insert(&intervals);
            for key in (0..count * 3).chain([u32::MAX]) {
                assert_eq!(tree.class(root, key), (key / 3).min(count - 1), "{count}");
            }
        }
    }
}
