//! A few intervals in one cache line, compared by one or two vector instructions.
//!
//! A block holds the last address of each of its intervals but the final one. The number of lower ends is the number
//! of the interval that holds an address. Unused ends are the highest address, above which no address lies. (First
//! addresses would not do: an unused one would count for the highest address.)
//!
//! The comparisons are of signed numbers, so ends and keys have the top bit flipped.

use std::array;

/// A block of a [`Directory`](super::directory::Directory).
pub(super) trait IntervalBlock: Copy {
    /// The number of intervals that it has room for.
    const WAYS: usize;

    /// The number of classes that can be stored.
    const CLASSES: u32;

    /// Makes a block of 1 to `WAYS` intervals; the first one's start is not looked at.
    fn new(intervals: &[(u32, u32)]) -> Self;

    /// The class of the interval that holds `key`.
    fn class(&self, key: u32) -> u32;
}

/// Up to 5 intervals with classes of 16 bits.
///
/// The compare's mask is 0, 1, 3, 7 or 15: the classes lie at these places, and nothing has to be counted.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Block4 {
    ends: [i32; 4],
    classes: [u16; 16],
}

/// Up to 8 intervals with classes of 31 bits. The last of the ends is always unused.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Block8 {
    pub(super) ends: [[i32; 4]; 2],
    pub(super) classes: [u32; 8],
}

/// Makes signed order that of unsigned numbers.
#[expect(clippy::cast_possible_wrap, reason = "that is the point")]
pub(super) const fn signed(key: u32) -> i32 {
    (key ^ (1 << 31)) as i32
}

/// The last address of each interval but the final one, filled up with the highest address.
fn ends<const N: usize>(intervals: &[(u32, u32)]) -> [i32; N] {
    let mut ends = [signed(u32::MAX); N];
    for (end, (start, _)) in ends.iter_mut().zip(&intervals[1..]) {
        *end = signed(start - 1);
    }
    ends
}

impl Block8 {
    /// The bit of a class that says: the other bits are the number of a block in a
    /// [`BlockTree`](super::block_tree::BlockTree).
    pub(super) const LINK: u32 = 1 << 31;
}

impl IntervalBlock for Block4 {
    const WAYS: usize = 5;
    const CLASSES: u32 = 1 << 16;

    fn new(intervals: &[(u32, u32)]) -> Self {
        debug_assert!((1..=Self::WAYS).contains(&intervals.len()));
        let mut classes = [0; 16];
        for (below, (_, class)) in intervals.iter().enumerate() {
            classes[(1 << below) - 1] = u16::try_from(*class).expect("the directory saw to it");
        }
        Self {
            ends: ends(intervals),
            classes,
        }
    }

    #[inline]
    fn class(&self, key: u32) -> u32 {
        self.classes[mask4(&self.ends, signed(key)) & 15].into()
    }
}

impl IntervalBlock for Block8 {
    const WAYS: usize = 8;
    const CLASSES: u32 = 1 << 31;

    fn new(intervals: &[(u32, u32)]) -> Self {
        debug_assert!((1..=Self::WAYS).contains(&intervals.len()));
        let mut classes = [0; 8];
        for (at, (_, class)) in classes.iter_mut().zip(intervals) {
            *at = *class;
        }
        let ends: [i32; 8] = ends(intervals);
        Self {
            ends: array::from_fn(|half| array::from_fn(|at| ends[4 * half + at])),
            classes,
        }
    }

    #[inline]
    fn class(&self, key: u32) -> u32 {
        self.classes[count8(&self.ends, signed(key)) & 7]
    }
}

#[cfg(target_arch = "x86_64")]
use super::sse2::{count8, mask4};

#[cfg(not(target_arch = "x86_64"))]
use portable::{count8, mask4};

/// The comparisons without vector instructions.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    /// A bit for each end below `key`.
    #[inline]
    pub(super) fn mask4(ends: &[i32; 4], key: i32) -> usize {
        (1 << count(ends, key)) - 1
    }

    /// The number of ends below `key`.
    #[inline]
    pub(super) fn count8([low, high]: &[[i32; 4]; 2], key: i32) -> usize {
        count(low, key) + count(high, key)
    }

    fn count(ends: &[i32; 4], key: i32) -> usize {
        ends.iter().map(|end| usize::from(*end < key)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_highest_key_is_a_key() {
        let full = [(0, 1), (1, 2), (2, 3), (9, 4), (u32::MAX, 5)];
        for key in [0, 1, 2, 8, 9, u32::MAX - 1, u32::MAX] {
            let expected = full[full.partition_point(|(start, _)| *start <= key) - 1].1;
            assert_eq!(Block4::new(&full).class(key), expected, "{key}");
            assert_eq!(Block8::new(&full).class(key), expected, "{key}");
        }
        assert_eq!(Block4::new(&full[..1]).class(u32::MAX), 1);
        assert_eq!(Block8::new(&full[..1]).class(u32::MAX), 1);
    }

    proptest! {
        #[test]
        fn vectors_count_as_numbers_do(mut ends: [i32; 8], key: i32, which in 0..8usize) {
            ends.sort_unstable();
            ends[7] = i32::MAX;
            let halves = array::from_fn(|half| array::from_fn(|at| ends[4 * half + at]));
            for key in [key, ends[which], ends[which].wrapping_add(1)] {
                prop_assert_eq!(count8(&halves, key), portable::count8(&halves, key));
                prop_assert_eq!(mask4(&halves[0], key), portable::mask4(&halves[0], key));
            }
        }
    }
}
