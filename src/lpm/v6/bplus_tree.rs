//! Any number of intervals: a directory of slots, and below each slot a B+-tree with nodes of two cache lines.
//!
//! ```text
//!   key - base   |<--- slot --->|<--- 32 bits --->|<--- below the cut --->|
//!                       |                |
//!    root  [ . . . . . . . . . . ]       |
//!                  v                     v
//!    inner     [ 31 ends, child ]   passed: the number of lower ends; the next node is child + passed
//!                  v
//!    leaf      [ 21 ends, 22 outcomes of 16 bits ]  or  [ 15 ends, 16 outcomes of 32 bits ]
//! ```
//!
//! All paths are equally long; nodes with one child lengthen short ones. So no branch depends on the key, searches
//! overlap in the processor, and a batch proceeds level by level. The ends are *last* addresses of intervals, and unused
//! ends are the highest address, which no key is past.

use std::collections::HashMap;

use super::wrapped_intervals::{ClassOrBlock, high};

/// The bits of a key that nodes compare, below the slot and above the cut.
pub(super) const LOW_BITS: u32 = 32;

/// The children of a full inner node.
pub(super) const FAN: usize = 32;

/// The number of keys that a batch leads down together.
const ABREAST: usize = 32;

/// Two cache lines that begin with boundaries, ascending.
pub(super) trait BPlusNode {
    /// The boundaries: the last low bits of each part but the last, less 2^31, which orders them as signed numbers.
    fn ends(&self) -> &[i32];

    /// The number of boundaries.
    const ENDS: usize;
}

/// How an instruction set does what the search needs.
pub(super) trait NodeCompare {
    /// The number of the node's boundaries that are less than `low`.
    fn passed<N: BPlusNode>(node: &N, low: i32) -> usize;

    /// Asks for `slice[index]` to be loaded to the cache.
    fn prefetch<T>(slice: &[T], index: usize);
}

/// A node that parts its keys among children.
#[derive(Clone, Debug)]
#[repr(C, align(128))]
pub(super) struct InnerNode {
    ends: [i32; FAN - 1],
    /// The first child's index: among the leaves on the last inner level, else among the inner nodes.
    child: u32,
}

impl BPlusNode for InnerNode {
    const ENDS: usize = FAN - 1;

    #[inline(always)]
    fn ends(&self) -> &[i32] {
        &self.ends
    }
}

/// A node that holds outcomes.
pub(super) trait LeafNode: BPlusNode + Sized {
    /// Packs at most `ENDS + 1` intervals, if their outcomes can be told by the bits that there are for them.
    fn new(intervals: &[(u32, ClassOrBlock)]) -> Self;

    /// The outcome of the interval behind `passed` ends.
    fn outcome(&self, passed: usize) -> ClassOrBlock;
}

/// A leaf for outcomes of 16 bits.
#[derive(Clone, Debug)]
#[repr(C, align(128))]
pub(super) struct NarrowLeaf {
    ends: [i32; 21],
    outcomes: [i16; 22],
}

/// A leaf for any outcomes.
#[derive(Clone, Debug)]
#[repr(C, align(128))]
pub(super) struct WideLeaf {
    ends: [i32; 15],
    outcomes: [ClassOrBlock; 16],
    /// Makes every byte of the node a number.
    spare: i32,
}

impl BPlusNode for NarrowLeaf {
    const ENDS: usize = 21;

    #[inline(always)]
    fn ends(&self) -> &[i32] {
        &self.ends
    }
}

impl BPlusNode for WideLeaf {
    const ENDS: usize = 15;

    #[inline(always)]
    fn ends(&self) -> &[i32] {
        &self.ends
    }
}

impl LeafNode for NarrowLeaf {
    fn new(intervals: &[(u32, ClassOrBlock)]) -> Self {
        let outcome = |interval: usize| {
            i16::try_from(intervals[interval.min(intervals.len() - 1)].1)
                .expect("narrow was chosen for 16 bits")
        };
        Self {
            ends: ends(intervals),
            outcomes: std::array::from_fn(outcome),
        }
    }

    #[inline(always)]
    fn outcome(&self, passed: usize) -> ClassOrBlock {
        self.outcomes[passed].into()
    }
}

impl LeafNode for WideLeaf {
    fn new(intervals: &[(u32, ClassOrBlock)]) -> Self {
        Self {
            ends: ends(intervals),
            outcomes: std::array::from_fn(|interval| {
                intervals[interval.min(intervals.len() - 1)].1
            }),
            spare: 0,
        }
    }

    #[inline(always)]
    fn outcome(&self, passed: usize) -> ClassOrBlock {
        self.outcomes[passed]
    }
}

/// The boundaries between parts that begin as given.
fn ends<T, const N: usize>(parts: &[(u32, T)]) -> [i32; N] {
    std::array::from_fn(|end| match parts.get(end + 1) {
        Some((start, _)) => signed(start - 1),
        None => i32::MAX,
    })
}

/// Moves unsigned order to signed, which AVX2 compares.
#[inline]
const fn signed(low: u32) -> i32 {
    (low ^ 1 << 31).cast_signed()
}

/// The directory and the nodes.
#[derive(Clone, Debug)]
pub(super) struct BPlusTree<L> {
    /// The first node of each slot, an inner node if there are any.
    root: Vec<u32>,
    inner: Vec<InnerNode>,
    leaves: Vec<L>,
    /// The bits of `at` that lie below the cut.
    shift: u32,
    /// The number of inner levels.
    height: u32,
}

