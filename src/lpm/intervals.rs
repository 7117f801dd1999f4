//! From nested prefixes to disjoint intervals.
//!
//! ```text
//!   10.0.0.0/8  = 1     |1111111111111111111111111111|
//!   10.32.0.0/11 = 2            |22222222|
//!   10.40.0.0/13 = 1              |111|
//!   intervals     000000|1111111|22|111|222|111111111|00000000
//! ```
//!
//! A class is an index into the table's values; 0 is no prefix. The prefixes come in order, so that the covering
//! prefixes form a stack and one pass suffices.

use std::net::{Ipv4Addr, Ipv6Addr};

/// An address as a number.
pub(super) trait AddressBits: Copy + Ord {
    /// The lowest address.
    const MIN: Self;

    /// Returns the next higher address, if there is one.
    fn after(self) -> Option<Self>;
}

impl AddressBits for u32 {
    const MIN: Self = Ipv4Addr::UNSPECIFIED.to_bits();

    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl AddressBits for u128 {
    const MIN: Self = Ipv6Addr::UNSPECIFIED.to_bits();

    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Collects intervals from prefixes that come in order: by address, a covering prefix before what it covers.
pub(super) struct Flattener<K> {
    /// The start and class of each interval: ascending, the first at the lowest key, neighbours of different class.
    intervals: Vec<(K, u32)>,
    /// The last key and class of each prefix that covers the present key, from the widest to the narrowest.
    covering: Vec<(K, u32)>,
}

impl<K: AddressBits> Flattener<K> {
    pub(super) fn new() -> Self {
        Self {
            intervals: vec![(K::MIN, 0)],
            covering: Vec::new(),
        }
    }

    /// Adds the prefix from `first` to `last`.
    pub(super) fn push(&mut self, first: K, last: K, class: u32) {
        while let Some((ended, _)) = self.covering.pop_if(|(last, _)| *last < first) {
            self.resume(ended);
        }
        self.start(first, class);
        self.covering.push((last, class));
    }

    /// Ends all open prefixes and returns the intervals.
    pub(super) fn finish(mut self) -> Vec<(K, u32)> {
        while let Some((ended, _)) = self.covering.pop() {
            self.resume(ended);
        }
        self.intervals
    }

    /// Continues the covering prefix, if any, behind the last key of one that ended.
    fn resume(&mut self, ended: K) {
        let class = self.covering.last().map_or(0, |(_, class)| *class);
        if let Some(next) = ended.after() {
            self.start(next, class);
        }
    }

    fn start(&mut self, at: K, class: u32) {
        self.intervals.pop_if(|(start, _)| *start == at);
        if self.intervals.last().is_none_or(|last| last.1 != class) {
            self.intervals.push((at, class));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flatten(prefixes: &[(u32, u32, u32)]) -> Vec<(u32, u32)> {
        let mut flattener = Flattener::new();
        for &(first, last, class) in prefixes {
            flattener.push(first, last, class);
        }
        flattener.finish()
    }

    #[test]
    fn nested_prefixes_make_the_intervals_of_the_picture() {
        let prefixes = [
            (0x0a00_0000, 0x0aff_ffff, 1),
            (0x0a20_0000, 0x0a3f_ffff, 2),
            (0x0a28_0000, 0x0a2f_ffff, 1),
        ];
        let intervals = [
            (0, 0),
            (0x0a00_0000, 1),
            (0x0a20_0000, 2),
            (0x0a28_0000, 1),
            (0x0a30_0000, 2),
            (0x0a40_0000, 1),
            (0x0b00_0000, 0),
        ];
        assert_eq!(flatten(&prefixes), intervals);
    }

    #[test]
    fn both_ends_of_the_space_are_addresses_like_others() {
        assert_eq!(flatten(&[]), [(0, 0)]);
        assert_eq!(flatten(&[(0, u32::MAX, 7)]), [(0, 7)]);
        assert_eq!(
            flatten(&[(0, u32::MAX, 7), (u32::MAX, u32::MAX, 1)]),
            [(0, 7), (u32::MAX, 1)]
        );
        assert_eq!(flatten(&[(0, 0, 1)]), [(0, 1), (1, 0)]);
        assert_eq!(flatten(&[(u32::MAX, u32::MAX, 1)]), [(0, 0), (u32::MAX, 1)]);
    }

    #[test]
    fn neighbours_of_equal_class_are_joined() {
        let halves = [
            (0x0a00_0000, 0x0a7f_ffff, 1),
            (0x0a01_0000, 0x0a01_ffff, 1),
            (0x0a80_0000, 0x0aff_ffff, 1),
        ];
        assert_eq!(
            flatten(&halves),
            [(0, 0), (0x0a00_0000, 1), (0x0b00_0000, 0)]
        );
        // The inner prefix hides all of the outer one.
        let hidden = [(0, 7, 1), (0, 3, 2), (4, 7, 2)];
        assert_eq!(flatten(&hidden), [(0, 2), (8, 0)]);
    }
}
