//! The choice of address bits that separate crowded intervals.
//!
//! A directory that is indexed by leading bits alone needs as many levels as the intervals nest. Here, each crowded
//! block of addresses names the bit field that separates its intervals best, wherever in the address the field lies.
//! All addresses with one value of the field form a group. The intervals of a group do not have to be neighbours:
//!
//! ```text
//!   10.1.5.0/24 holds 40 hosts, 10.1.77.0/24 holds 40 more; all else in 10.1.0.0/16 is one interval.
//!   The top 3 bits of the last octet make 8 groups. Each has the hosts of both /24s in its eighth: about 20 intervals.
//!   Leading bits would need 11 bits and 2,048 groups.
//! ```
//!
//! The comparison that follows is of whole addresses, so a group's answer is exact.

/// The addresses of one interval, or of a part of it, in the block at hand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<C> {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) class: C,
}

/// Consecutive bits of an address; the lowest is at `shift`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BitField {
    pub(super) shift: u32,
    pub(super) bits: u32,
}

impl BitField {
    const fn mask(self) -> u64 {
        (1 << self.bits) - 1
    }

    /// The groups that a piece belongs to: the first one, and the number that follow cyclically.
    fn groups<C>(self, piece: &Piece<C>) -> (u64, u64) {
        let first = piece.first >> self.shift;
        let following = ((piece.last >> self.shift) - first).min(self.mask());
        (first & self.mask(), following)
    }
}

/// The pieces of one group that have been counted.
#[derive(Clone, Copy)]
struct Tally<C> {
    last: Option<C>,
    /// The number of pieces common to all groups that are included.
    common: u32,
    count: u32,
}

impl<C: Copy + Eq> Tally<C> {
    /// Includes the common pieces that have come since; each has the number of class changes up to it.
    #[inline]
    fn include(&mut self, common: &[(C, u32)], number: u32) {
        if self.common == number {
            return;
        }
        let (class, changes) = common[self.common as usize];
        let (last, all) = common[common.len() - 1];
        self.count += u32::from(self.last != Some(class)) + all - changes;
        self.last = Some(last);
        self.common = number;
    }
}

/// The number of pieces in each group, neighbours of one class counted once; `None` if one exceeds `most`.
fn count<C: Copy + Eq>(pieces: &[Piece<C>], field: BitField, most: usize) -> Option<Vec<u32>> {
    let tally = Tally {
        last: None,
        common: 0,
        count: 0,
    };
    let mut tallies = vec![tally; 1 << field.bits];
    let mut common: Vec<(C, u32)> = Vec::new();
    let mut number = 0;
    for piece in pieces {
        let (first, following) = field.groups(piece);
        if following == field.mask() {
            let (before, changes) = common.last().copied().unwrap_or((piece.class, 0));
            common.push((piece.class, changes + u32::from(before != piece.class)));
            number += 1;
            continue;
        }
        for group in first..=first + following {
            let tally = &mut tallies[index(group & field.mask())];
            tally.include(&common, number);
            tally.count += u32::from(tally.last != Some(piece.class));
            tally.last = Some(piece.class);
            if tally.count as usize > most {
                return None;
            }
        }
    }
    let counts = tallies.into_iter().map(|mut tally| {
        tally.include(&common, number);
        (tally.count as usize <= most).then_some(tally.count)
    });
    counts.collect()
}

/// The pieces of each group in order, neighbours of one class joined.
pub(super) fn split<C: Copy + Eq>(pieces: &[Piece<C>], field: BitField) -> Vec<Vec<Piece<C>>> {
    let mut groups: Vec<Vec<Piece<C>>> = vec![Vec::new(); 1 << field.bits];
    for piece in pieces {
        let (first, following) = field.groups(piece);
        for group in first..=first + following {
            let group = &mut groups[index(group & field.mask())];
            match group.last_mut() {
                Some(before) if before.class == piece.class => before.last = piece.last,
                _ => group.push(*piece),
            }
        }
    }
    groups
}

/// The shortest field of at most `bits` bits whose groups hold at most `most` pieces each.
///
/// The field lies in the low `width` bits. Of several, the one that leaves most groups with a single piece.
pub(super) fn shortest<C: Copy + Eq>(
    pieces: &[Piece<C>],
    width: u32,
    bits: u32,
    most: usize,
) -> Option<BitField> {
    if pieces.len() <= most {
        return Some(BitField::default());
    }
    let fitting = |bits| {
        let fitting = fields(pieces, width, bits).filter_map(|field| {
            let counts = count(pieces, field, most)?;
            Some((counts.iter().filter(|count| **count > 1).count(), field))
        });
        let best = fitting.min_by_key(|(several, _)| *several);
        best.map(|(_, field)| field)
    };
    // Groups rarely share more than the gaps between their pieces, which join.
    let least = (pieces.len() / (2 * most)).max(2).ilog2();
    (least..=bits).find_map(fitting)
}

/// Whether any field of `bits` bits leaves at most `most` pieces in each group.
///
/// A longer field separates all that a shorter one within it does: where the longest fails, all do.
pub(super) fn is_separable<C: Copy + Eq>(
    pieces: &[Piece<C>],
    width: u32,
    bits: u32,
    most: usize,
) -> bool {
    pieces.len() <= most
        || fields(pieces, width, bits).any(|field| count(pieces, field, most).is_some())
}

