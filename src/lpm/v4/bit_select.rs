//! Crowded intervals: two loads and one comparison, whatever their spread.
//!
//! ```text
//!   address     | 16 bits: selector |       16 bits       |
//!   selectors   | first line, field |          [field]      <- chooses one of the block's lines
//!   lines       | 15 last addresses of 16 bits | 16 classes |
//! ```
//!
//! A /16 with at most 16 intervals has one line of 64 B. A crowded one has a line for each value of the bit field
//! that separates its intervals best; see [`bit_select`](crate::lpm::bit_select). No branch depends on the address.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::advance;
use crate::lpm::bit_select::{BitField, Piece, shortest, split};

/// The number of /16s.
const BLOCKS: usize = 1 << 16;

/// The intervals that fit a line.
pub(super) const LINE: usize = 16;

/// The most bits of a field: its groups are then 16 addresses each.
const FIELD_BITS: u32 = 12;

/// Selectors for each /16, and the lines that they choose from.
#[derive(Clone)]
pub(super) struct BitSelectDirectory {
    /// From the lowest bit: 5 bits for the distance that shifts out what is above the field, 6 for the distance back
    /// to its value, 21 for the first line.
    selectors: Box<[u32; BLOCKS]>,
    lines: Box<[IntervalLine]>,
}

/// Up to 16 intervals of one group, told apart by the low 16 bits of an address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, align(64))]
pub(super) struct IntervalLine {
    /// The last address of each interval but the final one, less 2^15: compared as signed numbers. Unused ones and the
    /// last of all are the highest, above which no address lies.
    pub(super) ends: [[i16; 8]; 2],
    pub(super) classes: [u16; LINE],
}

impl IntervalLine {
    fn new(pieces: &[Piece<u16>]) -> Self {
        let mut line = Self {
            ends: [[i16::MAX; 8]; 2],
            classes: [0; LINE],
        };
        let ends = line.ends.as_flattened_mut().iter_mut();
        for (end, piece) in ends.zip(
            pieces
                .split_last()
                .map_or(&[][..], |(_, but_last)| but_last),
        ) {
            *end = signed(u16::try_from(piece.last).expect("a block has 16 bits"));
        }
        for (class, piece) in line.classes.iter_mut().zip(pieces) {
            *class = piece.class;
        }
        line
    }

    /// The class of the interval that holds `key`.
    #[inline]
    fn class(&self, key: u32) -> u32 {
        self.classes[count16(&self.ends, low(key)) & (LINE - 1)].into()
    }
}

/// The low 16 bits of an address, less 2^15.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
pub(super) const fn low(key: u32) -> i16 {
    signed(key as u16)
}

/// Makes signed order that of unsigned numbers.
#[inline]
const fn signed(low: u16) -> i16 {
    (low ^ 1 << 15).cast_signed()
}

