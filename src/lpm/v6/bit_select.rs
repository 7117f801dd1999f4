//! Up to some thousand intervals, however crowded: two to four loads and one comparison of a cache line.
//!
//! ```text
//!   key - base   |      [root's field]            [node's field]          |
//!   nodes        root -> selector -> ... -> selector
//!   lines        | 6 last addresses of 64 bits | 7 outcomes of 16 bits |
//! ```
//!
//! A selector names the bit field that separates the intervals below it best, and the first of the entries that the
//! field chooses from; see [`bit_select`](crate::lpm::bit_select). All paths are equally long, so no branch depends on
//! the key, and the searches for several keys overlap in the processor.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::wrapped_intervals::ClassOrBlock;
use crate::lpm::bit_select::{
    Aim, BitField, Piece, is_separable, most_separating, shortest, split,
};

/// The intervals that fit a line.
const LINE: usize = 7;

/// The most bits of the root's field.
const ROOT_BITS: u32 = 11;

/// The most bits of a field that chooses a line.
const LINE_BITS: u32 = 7;

/// The most intervals for which one level of selectors is tried.
const FLAT: usize = 512;

/// The most levels of selectors.
const MAX_LEVELS: u32 = 6;

/// Selectors level by level, and the lines that the last level chooses from.
#[derive(Clone, Debug)]
pub(super) struct BitSelectTree {
    root: BitSelector,
    /// The number of levels of selectors, from 1.
    levels: u32,
    selectors: Box<[BitSelector]>,
    lines: Box<[IntervalLine]>,
}

/// A bit field and the first entry that it chooses from.
#[derive(Clone, Copy, Debug)]
struct BitSelector {
    first: u32,
    /// As many ones as the field has bits.
    mask: u16,
    shift: u8,
}

impl BitSelector {
    fn new(first: usize, field: BitField) -> Self {
        Self {
            first: u32::try_from(first).expect("fewer entries than 2^32"),
            mask: (1 << field.bits) - 1,
            shift: u8::try_from(field.shift).expect("a field of 64 bits"),
        }
    }

    /// The place of the entry for `at`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the mask has 16 bits")]
    fn entry(self, at: u64) -> usize {
        let group = at.wrapping_shr(self.shift.into()) as u32 & u32::from(self.mask);
        (self.first + group) as usize
    }
}

/// Up to 7 intervals of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(64))]
pub(super) struct IntervalLine {
    /// The last address of each interval but the final one. Unused ones are the highest, above which no address lies.
    pub(super) ends: [u64; LINE - 1],
    /// An outcome for each interval, the first one last: counted down, the compiler adds each comparison's carry. The
    /// first is never used and makes the line full.
    pub(super) outcomes: [i16; LINE + 1],
}

impl IntervalLine {
    /// Packs the pieces of a group; no address belongs to an empty one.
    fn new(pieces: &[Piece<i16>]) -> Self {
        let mut line = Self {
            ends: [u64::MAX; LINE - 1],
            outcomes: [0; LINE + 1],
        };
        for (end, piece) in line.ends.iter_mut().zip(
            pieces
                .split_last()
                .map_or(&[][..], |(_, but_last)| but_last),
        ) {
            *end = piece.last;
        }
        for (outcome, piece) in line.outcomes.iter_mut().rev().zip(pieces) {
            *outcome = piece.class;
        }
        line
    }

    /// The number of ends below `at`.
    #[inline(always)]
    fn passed(&self, at: u64) -> usize {
        // Each step is a comparison and an addition of its carry.
        self.ends.iter().map(|end| usize::from(*end < at)).sum()
    }

    /// The outcome behind `passed` ends.
    #[inline(always)]
    pub(super) fn outcome(&self, passed: usize) -> ClassOrBlock {
        self.outcomes[passed & LINE ^ LINE].into()
    }
}

/// The fields that separate a group, from one selector down to its lines.
enum Plan {
    /// The last selector chooses a line.
    Lines(BitField, Vec<IntervalLine>),
    /// The selector chooses another selector.
    Below(BitField, Vec<Self>),
}

impl Plan {
    /// Plans `levels` levels of selectors below the one of `group`; `None` if they do not suffice.
    fn new(group: &[Piece<i16>], levels: u32, aim: Aim) -> Option<Self> {
        if levels == 0 {
            if !is_separable(group, u64::BITS, LINE_BITS, LINE) {
                return None;
            }
            let field = shortest(group, u64::BITS, LINE_BITS, LINE)?;
            let lines = split(group, field)
                .iter()
                .map(|group| IntervalLine::new(group))
                .collect();
            return Some(Self::Lines(field, lines));
        }
        if group.len() <= LINE {
            let below = Self::new(group, levels - 1, aim)?;
            return Some(Self::Below(BitField::default(), vec![below]));
        }
        let below = |field| {
            let groups = split(group, field);
            // The largest group first: where it fails, the others need no plan.
            let (largest, _) = groups
                .iter()
                .enumerate()
                .max_by_key(|(_, group)| group.len())?;
            let mut first = Some(Self::new(&groups[largest], levels - 1, aim)?);
            let plans = groups.iter().enumerate().map(|(number, group)| {
                let first = (number == largest).then(|| first.take()).flatten();
                first.or_else(|| Self::new(group, levels - 1, aim))
            });
            Some(Self::Below(field, plans.collect::<Option<_>>()?))
        };
        let least = (group.len() / 3).ilog2().max(1);
        // Only above the last level does a failure lie in the choice of the field.
        let (lengths, fields) = if levels == 1 { (4, 4) } else { (1, 1) };
        (least + 1 - lengths / 4..)
            .take(lengths as usize)
            .find_map(|bits| {
                let best = most_separating(group, u64::BITS, bits.max(1), 12, aim);
                best.into_iter().take(fields).find_map(below)
            })
    }

