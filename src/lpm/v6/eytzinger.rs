//! Few intervals: a binary search whose nodes are in breadth-first (Eytzinger) order.
//!
//! ```text
//!            4              the intervals' last addresses in breadth-first order,
//!        2       6          node n above nodes 2n and 2n + 1
//!      1   3   5   7
//! ```
//!
//! A search begins at node 1 and goes on with `n = 2n + 1` if the key is past the node's address, else with `n = 2n`.
//! Below the last level, n is the number of the interval. Every key takes every level, so no branch depends on the
//! key, and searches overlap in the processor. Unused nodes are the highest address, which no key is past.

use super::wrapped_intervals::ClassOrBlock;

/// The levels of the smallest tree. With AVX-512 they are in registers; 16 prefixes never need more.
pub(super) const SHALLOW: u32 = 5;

/// The levels of the largest tree: 8,192 intervals, in 96 KiB. Above, the tree of wide nodes touches fewer cache lines.
const DEEPEST: u32 = 13;

/// The tree, and what it leads to.
#[derive(Clone, Debug)]
pub(super) struct EytzingerSearch {
    /// The levels, 5 to 13.
    pub(super) levels: u32,
    /// The first of `nodes`, where the compiler sees that a path of five levels ends.
    upper: Box<[u64; 1 << SHALLOW]>,
    /// `2^levels` addresses in breadth-first order from 1; place 0 is unused.
    pub(super) nodes: Box<[u64]>,
    /// `2^levels` outcomes, in the order of the intervals.
    pub(super) outcomes: Box<[ClassOrBlock]>,
}

impl EytzingerSearch {
    /// Makes the tree, if the intervals are few enough.
    pub(super) fn new(intervals: &[(u64, ClassOrBlock)]) -> Option<Self> {
        let levels = SHALLOW.max(intervals.len().next_power_of_two().ilog2());
        if levels > DEEPEST {
            return None;
        }
        let size = 1 << levels;
        let last = |interval: usize| {
            intervals
                .get(interval + 1)
                .map_or(u64::MAX, |(start, _)| start - 1)
        };
        // A node's path from the root, a 1, and zeros to the last level: so many intervals lie before its address.
        let node = |node: usize| {
            let level = node.checked_ilog2()?;
            Some(last((((2 * node + 1) << (levels - 1 - level)) % size) - 1))
        };
        let nodes: Box<[_]> = (0..size).map(|at| node(at).unwrap_or(u64::MAX)).collect();
        Some(Self {
            levels,
            upper: Box::new(*nodes.first_chunk().expect("five levels at least")),
            nodes,
            outcomes: (0..size)
                .map(|interval| intervals[interval.min(intervals.len() - 1)].1)
                .collect(),
        })
    }

    /// The outcome of the interval that holds `at`.
    ///
    /// This has no vector form: it is inlined where a function of another instruction set must be called, which costs
    /// more than vectors save.
    #[inline]
    pub(super) fn lookup(&self, at: u64) -> ClassOrBlock {
        let mut node = 1;
        for _ in 0..SHALLOW {
            node = node << 1 | usize::from(self.upper[node] < at);
        }
        for _ in SHALLOW..self.levels {
            node = node << 1 | usize::from(self.nodes[node] < at);
        }
        self.outcomes[node - self.nodes.len()]
    }

    /// The bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.upper) + size_of_val(&*self.nodes) + size_of_val(&*self.outcomes)
    }
}
