//! Up to 128 intervals in vector registers: a bulk lookup that loads nothing but its addresses.
//!
//! ```text
//!            4              the intervals' last addresses in breadth-first (Eytzinger) order,
//!        2       6          node n above nodes 2n and 2n + 1, level by level in registers
//!      1   3   5   7
//! ```
//!
//! Each lane begins at node 1. A permutation fetches the lane's node, a comparison tells whether its end is below the
//! lane's address, and the next node is `2n + (0 or 1)`. Below the last level, n is the interval's number, and another
//! permutation fetches its class. Unused nodes are the highest address; see [`block`](super::block).
#![allow(unsafe_code)]

use crate::lpm::Level;

/// The most intervals that fit.
const MAX: usize = 128;

/// What makes signed order that of unsigned numbers.
const FLIP: u32 = 1 << 31;

/// A search tree that is loaded into registers once for each batch.
#[derive(Clone)]
pub(super) struct SimdSearch {
    tree: Box<SearchTree>,
    variant: SimdVariant,
}

#[derive(Clone)]
#[repr(align(64))]
struct SearchTree {
    /// The last address of each interval but the final one, in breadth-first order from 1; place 0 is unused. The
    /// compares are of signed numbers, so the top bit is flipped.
    nodes: [[u32; 16]; MAX / 16],
    /// The class of each interval.
    classes: [[u32; 16]; MAX / 16],
}

/// Which code walks the tree. To hold one proves that the processor can run it.
#[derive(Clone, Copy)]
enum SimdVariant {
    /// 32 intervals in 8 registers of 8.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// `2^levels` intervals, 5 to 7 levels, in 4 to 16 registers of 16.
    #[cfg(target_arch = "x86_64")]
    Avx512 { levels: u8 },
}