impl BitSelectDirectory {
    /// Compiles intervals; `None` if they need more than `memory` bytes or classes above 16 bits.
    pub(super) fn new(intervals: &[(u32, u32)], memory: usize) -> Option<Self> {
        let most = memory.saturating_sub(size_of::<[u32; BLOCKS]>()) / size_of::<IntervalLine>();
        let mut selectors = Vec::with_capacity(BLOCKS);
        let mut lines: Vec<IntervalLine> = Vec::new();
        let mut known: HashMap<IntervalLine, u32, FixedState> = HashMap::default();
        let mut pieces = Vec::new();
        let mut rest = intervals;
        let mut uniform: Option<(u32, u32)> = None;
        for block in 0..=u32::from(u16::MAX) {
            let (first, last) = (block << 16, block << 16 | u32::from(u16::MAX));
            rest = advance(rest, first);
            let class = rest[0].1;
            let mixed = rest.get(1).is_some_and(|(start, _)| *start <= last);
            if let (false, Some((_, selector))) = (mixed, uniform.filter(|known| known.0 == class))
            {
                selectors.push(selector);
                continue;
            }
            pieces.clear();
            loop {
                let (start, class) = rest[0];
                let next = rest
                    .get(1)
                    .map(|(next, _)| *next)
                    .filter(|next| *next <= last);
                pieces.push(Piece {
                    first: u64::from(start.max(first) - first),
                    last: u64::from(next.map_or(last, |next| next - 1) - first),
                    class: u16::try_from(class).ok()?,
                });
                if next.is_none() {
                    break;
                }
                rest = &rest[1..];
            }
            let field = shortest(&pieces, 16, FIELD_BITS, LINE)?;
            let number = u32::try_from(lines.len()).ok()?;
            let number = if field.bits == 0 {
                let line = IntervalLine::new(&pieces);
                *known.entry(line).or_insert_with(|| {
                    lines.push(line);
                    number
                })
            } else {
                lines.extend(
                    split(&pieces, field)
                        .iter()
                        .map(|group| IntervalLine::new(group)),
                );
                number
            };
            if lines.len() > most {
                return None;
            }
            let selector = Self::selector(number, field);
            if !mixed {
                uniform = Some((class, selector));
            }
            selectors.push(selector);
        }
        Some(Self {
            selectors: selectors.try_into().expect("one selector for each /16"),
            lines: lines.into(),
        })
    }

    const fn selector(line: u32, field: BitField) -> u32 {
        let above = (u32::BITS - field.shift - field.bits) % u32::BITS;
        line << 11 | (u32::BITS - field.bits) << 5 | above
    }

    /// The number of the line that holds `key`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a field has few bits")]
    fn line(&self, key: u32) -> usize {
        let selector = self.selectors[(key >> 16) as usize];
        // The shifts use 5 and 6 bits of their distances.
        let group = u64::from(key.wrapping_shl(selector)).wrapping_shr(selector >> 5);
        ((selector >> 11) + group as u32) as usize
    }

    /// The class of the interval that holds `key`.
    #[inline]
    pub(super) fn lookup(&self, key: u32) -> u32 {
        self.lookup_by(key, |line| line.class(key))
    }

    /// The same, with `search` in the place of [`IntervalLine::class`].
    #[expect(
        clippy::inline_always,
        reason = "the search's vectors must not be passed in memory"
    )]
    #[inline(always)]
    pub(super) fn lookup_by(&self, key: u32, search: impl FnOnce(&IntervalLine) -> u32) -> u32 {
        search(&self.lines[self.line(key)])
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.selectors) + size_of_val(&*self.lines)
    }
}

#[cfg(target_arch = "x86_64")]
use super::sse2::count16;

#[cfg(not(target_arch = "x86_64"))]
use portable::count16;

/// The comparison without vector instructions.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    /// The number of ends below `key`.
    #[inline]
    pub(super) fn count16(ends: &[[i16; 8]; 2], key: i16) -> usize {
        let ends = ends.as_flattened().iter();
        ends.map(|end| usize::from(*end < key)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn vectors_count_as_numbers_do(mut ends: [i16; 15], key: i16, at in 0..15usize) {
            ends.sort_unstable();
            let mut halves = [[i16::MAX; 8]; 2];
            halves.as_flattened_mut()[..15].copy_from_slice(&ends);
            for key in [key, ends[at], ends[at].wrapping_add(1), i16::MAX] {
                prop_assert_eq!(count16(&halves, key), portable::count16(&halves, key));
            }
        }
    }

    #[test]
    fn too_much_memory_or_too_many_classes_are_no_directory() {
        let hosts: Vec<_> = (0..4096u32).map(|host| (host * 16, host % 2)).collect();
        assert!(BitSelectDirectory::new(&hosts, 4 << 20).is_some());
        assert!(BitSelectDirectory::new(&hosts, 1 << 17).is_none());
        assert!(BitSelectDirectory::new(&[(0, 1 << 16)], 4 << 20).is_none());
    }
}
