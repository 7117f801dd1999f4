//! The searches without vector instructions.

use super::Level;
use super::bit_select::BitSelectTree;
use super::bplus_tree::{BPlusNode, BPlusTree, LeafNode, NodeCompare};
use super::eytzinger::EytzingerSearch;
use super::wrapped_intervals::{ClassOrBlock, high};

/// Asks the processor for nothing that it might not have.
struct Portable;

impl NodeCompare for Portable {
    #[inline(always)]
    fn passed<N: BPlusNode>(node: &N, low: i32) -> usize {
        node.ends().partition_point(|end| *end < low)
    }

    #[inline(always)]
    fn prefetch<T>(_: &[T], _: usize) {}
}

/// The outcome of the interval that holds `at`.
pub(super) fn tree_lookup<L: LeafNode>(_: Level, tree: &BPlusTree<L>, at: u64) -> ClassOrBlock {
    tree.lookup::<Portable>(at)
}

/// The outcomes of the intervals that hold `keys`, as bits.
pub(super) fn tree_batch<L: LeafNode>(
    _: Level,
    tree: &BPlusTree<L>,
    base: u64,
    keys: &[u128],
    out: &mut [u32],
) {
    tree.lookup_batch::<Portable>(base, keys, out);
}

/// The outcomes of the intervals that hold `keys`, as bits.
pub(super) fn eytzinger_batch(
    _: Level,
    eytzinger: &EytzingerSearch,
    base: u64,
    keys: &[u128],
    out: &mut [u32],
) {
    for (key, out) in keys.iter().zip(out) {
        *out = eytzinger
            .lookup(high(*key).wrapping_sub(base))
            .cast_unsigned();
    }
}

/// The outcomes of the intervals that hold `keys`, as bits.
pub(super) fn bit_select_batch(
    _: Level,
    tree: &BitSelectTree,
    base: u64,
    keys: &[u128],
    out: &mut [u32],
) {
    for (key, out) in keys.iter().zip(out) {
        *out = tree.lookup(high(*key).wrapping_sub(base)).cast_unsigned();
    }
}
