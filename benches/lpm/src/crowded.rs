//! Tables that crowd as cloud providers publish their ranges: most prefixes lie in a few blocks, hosts in bunches.
//!
//! The tests of the lookup table use this file too, so that it depends on nothing.

use std::collections::BTreeSet;

/// What a crowded table is drawn by.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// Another seed draws other blocks and prefixes.
    pub seed: u64,
    /// The number of prefixes.
    pub count: usize,
    /// How unequal blocks are: the n-th largest has a share of 1/n^crowding. 0 spreads prefixes evenly.
    pub crowding: f64,
}

/// The blocks and prefix lengths of a family. Addresses begin at the highest of 128 bits.
struct Family {
    /// Prefix lengths and how frequent they are.
    lengths: &'static [(u32, u32)],
    /// From this length on, prefixes come in bunches.
    bunched: u32,
    /// The number of blocks, and the length of their prefixes.
    blocks: usize,
    block_length: u32,
}

/// Lengths as published: /24 1,767 times, /32 1,228, /23 542, /31 501, /26 496, /29 489, /22 476, /16 380 of 7,787.
const V4: Family = Family {
    lengths: &[
        (11, 4),
        (12, 8),
        (13, 25),
        (14, 60),
        (15, 90),
        (16, 380),
        (17, 130),
        (18, 150),
        (19, 160),
        (20, 250),
        (21, 270),
        (22, 476),
        (23, 542),
        (24, 1767),
        (25, 180),
        (26, 496),
        (27, 200),
        (28, 250),
        (29, 489),
        (30, 130),
        (31, 501),
        (32, 1228),
    ],
    bunched: 29,
    blocks: 430,
    block_length: 13,
};

const V6: Family = Family {
    lengths: &[
        (32, 60),
        (36, 60),
        (38, 20),
        (40, 300),
        (41, 50),
        (44, 300),
        (45, 50),
        (46, 80),
        (47, 80),
        (48, 900),
        (50, 50),
        (52, 60),
        (56, 500),
        (58, 20),
        (60, 60),
        (63, 30),
        (64, 400),
        (128, 25),
    ],
    bunched: 63,
    blocks: 60,
    block_length: 28,
};

/// The /16s of the registries' IPv6 space that blocks are drawn from.
const V6_REGISTRIES: [u128; 8] = [
    0x2001, 0x2400, 0x2404, 0x2600, 0x2603, 0x2620, 0x2a01, 0x2a05,
];

/// Draws IPv4 prefixes: first address and length.
#[must_use]
pub fn v4(crowd: Crowd) -> BTreeSet<(u32, u8)> {
    let prefixes = draw(&V4, crowd, |random| {
        u128::from(1 + random.below(222)) << 120 | u128::from(random.below(256)) << 112
    });
    let narrow = |(first, length): (u128, u32)| {
        (
            (first >> 96) as u32,
            u8::try_from(length).expect("at most 32"),
        )
    };
    prefixes.into_iter().map(narrow).collect()
}

/// Draws IPv6 prefixes: first address and length.
#[must_use]
pub fn v6(crowd: Crowd) -> BTreeSet<(u128, u8)> {
    let prefixes = draw(&V6, crowd, |random| {
        let registry = V6_REGISTRIES[random.below(V6_REGISTRIES.len() as u64) as usize];
        registry << 112 | u128::from(random.below(1 << 12)) << 100
    });
    let narrow = |(first, length)| (first, u8::try_from(length).expect("at most 128"));
    prefixes.into_iter().map(narrow).collect()
}

fn draw(
    family: &Family,
    crowd: Crowd,
    start: impl Fn(&mut Random) -> u128,
) -> BTreeSet<(u128, u32)> {
    let random = &mut Random(crowd.seed);
    let blocks = blocks(family, random, start);
    let shares: Vec<f64> = (1..=blocks.len())
        .map(|n| (n as f64).powf(-crowd.crowding))
        .collect();
    let mut drawn = BTreeSet::new();
    while drawn.len() < crowd.count {
        let block = blocks[random.choose(&shares)];
        let weights: Vec<f64> = family
            .lengths
            .iter()
            .map(|(_, weight)| f64::from(*weight))
            .collect();
        let (length, _) = family.lengths[random.choose(&weights)];
        if length < family.bunched {
            let first = descend(random, block, family.block_length, length, crowd.crowding);
            drawn.insert((first & mask(length), length));
            continue;
        }
        // A bunch: up to 24 neighbours within a few bits, some of them pairs.
        let bits = if length == 128 {
            16
        } else {
            3 + random.below(5) as u32
        };
        let around = length.min(64) - if length == 128 { 0 } else { bits };
        let around = descend(random, block, family.block_length, around, crowd.crowding);
        for _ in 0..=random.below(24) {
            let offset = u128::from(random.below(1 << bits)) << (128 - length);
            let length = length - u32::from(random.below(4) == 0 && length != family.bunched);
            if drawn.len() < crowd.count {
                drawn.insert(((around | offset) & mask(length), length));
            }
        }
    }
    drawn
}

/// Blocks in runs of up to eight neighbours, in the order of their shares.
fn blocks(family: &Family, random: &mut Random, start: impl Fn(&mut Random) -> u128) -> Vec<u128> {
    let mut blocks = BTreeSet::new();
    while blocks.len() < family.blocks {
        let start = start(random) & mask(family.block_length);
        for neighbour in 0..=u128::from(random.below(8)) {
            blocks.insert(start.wrapping_add(neighbour << (128 - family.block_length)));
        }
    }
    let mut blocks: Vec<_> = blocks.into_iter().collect();
    for last in (1..blocks.len()).rev() {
        blocks.swap(last, random.below(last as u64 + 1) as usize);
    }
    blocks.truncate(family.blocks);
    blocks
}

/// Extends a prefix to a length, four bits at a time, so that some branches are fuller than others.
fn descend(random: &mut Random, block: u128, from: u32, to: u32, crowding: f64) -> u128 {
    let mut first = block;
    let mut length = from;
    while length < to {
        let bits = 4.min(to - length);
        let branches = 1u128 << bits;
        let branch = (random.unit().powf(1.0 + crowding) * branches as f64) as u128;
        // Which ones are full differs from block to block.
        let turned = branch ^ ((block >> (128 - from)).wrapping_mul(0x9e37) % branches);
        length += bits;
        first |= turned << (128 - length);
    }
    first
}

const fn mask(length: u32) -> u128 {
    if length == 0 {
        0
    } else {
        u128::MAX << (128 - length)
    }
}

/// SplitMix64: the same numbers every time.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`, which is at most 2^32.
    pub fn below(&mut self, end: u64) -> u64 {
        ((self.bits() >> 32) * end) >> 32
    }

    /// A number from 0 to below 1.
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An index, as frequent as its weight.
    fn choose(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        chosen.unwrap_or(weights.len() - 1)
    }
}