impl<L: LeafNode> BPlusTree<L> {
    /// Builds the tree of intervals that start at `start << shift`.
    pub(super) fn new(intervals: &[(u64, ClassOrBlock)], shift: u32) -> Self {
        let slot_of = |interval: &(u64, ClassOrBlock)| interval.0 >> LOW_BITS;
        let largest = intervals
            .chunk_by(|a, b| slot_of(a) == slot_of(b))
            .map(<[_]>::len)
            .max();
        let mut tree = Self {
            root: Vec::new(),
            inner: Vec::new(),
            leaves: Vec::new(),
            shift,
            // One more: the interval that reaches into the slot.
            height: height::<L>(largest.unwrap_or(0) + 1),
        };
        let mut even = HashMap::new();
        let mut before = 0;
        let mut rest = intervals;
        // The last slot holds all that is behind the last boundary.
        for slot in 0..=slot_of(&intervals[intervals.len() - 1]) + 1 {
            let (here, after) =
                rest.split_at(rest.partition_point(|interval| slot_of(interval) <= slot));
            rest = after;
            let node = if here.is_empty() {
                *even
                    .entry(before)
                    .or_insert_with(|| tree.push(&[(0, before)]))
            } else {
                let low = |&(start, outcome): &(u64, ClassOrBlock)| {
                    #[expect(clippy::cast_possible_truncation, reason = "the bits below the slot")]
                    (start as u32, outcome)
                };
                let mut parts: Vec<_> = here.iter().map(low).collect();
                if parts[0].0 != 0 {
                    parts.insert(0, (0, before));
                }
                before = parts[parts.len() - 1].1;
                tree.push(&parts)
            };
            tree.root.push(node);
        }
        tree.root.shrink_to_fit();
        tree.inner.shrink_to_fit();
        tree.leaves.shrink_to_fit();
        tree
    }

    /// Adds the nodes of a slot, from the leaves up; returns the first.
    fn push(&mut self, parts: &[(u32, ClassOrBlock)]) -> u32 {
        let mut nodes: Vec<(u32, u32)> = Vec::new();
        for part in parts.chunks(L::ENDS + 1) {
            nodes.push((part[0].0, index(&self.leaves)));
            self.leaves.push(L::new(part));
        }
        for _ in 0..self.height {
            let mut above = Vec::new();
            for part in nodes.chunks(FAN) {
                above.push((part[0].0, index(&self.inner)));
                self.inner.push(InnerNode {
                    ends: ends(part),
                    child: part[0].1,
                });
            }
            nodes = above;
        }
        nodes[0].1
    }

    /// The slot of an address, and its low bits in signed order.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the shifts leave 32 bits")]
    fn place(&self, at: u64) -> (usize, i32) {
        let at = at >> self.shift;
        let slot = (at >> LOW_BITS) as usize;
        (slot.min(self.root.len() - 1), signed(at as u32))
    }

    /// The outcome of the interval that holds `at`.
    #[inline(always)]
    pub(super) fn lookup<K: NodeCompare>(&self, at: u64) -> ClassOrBlock {
        let (slot, low) = self.place(at);
        let mut node = self.root[slot] as usize;
        for _ in 0..self.height {
            let inner = &self.inner[node];
            node = inner.child as usize + K::passed(inner, low);
        }
        let leaf = &self.leaves[node];
        leaf.outcome(K::passed(leaf, low))
    }

    /// The outcome of the interval that holds each of `keys`, its bits as `out`.
    #[inline(always)]
    pub(super) fn lookup_batch<K: NodeCompare>(&self, base: u64, keys: &[u128], out: &mut [u32]) {
        let (abreast, rest) = keys.as_chunks::<ABREAST>();
        let (out_abreast, out_rest) = out.as_chunks_mut::<ABREAST>();
        let (mut nodes, mut lows) = ([0; ABREAST], [0; ABREAST]);
        for (keys, out) in abreast.iter().zip(out_abreast) {
            for i in 0..ABREAST {
                (nodes[i], lows[i]) = self.place(high(keys[i]).wrapping_sub(base));
                K::prefetch(&self.root, nodes[i]);
            }
            for node in &mut nodes {
                *node = self.root[*node] as usize;
                if self.height == 0 {
                    K::prefetch(&self.leaves, *node);
                } else {
                    K::prefetch(&self.inner, *node);
                }
            }
            for level in (0..self.height).rev() {
                for i in 0..ABREAST {
                    let inner = &self.inner[nodes[i]];
                    nodes[i] = inner.child as usize + K::passed(inner, lows[i]);
                    if level == 0 {
                        K::prefetch(&self.leaves, nodes[i]);
                    } else {
                        K::prefetch(&self.inner, nodes[i]);
                    }
                }
            }
            for i in 0..ABREAST {
                let leaf = &self.leaves[nodes[i]];
                out[i] = leaf.outcome(K::passed(leaf, lows[i])).cast_unsigned();
            }
        }
        for (key, out) in rest.iter().zip(out_rest) {
            *out = self
                .lookup::<K>(high(*key).wrapping_sub(base))
                .cast_unsigned();
        }
    }

    /// The bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.root) + size_of_val(&*self.inner) + size_of_val(&*self.leaves)
    }
}

/// The inner levels that a slot of so many intervals needs.
pub(super) fn height<L: LeafNode>(intervals: usize) -> u32 {
    let mut nodes = intervals.div_ceil(L::ENDS + 1);
    let mut height = 0;
    while nodes > 1 {
        nodes = nodes.div_ceil(FAN);
        height += 1;
    }
    height
}

fn index<T>(nodes: &[T]) -> u32 {
    u32::try_from(nodes.len()).expect("fewer than 2^32 nodes")
}
