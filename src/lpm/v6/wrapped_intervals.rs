//! The intervals as arcs of a wrapped, and the few boundaries that lie too long for the fast engines.
//!
//! ```text
//!   key - base   |<------- searched fast ------->|<------- below the cut ------->|
//! ```
//!
//! **Turned.** A lookup begins with `key - base`, wrapping, where base is (about) the first boundary. The address
//! space becomes a wrapped, and the interval before the first prefix and the one after the last become one arc. So
//! `n` prefixes, having `2n` ends, make at most `2n` arcs; and the arcs' starts come to lie as close to 0 as they
//! can, which a directory over the high bits is grateful for: the routed Internet is a twentieth of the space.
//!
//! **Cut.** The engines compare the bits above a cut. Where prefixes are longer, the block of keys that share those
//! bits is an arc of its own, whose outcome names an entry of [`LongPrefixes`]: the block's boundaries in full.

/// What an arc says: its class, or, if negative, `!block` of [`LongPrefixes`].
pub(super) type ClassOrBlock = i32;

/// The high half of a key or a boundary.
#[inline]
pub(super) const fn high(bits: u128) -> u64 {
    (bits >> 64) as u64
}

/// The arcs in full length.
pub(super) struct WrappedIntervals {
    base: u128,
    /// Starts and outcomes, ascending from 0; none is long yet.
    arcs: Vec<(u128, ClassOrBlock)>,
}

impl WrappedIntervals {
    /// Turns `intervals` so that the block of 2^`align` keys with the first boundary begins the wrapped.
    ///
    /// # Panics
    /// If the intervals do not begin at 0, or at a class from 2^31.
    pub(super) fn new(intervals: &[(u128, u32)], align: u32) -> Self {
        let arc = |&(start, class): &(u128, u32)| {
            let outcome = ClassOrBlock::try_from(class).expect("fewer than 2^31 classes");
            (start, outcome)
        };
        let (first, boundaries) = intervals.split_first().expect("an interval for key 0");
        assert_eq!(first.0, 0, "the first interval begins at key 0");
        let (_, first) = arc(first);
        let base = boundaries
            .first()
            .map_or(0, |(start, _)| *start >> align << align);
        let mut arcs: Vec<_> = boundaries
            .iter()
            .map(arc)
            .map(|(start, outcome)| (start - base, outcome))
            .collect();
        if arcs.first().is_none_or(|(start, _)| *start != 0) {
            arcs.insert(0, (0, first));
        }
        if base != 0 && arcs[arcs.len() - 1].1 != first {
            arcs.push((base.wrapping_neg(), first));
        }
        Self { base, arcs }
    }

    /// What is subtracted from a key's high half.
    pub(super) fn base(&self) -> u64 {
        high(self.base)
    }

    /// The arcs' starts without their lowest `below` bits, 64 or more, with outcomes; and what is below the cut.
    pub(super) fn cut(&self, below: u32) -> (Vec<(u64, ClassOrBlock)>, LongPrefixes) {
        let mut long = LongPrefixes::new(self.base);
        let mut cut = Vec::with_capacity(self.arcs.len());
        let mut push = |at: u64, outcome| {
            cut.pop_if(|(last, _)| *last == at);
            cut.push((at, outcome));
        };
        let mut before = 0;
        for block in self.arcs.chunk_by(|a, b| a.0 >> below == b.0 >> below) {
            let at = u64::try_from(block[0].0 >> below).expect("64 bits or more are cut off");
            let start = u128::from(at) << below;
            let (_, after) = block[block.len() - 1];
            if block.len() == 1 && block[0].0 == start {
                push(at, after);
            } else {
                push(at, long.push((start, before), block));
                // The key space may end with the block.
                if let Some(next) = at.checked_add(1) {
                    push(next, after);
                }
            }
            before = after;
        }
        (cut, long)
    }
}

/// The blocks of keys with boundaries below the cut, searched in full length.
#[derive(Clone, Debug)]
pub(super) struct LongPrefixes {
    base: u128,
    /// Starts and classes of the arcs, block after block; each block's first arc begins where the block does.
    arcs: Vec<(u128, ClassOrBlock)>,
    /// Where in `arcs` each block begins.
    blocks: Vec<usize>,
}

impl LongPrefixes {
    const fn new(base: u128) -> Self {
        Self {
            base,
            arcs: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Adds a block that begins with `first` and goes on with `arcs`.
    fn push(&mut self, first: (u128, ClassOrBlock), arcs: &[(u128, ClassOrBlock)]) -> ClassOrBlock {
        let block = ClassOrBlock::try_from(self.blocks.len()).expect("fewer than 2^31 blocks");
        self.blocks.push(self.arcs.len());
        if arcs[0].0 != first.0 {
            self.arcs.push(first);
        }
        self.arcs.extend(arcs);
        !block
    }

    /// Whether no outcome is long.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The class of `key`, whose arc above the cut says `outcome`.
    #[inline]
    pub(super) fn resolve(&self, outcome: ClassOrBlock, key: u128) -> u32 {
        u32::try_from(outcome).unwrap_or_else(|_| self.search(!outcome, key))
    }

    #[cold]
    fn search(&self, block: ClassOrBlock, key: u128) -> u32 {
        let block = block.unsigned_abs() as usize;
        let end = self.blocks.get(block + 1).copied();
        let arcs = &self.arcs[self.blocks[block]..end.unwrap_or(self.arcs.len())];
        let key = key.wrapping_sub(self.base);
        let after = arcs.partition_point(|(start, _)| *start <= key);
        arcs[after - 1].1.unsigned_abs()
    }

    /// The bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.arcs) + size_of_val(&*self.blocks)
    }
}
