//! The searches for any processor: binary, in a table that is small or a node that is in the cache.

use super::Level;
use super::circle::{Outcome, high};
use super::tree::{Kernel, Leaf, Node, Tree};
use super::walk::Walk;

/// Asks the processor for nothing that it might not have.
struct Portable;

impl Kernel for Portable {
    #[inline(always)]
    fn passed<N: Node>(node: &N, low: i32) -> usize {
        node.ends().partition_point(|end| *end < low)
    }

    #[inline(always)]
    fn prefetch<T>(_: &[T], _: usize) {}
}

/// The outcome of the arc that holds `at`.
pub(super) fn tree_lookup<L: Leaf>(_: Level, tree: &Tree<L>, at: u64) -> Outcome {
    tree.lookup::<Portable>(at)
}

/// The outcomes of the arcs that hold `keys`, as bits.
pub(super) fn tree_batch<L: Leaf>(
    _: Level,
    tree: &Tree<L>,
    base: u64,
    keys: &[u128],
    out: &mut [u32],
) {
    tree.lookup_batch::<Portable>(base, keys, out);
}

/// The outcomes of the arcs that hold `keys`, as bits.
pub(super) fn walk_batch(_: Level, walk: &Walk, base: u64, keys: &[u128], out: &mut [u32]) {
    for (key, out) in keys.iter().zip(out) {
        *out = walk.lookup(high(*key).wrapping_sub(base)).cast_unsigned();
    }
}