impl SimdSearch {
    /// Compiles intervals; `None` if they are too many for the processor's registers.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn new(intervals: &[(u32, u32)], level: Level) -> Option<Self> {
        let (variant, levels) = match (level.min(Level::detect()), intervals.len()) {
            (Level::Avx2, ..=32) => (SimdVariant::Avx2, 5),
            (Level::Avx512, ..=32) => (SimdVariant::Avx512 { levels: 5 }, 5),
            (Level::Avx512, ..=64) => (SimdVariant::Avx512 { levels: 6 }, 6),
            (Level::Avx512, ..=MAX) => (SimdVariant::Avx512 { levels: 7 }, 7),
            _ => return None,
        };
        let mut tree = Box::new(SearchTree {
            nodes: [[u32::MAX ^ FLIP; 16]; MAX / 16],
            classes: [[0; 16]; MAX / 16],
        });
        for (class, interval) in tree.classes.as_flattened_mut().iter_mut().zip(intervals) {
            *class = interval.1;
        }
        // In ascending order, the ends stand above the odd numbers of the last level, then above every other one that
        // is left, and so on: the number of trailing zeros says how far up.
        for (number, (start, _)) in intervals.iter().enumerate().skip(1) {
            let up = number.trailing_zeros() + 1;
            tree.nodes.as_flattened_mut()[((1 << levels) + number) >> up] = (start - 1) ^ FLIP;
        }
        Some(Self { tree, variant })
    }

    /// No other processor's registers are used.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn new(_: &[(u32, u32)], _: Level) -> Option<Self> {
        None
    }

    /// The class of the interval that holds each of `keys`.
    pub(super) fn lookup_batch(&self, keys: &[u32], classes: &mut [u32]) {
        match self.variant {
            // SAFETY: `new` chose the variant by what the processor can do.
            #[cfg(target_arch = "x86_64")]
            SimdVariant::Avx2 => unsafe { x86::avx2(&self.tree, keys, classes) },
            // SAFETY: as above, for each of the three.
            #[cfg(target_arch = "x86_64")]
            SimdVariant::Avx512 { levels } => unsafe {
                match levels {
                    5 => x86::avx512::<5>(&self.tree, keys, classes),
                    6 => x86::avx512::<6>(&self.tree, keys, classes),
                    _ => x86::avx512::<7>(&self.tree, keys, classes),
                }
            },
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.tree)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_add_epi32, _mm256_blendv_ps, _mm256_castps_si256,
        _mm256_castsi256_ps, _mm256_cmpgt_epi32, _mm256_loadu_si256, _mm256_permutevar8x32_epi32,
        _mm256_set1_epi32, _mm256_slli_epi32, _mm256_storeu_si256, _mm256_sub_epi32,
        _mm256_xor_si256, _mm512_add_epi32, _mm512_cmplt_epi32_mask, _mm512_loadu_si512,
        _mm512_mask_add_epi32, _mm512_mask_blend_epi32, _mm512_permutex2var_epi32,
        _mm512_permutexvar_epi32, _mm512_set1_epi32, _mm512_storeu_si512, _mm512_test_epi32_mask,
        _mm512_xor_si512,
    };

    use super::{FLIP, SearchTree};

    /// Calls `$search` with a whole vector of keys at a time, the last one filled up.
    macro_rules! by_vector {
        ($lanes:literal, $keys:expr, $classes:expr, $search:expr) => {{
            let (keys, keys_left) = $keys.as_chunks::<$lanes>();
            let (classes, classes_left) = $classes.as_chunks_mut::<$lanes>();
            for (keys, classes) in keys.iter().zip(classes) {
                $search(keys, classes);
            }
            if !keys_left.is_empty() {
                let (mut keys, mut classes) = ([0; $lanes], [0; $lanes]);
                keys[..keys_left.len()].copy_from_slice(keys_left);
                $search(&keys, &mut classes);
                classes_left.copy_from_slice(&classes[..classes_left.len()]);
            }
        }};
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512<const LEVELS: usize>(
        tree: &SearchTree,
        keys: &[u32],
        classes: &mut [u32],
    ) {
        let node = |at: usize| load512(&tree.nodes[at / 16]);
        let class = |at: usize| load512(&tree.classes[at / 16]);
        let flip = _mm512_set1_epi32(FLIP.cast_signed());
        let one = _mm512_set1_epi32(1);
        by_vector!(
            16,
            keys,
            classes,
            |keys: &[u32; 16], classes: &mut [u32; 16]| {
                let keys = _mm512_xor_si512(load512(keys), flip);
                let down = |at, end| {
                    let twice = _mm512_add_epi32(at, at);
                    _mm512_mask_add_epi32(twice, _mm512_cmplt_epi32_mask(end, keys), twice, one)
                };
                let mut at = one;
                for _ in 0..4 {
                    at = down(at, _mm512_permutexvar_epi32(at, node(0)));
                }
                at = down(at, _mm512_permutexvar_epi32(at, node(16)));
                if LEVELS > 5 {
                    at = down(at, pick32(at, node(32), node(48)));
                }
                if LEVELS > 6 {
                    let ends = [node(64), node(80), node(96), node(112)];
                    at = down(at, pick64(at, ends));
                }
                let low = || [class(0), class(16), class(32), class(48)];
                let found = match LEVELS {
                    5 => pick32(at, class(0), class(16)),
                    6 => pick64(at, low()),
                    _ => {
                        let high = [class(64), class(80), class(96), class(112)];
                        let upper = _mm512_test_epi32_mask(at, _mm512_set1_epi32(64));
                        _mm512_mask_blend_epi32(upper, pick64(at, low()), pick64(at, high))
                    }
                };
                // SAFETY: the array is as long as the vector.
                unsafe { _mm512_storeu_si512(classes.as_mut_ptr().cast(), found) };
            }
        );
    }

    /// The entry that the low 5 bits of each lane of `at` name.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn pick32(at: __m512i, low: __m512i, high: __m512i) -> __m512i {
        _mm512_permutex2var_epi32(low, at, high)
    }

    /// The entry that the low 6 bits of each lane of `at` name.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn pick64(at: __m512i, [a, b, c, d]: [__m512i; 4]) -> __m512i {
        let upper = _mm512_test_epi32_mask(at, _mm512_set1_epi32(32));
        _mm512_mask_blend_epi32(upper, pick32(at, a, b), pick32(at, c, d))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load512(from: &[u32; 16]) -> __m512i {
        // SAFETY: the array is as long as the vector.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn avx2(tree: &SearchTree, keys: &[u32], classes: &mut [u32]) {
        let node = |at: usize| load256(&tree.nodes.as_flattened().as_chunks().0[at / 8]);
        let class = |at: usize| load256(&tree.classes.as_flattened().as_chunks().0[at / 8]);
        let flip = _mm256_set1_epi32(FLIP.cast_signed());
        by_vector!(
            8,
            keys,
            classes,
            |keys: &[u32; 8], classes: &mut [u32; 8]| {
                let keys = _mm256_xor_si256(load256(keys), flip);
                // A compare that holds is -1.
                let down = |at, end| {
                    _mm256_sub_epi32(_mm256_add_epi32(at, at), _mm256_cmpgt_epi32(keys, end))
                };
                let mut at = _mm256_set1_epi32(1);
                for _ in 0..3 {
                    at = down(at, _mm256_permutevar8x32_epi32(node(0), at));
                }
                at = down(at, _mm256_permutevar8x32_epi32(node(8), at));
                at = down(at, pick16(at, node(16), node(24)));
                let low = pick16(at, class(0), class(8));
                let high = pick16(at, class(16), class(24));
                let found = blend(_mm256_slli_epi32::<27>(at), low, high);
                // SAFETY: the array is as long as the vector.
                unsafe { _mm256_storeu_si256(classes.as_mut_ptr().cast(), found) };
            }
        );
    }

    /// The entry that the low 4 bits of each lane of `at` name.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn pick16(at: __m256i, low: __m256i, high: __m256i) -> __m256i {
        let low = _mm256_permutevar8x32_epi32(low, at);
        let high = _mm256_permutevar8x32_epi32(high, at);
        blend(_mm256_slli_epi32::<28>(at), low, high)
    }

    /// `high` in the lanes whose top bit is set in `which`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn blend(which: __m256i, low: __m256i, high: __m256i) -> __m256i {
        let cast = _mm256_castsi256_ps;
        _mm256_castps_si256(_mm256_blendv_ps(cast(low), cast(high), cast(which)))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load256(from: &[u32; 8]) -> __m256i {
        // SAFETY: the array is as long as the vector.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }
}