    /// The bytes of the lines.
    fn lines(&self) -> usize {
        match self {
            Self::Lines(_, lines) => size_of_val(&**lines),
            Self::Below(_, plans) => plans.iter().map(Self::lines).sum(),
        }
    }
}

/// The selectors and lines of a plan, in the order of their places.
struct Layout {
    /// The selectors of each level.
    levels: Vec<Vec<BitSelector>>,
    lines: Vec<IntervalLine>,
    /// The places of lines that any number of selectors share.
    shared: HashMap<IntervalLine, usize, FixedState>,
}

impl BitSelectTree {
    /// Builds the tree of intervals, the lowest of the possible ones; `None` if it needs more than `memory` bytes or outcomes
    /// above 16 bits.
    pub(super) fn new(intervals: &[(u64, ClassOrBlock)], memory: usize) -> Option<Self> {
        let last = |interval: usize| {
            intervals
                .get(interval + 1)
                .map_or(u64::MAX, |(start, _)| start - 1)
        };
        let piece = |(interval, (start, outcome)): (usize, &(u64, ClassOrBlock))| {
            let class = i16::try_from(*outcome).ok()?;
            let last = last(interval);
            Some(Piece {
                first: *start,
                last,
                class,
            })
        };
        let pieces: Option<Vec<_>> = intervals.iter().enumerate().map(piece).collect();
        let pieces = pieces?;
        // A root of as many entries as intervals leaves few of them crowded.
        let bits = pieces.len().max(16).ilog2().min(ROOT_BITS);
        let field = most_separating(&pieces, u64::BITS, bits, 4, Aim::Pairs)[0];
        let groups = split(&pieces, field);
        let least = if pieces.len() <= FLAT { 1 } else { 2 };
        let tries =
            (least..=MAX_LEVELS).flat_map(|levels| [(levels, Aim::Pairs), (levels, Aim::Largest)]);
        tries.into_iter().find_map(|(levels, aim)| {
            let plans: Option<Vec<_>> = groups
                .iter()
                .map(|group| Plan::new(group, levels - 1, aim))
                .collect();
            let plans = plans?;
            if plans.iter().map(Plan::lines).sum::<usize>() > memory {
                return None;
            }
            let mut layout = Layout {
                levels: vec![Vec::new(); levels as usize],
                lines: Vec::new(),
                shared: HashMap::default(),
            };
            layout.add(plans, 0);
            Some(layout.finish(field, levels))
        })
    }

    /// The outcome of the interval that holds `at`.
    #[inline]
    pub(super) fn lookup(&self, at: u64) -> ClassOrBlock {
        self.lookup_by(at, |line| line.passed(at))
    }

    /// The same, with `search` in the place of [`IntervalLine::passed`].
    #[inline(always)]
    pub(super) fn lookup_by(
        &self,
        at: u64,
        search: impl FnOnce(&IntervalLine) -> usize,
    ) -> ClassOrBlock {
        let mut selector = self.root;
        for _ in 0..self.levels {
            selector = self.selectors[selector.entry(at)];
        }
        let line = &self.lines[selector.entry(at)];
        line.outcome(search(line))
    }

    /// The bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.selectors) + size_of_val(&*self.lines)
    }
}

impl Layout {
    /// Adds the selectors of `plans` at `level`, with all that lies below; returns the first one's place in the level.
    fn add(&mut self, plans: Vec<Plan>, level: usize) -> usize {
        let first = self.levels[level].len();
        self.levels[level].resize(
            first + plans.len(),
            BitSelector::new(0, BitField::default()),
        );
        for (place, plan) in (first..).zip(plans) {
            self.levels[level][place] = match plan {
                Plan::Below(field, plans) => BitSelector::new(self.add(plans, level + 1), field),
                Plan::Lines(field, lines) => BitSelector::new(self.add_lines(lines), field),
            };
        }
        first
    }

    /// Adds lines that follow one another; a single one is stored once.
    fn add_lines(&mut self, lines: Vec<IntervalLine>) -> usize {
        let place = self.lines.len();
        if let [line] = lines[..] {
            *self.shared.entry(line).or_insert_with(|| {
                self.lines.push(line);
                place
            })
        } else {
            self.lines.extend(lines);
            place
        }
    }

    /// Joins the levels, each behind the one above.
    fn finish(self, field: BitField, levels: u32) -> BitSelectTree {
        let mut selectors: Vec<BitSelector> = Vec::new();
        let count = self.levels.len();
        for (level, mut of_level) in self.levels.into_iter().enumerate() {
            if level + 1 < count {
                let behind = selectors.len() + of_level.len();
                let behind = u32::try_from(behind).expect("fewer selectors than 2^32");
                for selector in &mut of_level {
                    selector.first += behind;
                }
            }
            selectors.append(&mut of_level);
        }
        BitSelectTree {
            root: BitSelector::new(0, field),
            levels,
            selectors: selectors.into(),
            lines: self.lines.into(),
        }
    }
}