/// What a field is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// Few pairs of pieces in one group: it separates most.
    Pairs,
    /// A small largest group: it separates where that is hardest.
    Largest,
}

/// The fields of `bits` bits, the best ones by `aim` first.
///
/// The fields lie in the low `width` bits. Only the `exact` best ones by an estimate are compared.
pub(super) fn most_separating<C: Copy + Eq>(
    pieces: &[Piece<C>],
    width: u32,
    bits: u32,
    exact: usize,
    aim: Aim,
) -> Vec<BitField> {
    let mut fields: Vec<_> = fields(pieces, width, bits).collect();
    if fields.len() > exact {
        fields.sort_by_cached_key(|field| estimate(pieces, *field));
        fields.truncate(exact);
    }
    fields.sort_by_cached_key(|field| {
        let counts = count(pieces, *field, usize::MAX).expect("no limit");
        let pairs: u64 = counts.iter().map(|count| u64::from(*count).pow(2)).sum();
        let largest = counts.iter().max().filter(|_| aim == Aim::Largest);
        (largest.copied(), pairs)
    });
    fields
}

/// The fields of `bits` bits in the low `width` whose lowest bit, or one above, tells two neighbours apart.
///
/// A field that begins below such a bit tells less apart than the one that begins with the bit.
fn fields<C>(pieces: &[Piece<C>], width: u32, bits: u32) -> impl Iterator<Item = BitField> {
    let highest = |pair: &[Piece<C>]| (pair[0].last ^ pair[1].first).checked_ilog2();
    let telling = pieces
        .windows(2)
        .filter_map(highest)
        .fold(0u64, |telling, bit| telling | 1 << bit);
    let top = width - bits;
    let shifts = (0..top).filter(move |shift| telling >> shift & 1 == 1);
    shifts
        .chain([top])
        .map(move |shift| BitField { shift, bits })
}

/// Estimates the pairs of pieces that share a group: each piece counts in its first group, one of all groups in all.
fn estimate<C: Copy + Eq>(pieces: &[Piece<C>], field: BitField) -> u64 {
    let mut counts = vec![0u64; 1 << field.bits];
    let mut common = 0;
    let mut last = None;
    for piece in pieces {
        let (first, following) = field.groups(piece);
        if following == field.mask() {
            common += u64::from(last != Some(piece.class));
            last = Some(piece.class);
        } else {
            counts[index(first)] += 1;
        }
    }
    counts.iter().map(|count| (count + common).pow(2)).sum()
}

fn index(group: u64) -> usize {
    usize::try_from(group).expect("a field has few bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// Pieces between the given boundaries in the low 16 bits.
    fn pieces(mut starts: Vec<(u16, u8)>) -> Vec<Piece<u8>> {
        starts.push((0, 0));
        starts.sort_unstable();
        starts.dedup_by_key(|(start, _)| *start);
        starts.dedup_by_key(|(_, class)| *class);
        let last = |at: usize| match starts.get(at + 1) {
            Some((start, _)) => u64::from(*start) - 1,
            None => u64::from(u16::MAX),
        };
        let piece = |(at, (start, class)): (usize, &(u16, u8))| Piece {
            first: u64::from(*start),
            last: last(at),
            class: *class,
        };
        starts.iter().enumerate().map(piece).collect()
    }

    proptest! {
        #[test]
        fn a_group_answers_for_each_of_its_addresses(
            starts in prop::collection::vec((any::<u16>(), 0..4u8), 0..60),
            shift in 0..12u32,
            bits in 0..4u32,
        ) {
            let (pieces, field) = (pieces(starts), BitField { shift, bits });
            let groups = split(&pieces, field);
            let counts = count(&pieces, field, usize::MAX).expect("no limit");
            prop_assert!(counts.iter().map(|count| *count as usize).eq(groups.iter().map(Vec::len)));
            let most = counts.iter().max().map(|count| *count as usize).expect("one group at least");
            prop_assert!(count(&pieces, field, most).is_some());
            prop_assert!(count(&pieces, field, most - 1).is_none());
            for addr in (0..=u64::from(u16::MAX)).step_by(7) {
                let expected = pieces.iter().find(|piece| addr <= piece.last).map(|piece| piece.class);
                let group = &groups[index(addr >> shift & field.mask())];
                let found = group.iter().find(|piece| addr <= piece.last).map(|piece| piece.class);
                prop_assert_eq!(found, expected, "{}", addr);
            }
        }

        #[test]
        fn the_shortest_field_keeps_the_limit(
            starts in prop::collection::vec((any::<u16>(), 0..4u8), 0..200),
        ) {
            let pieces = pieces(starts);
            let field = shortest(&pieces, 16, 12, 16).expect("12 bits leave 16 addresses to a group");
            prop_assert!(split(&pieces, field).iter().all(|group| group.len() <= 16));
        }
    }

    #[test]
    fn two_bunches_of_hosts_share_one_field() {
        let hosts = |third: u16| {
            (0..40u16).map(move |host| ((third << 8) | (host * 6), 1 + (host % 2) as u8))
        };
        let pieces = pieces(
            hosts(5)
                .chain(hosts(77))
                .chain([(6 << 8, 0), (78 << 8, 0)])
                .collect(),
        );
        let field = shortest(&pieces, 16, 12, 16).expect("hosts part");
        assert!(field.bits <= 4, "{field:?}");
    }
}
