//! Intervals that begin at the first boundary, and the boundaries of long prefixes.
//!
//! ```text
//!   key - base   |<------- fast search ------->|<------- below the cut ------->|
//! ```
//!
//! **Wrapped.** A lookup begins with `key - base`, wrapping, where base is near the first boundary. The interval before
//! the first prefix and the one after the last then become one. `n` prefixes have `2n` ends and at most `2n`
//! wrapped intervals. Their starts are as small as possible, which keeps a directory over the high bits small.
//!
//! **Cut.** The engines compare the bits above a cut. Where prefixes are longer, all keys that share those bits are one
//! interval. Its outcome names an entry of [`LongPrefixes`], which has the boundaries in full length.

/// The outcome of an interval: its class, or, if negative, `!block` of [`LongPrefixes`].
pub(super) type ClassOrBlock = i32;

/// The high half of a key or a boundary.
#[inline]
pub(super) const fn high(bits: u128) -> u64 {
    (bits >> 64) as u64
}

/// The wrapped in full length.
pub(super) struct WrappedIntervals {
    base: u128,
    /// Starts and outcomes, ascending from 0; none is long yet.
    wrapped: Vec<(u128, ClassOrBlock)>,
}

impl WrappedIntervals {
    /// Turns `intervals` so that the block of 2^`align` keys with the first boundary comes first.
    ///
    /// # Panics
    /// If the intervals do not begin at 0, or at a class from 2^31.
    pub(super) fn new(intervals: &[(u128, u32)], align: u32) -> Self {
        let interval = |&(start, class): &(u128, u32)| {
            let outcome = ClassOrBlock::try_from(class).expect("fewer than 2^31 classes");
            (start, outcome)
        };
        let (first, boundaries) = intervals.split_first().expect("an interval for key 0");
        assert_eq!(first.0, 0, "the first interval begins at key 0");
        let (_, first) = interval(first);
        let base = boundaries
            .first()
            .map_or(0, |(start, _)| *start >> align << align);
        let mut wrapped: Vec<_> = boundaries
            .iter()
            .map(interval)
            .map(|(start, outcome)| (start - base, outcome))
            .collect();
        if wrapped.first().is_none_or(|(start, _)| *start != 0) {
            wrapped.insert(0, (0, first));
        }
        if base != 0 && wrapped[wrapped.len() - 1].1 != first {
            wrapped.push((base.wrapping_neg(), first));
        }
        Self { base, wrapped }
    }

    /// What is subtracted from a key's high half.
    pub(super) fn base(&self) -> u64 {
        high(self.base)
    }

    /// The wrapped' starts without their lowest `below` bits, 64 or more, with outcomes; and what is below the cut.
    pub(super) fn cut(&self, below: u32) -> (Vec<(u64, ClassOrBlock)>, LongPrefixes) {
        let mut long = LongPrefixes::new(self.base);
        let mut cut = Vec::with_capacity(self.wrapped.len());
        let mut push = |at: u64, outcome| {
            cut.pop_if(|(last, _)| *last == at);
            cut.push((at, outcome));
        };
        let mut before = 0;
        for block in self.wrapped.chunk_by(|a, b| a.0 >> below == b.0 >> below) {
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
    /// Starts and classes of the wrapped, block after block; each block's first interval begins where the block does.
    wrapped: Vec<(u128, ClassOrBlock)>,
    /// Where in `wrapped` each block begins.
    blocks: Vec<usize>,
}

impl LongPrefixes {
    const fn new(base: u128) -> Self {
        Self {
            base,
            wrapped: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Adds a block that begins with `first` and goes on with `wrapped`.
    fn push(
        &mut self,
        first: (u128, ClassOrBlock),
        wrapped: &[(u128, ClassOrBlock)],
    ) -> ClassOrBlock {
        let block = ClassOrBlock::try_from(self.blocks.len()).expect("fewer than 2^31 blocks");
        self.blocks.push(self.wrapped.len());
        if wrapped[0].0 != first.0 {
            self.wrapped.push(first);
        }
        self.wrapped.extend(wrapped);
        !block
    }

    /// Whether no outcome is long.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The class of `key`, whose interval above the cut says `outcome`.
    #[inline]
    pub(super) fn resolve(&self, outcome: ClassOrBlock, key: u128) -> u32 {
        u32::try_from(outcome).unwrap_or_else(|_| self.search(!outcome, key))
    }

    #[cold]
    fn search(&self, block: ClassOrBlock, key: u128) -> u32 {
        let block = block.unsigned_abs() as usize;
        let end = self.blocks.get(block + 1).copied();
        let wrapped = &self.wrapped[self.blocks[block]..end.unwrap_or(self.wrapped.len())];
        let key = key.wrapping_sub(self.base);
        let after = wrapped.partition_point(|(start, _)| *start <= key);
        wrapped[after - 1].1.unsigned_abs()
    }

    /// The bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.wrapped) + size_of_val(&*self.blocks)
    }
}
