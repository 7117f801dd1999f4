//! At most 32 arcs: five comparisons.

use super::circle::Outcome;

/// The most arcs; 16 prefixes never make more.
pub(super) const ARCS: usize = 32;

/// The arcs between 31 boundaries, which are kept as each arc's *last* address.
///
/// A key is past a boundary if it is greater: so what pads the table, the highest address, is passed by no key.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Tiny {
    /// The boundaries in the order of a breadth-first walk: below node `k`, counted from 1, are `2k` and `2k + 1`.
    #[cfg(target_arch = "x86_64")]
    pub(super) nodes: [u64; ARCS],
    pub(super) outcomes: [Outcome; ARCS],
    /// The boundaries, ascending; the 32nd is none.
    ends: [u64; ARCS],
}

impl Tiny {
    /// Makes the table, if the arcs are few enough.
    pub(super) fn new(arcs: &[(u64, Outcome)]) -> Option<Self> {
        let end = |arc: usize| arcs.get(arc + 1).map_or(u64::MAX, |(start, _)| start - 1);
        // A node's path from the root, a 1, and zeros up to 5 bits: so many arcs lie before its boundary.
        #[cfg(target_arch = "x86_64")]
        let node = |node: usize| {
            let level = node.checked_ilog2()?;
            Some(end((((2 * node + 1) << (4 - level)) % ARCS) - 1))
        };
        (arcs.len() <= ARCS).then(|| Self {
            #[cfg(target_arch = "x86_64")]
            nodes: std::array::from_fn(|at| node(at).unwrap_or(u64::MAX)),
            outcomes: std::array::from_fn(|arc| arcs[arc.min(arcs.len() - 1)].1),
            ends: std::array::from_fn(end),
        })
    }

    /// The outcome of the arc that holds `at`.
    ///
    /// This has no vector form: it is inlined where a function of another instruction set must be called, which costs
    /// more than vectors save.
    #[inline]
    pub(super) fn lookup(&self, at: u64) -> Outcome {
        let mut arc = 0;
        for half in [16, 8, 4, 2, 1] {
            let past = self.ends[arc | (half - 1)] < at;
            arc = std::hint::select_unpredictable(past, arc | half, arc);
        }
        self.outcomes[arc]
    }
}
