//! The searches with AVX2 and AVX-512.
//!
//! A function with `#[target_feature]` is compiled for those instructions and cannot be inlined where they are not
//! given; the generic searches, `#[inline(always)]`, are compiled into it with the kernel's instructions.
#![allow(unsafe_code)]
#![allow(
    clippy::wildcard_imports,
    reason = "the names of intrinsics are all alike, and unlike any other"
)]

use std::arch::x86_64::*;

use super::bit_select::BitSelectTree;
use super::bplus_tree::{BPlusNode, BPlusTree, LeafNode, NodeCompare};
use super::eytzinger::{EytzingerSearch, SHALLOW};
use super::wrapped_intervals::{ClassOrBlock, high};
use super::{Level, portable};

const LINE: usize = 64;
const WORDS: usize = LINE / size_of::<i32>();

/// A mask of a node's boundaries among its words.
const fn boundaries<N: BPlusNode>() -> u32 {
    const { assert!(size_of::<N>() == 2 * LINE && align_of::<N>() >= LINE && N::ENDS < 32) };
    (1 << N::ENDS) - 1
}

/// The processor has AVX2, BMI1, BMI2 and POPCNT where a function of this kernel runs.
struct Avx2;

impl NodeCompare for Avx2 {
    #[inline(always)]
    fn passed<N: BPlusNode>(node: &N, low: i32) -> usize {
        let words: *const __m256i = (&raw const *node).cast();
        // SAFETY: a node is four aligned vectors, each byte of them a number's; the kernel runs with AVX2.
        let passed = |vector: usize| unsafe {
            let greater =
                _mm256_cmpgt_epi32(_mm256_set1_epi32(low), _mm256_load_si256(words.add(vector)));
            _mm256_movemask_ps(_mm256_castsi256_ps(greater)).cast_unsigned() << (8 * vector)
        };
        let mut mask = passed(0) | passed(1);
        if N::ENDS > WORDS {
            mask |= passed(2) | passed(3);
        }
        (mask & boundaries::<N>()).count_ones() as usize
    }

    #[inline(always)]
    fn prefetch<T>(slice: &[T], index: usize) {
        prefetch(slice, index);
    }
}

/// The processor has AVX-512 F, BW, DQ, VL and all of [`Avx2`] where a function of this kernel runs.
struct Avx512;

impl NodeCompare for Avx512 {
    #[inline(always)]
    fn passed<N: BPlusNode>(node: &N, low: i32) -> usize {
        let words: *const __m512i = (&raw const *node).cast();
        // SAFETY: a node is two aligned vectors, each byte of them a number's; the kernel runs with AVX-512.
        let passed = |vector: usize| unsafe {
            let line = _mm512_load_si512(words.add(vector));
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the mask of one vector's words"
            )]
            let ends = (boundaries::<N>() >> (vector * WORDS)) as u16;
            let passed = _mm512_mask_cmplt_epi32_mask(ends, line, _mm512_set1_epi32(low));
            passed.count_ones() as usize
        };
        // Counting twice is sooner done than joining the masks.
        if N::ENDS > WORDS {
            passed(0) + passed(1)
        } else {
            passed(0)
        }
    }

    #[inline(always)]
    fn prefetch<T>(slice: &[T], index: usize) {
        prefetch(slice, index);
    }
}

#[inline(always)]
fn prefetch<T>(slice: &[T], index: usize) {
    let line: *const i8 = slice.as_ptr().wrapping_add(index).cast();
    // SAFETY: a prefetch is a hint, at any address.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(line);
        if size_of::<T>() > LINE {
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(LINE));
        }
    }
}

/// The outcome of the interval that holds `at`; `level` is at most the processor's.
#[inline]
pub(super) fn tree_lookup<L: LeafNode>(level: Level, tree: &BPlusTree<L>, at: u64) -> ClassOrBlock {
    match level {
        // SAFETY: the processor has what the function is compiled for.
        Level::Avx512 => unsafe { lookup_avx512(tree, at) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { lookup_avx2(tree, at) },
        Level::Portable => portable::tree_lookup(level, tree, at),
    }
}

/// The outcomes of the intervals that hold `keys`, as bits; `level` is at most the processor's.
pub(super) fn tree_batch<L: LeafNode>(
    level: Level,
    tree: &BPlusTree<L>,
    base: u64,
    keys: &[u128],
    out: &mut [u32],
) {
    match level {
        // SAFETY: the processor has what the function is compiled for.
        Level::Avx512 => unsafe { batch_avx512(tree, base, keys, out) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { batch_avx2(tree, base, keys, out) },
        Level::Portable => portable::tree_batch(level, tree, base, keys, out),
    }
}

/// The outcomes of the intervals that hold `keys`, as bits; `level` is at most the processor's.
pub(super) fn eytzinger_batch(
    level: Level,
    eytzinger: &EytzingerSearch,
    base: u64,
    keys: &[u128],
    out: &mut [u32],
) {
    match level {
        // SAFETY: the processor has what the function is compiled for.
        Level::Avx512 if eytzinger.levels == SHALLOW => unsafe {
            eytzinger_batch_avx512::<false>(eytzinger, base, keys, out);
        },
        // SAFETY: as above.
        Level::Avx512 => unsafe { eytzinger_batch_avx512::<true>(eytzinger, base, keys, out) },
        // Without a permute of 16 lanes, vectors gain nothing.
        Level::Avx2 | Level::Portable => {
            portable::eytzinger_batch(level, eytzinger, base, keys, out);
        }
    }
}

/// The outcomes of the intervals that hold `keys`, as bits; `level` is at most the processor's.
pub(super) fn bit_select_batch(
    level: Level,
    tree: &BitSelectTree,
    base: u64,
    keys: &[u128],
    out: &mut [u32],
) {
    match level {
        // SAFETY: the processor has what the function is compiled for.
        Level::Avx512 => unsafe { bit_select_avx512(tree, base, keys, out) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { bit_select_avx2(tree, base, keys, out) },
        Level::Portable => portable::bit_select_batch(level, tree, base, keys, out),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
fn bit_select_avx512(tree: &BitSelectTree, base: u64, keys: &[u128], out: &mut [u32]) {
    for (key, out) in keys.iter().zip(out) {
        let at = high(*key).wrapping_sub(base);
        let outcome = tree.lookup_by(at, |line| {
            // SAFETY: a line is one aligned vector, each byte of it a number's.
            let words = unsafe { _mm512_load_si512((&raw const *line).cast()) };
            let at = _mm512_set1_epi64(at.cast_signed());
            // The ends are the first six words.
            _mm512_mask_cmplt_epu64_mask(0b11_1111, words, at).count_ones() as usize
        });
        *out = outcome.cast_unsigned();
    }
}

/// The search for any processor, with shifts that set no flags.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn bit_select_avx2(tree: &BitSelectTree, base: u64, keys: &[u128], out: &mut [u32]) {
    for (key, out) in keys.iter().zip(out) {
        *out = tree.lookup(high(*key).wrapping_sub(base)).cast_unsigned();
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn lookup_avx2<L: LeafNode>(tree: &BPlusTree<L>, at: u64) -> ClassOrBlock {
    tree.lookup::<Avx2>(at)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
fn lookup_avx512<L: LeafNode>(tree: &BPlusTree<L>, at: u64) -> ClassOrBlock {
    tree.lookup::<Avx512>(at)
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
fn batch_avx2<L: LeafNode>(tree: &BPlusTree<L>, base: u64, keys: &[u128], out: &mut [u32]) {
    tree.lookup_batch::<Avx2>(base, keys, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
fn batch_avx512<L: LeafNode>(tree: &BPlusTree<L>, base: u64, keys: &[u128], out: &mut [u32]) {
    tree.lookup_batch::<Avx512>(base, keys, out);
}

/// [`EytzingerSearch::lookup`] for 16 keys at a time, the upper five levels in registers.
///
/// Each 64-bit lane walks down by itself: a permute, or below a gather, fetches its node, and the comparison's outcome
/// is the next bit of its path.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi1,bmi2,popcnt")]
fn eytzinger_batch_avx512<const LONG: bool>(
    eytzinger: &EytzingerSearch,
    base: u64,
    keys: &[u128],
    out: &mut [u32],
) {
    const UPPER: usize = 1 << SHALLOW;
    let upper: &[u64; UPPER] = eytzinger.nodes.first_chunk().expect("five levels at least");
    let first: &[i32; UPPER] = eytzinger
        .outcomes
        .first_chunk()
        .expect("five levels at least");
    // SAFETY: 32 nodes of 64 bits are four vectors, 32 outcomes of 32 bits are two; loadu asks for no alignment.
    let (nodes, outcomes): ([_; UPPER / 8], [_; UPPER / 16]) = unsafe {
        (
            std::array::from_fn(|at| _mm512_loadu_si512(upper.as_ptr().add(8 * at).cast())),
            std::array::from_fn(|at| _mm512_loadu_si512(first.as_ptr().add(16 * at).cast())),
        )
    };
    let root = _mm512_set1_epi64(upper[1].cast_signed());
    let bases = _mm512_set1_epi64(base.cast_signed());
    let (one, two) = (_mm512_set1_epi64(1), _mm512_set1_epi64(2));
    let down = |path, node, at| {
        let left = _mm512_add_epi64(path, path);
        _mm512_mask_add_epi64(left, _mm512_cmplt_epu64_mask(node, at), left, one)
    };
    let paths = |high: [__m512i; 2]| {
        let at = high.map(|high| _mm512_sub_epi64(high, bases));
        let mut paths = at.map(|at| {
            let mut path = _mm512_mask_add_epi64(two, _mm512_cmplt_epu64_mask(root, at), two, one);
            for level in 1..SHALLOW {
                // The first 16 nodes are the upper four levels. A permute looks at four bits of a path.
                let half = if level < 4 { 0 } else { 2 };
                let node = _mm512_permutex2var_epi64(nodes[half], path, nodes[half + 1]);
                path = down(path, node, at);
            }
            path
        });
        if LONG {
            for _ in SHALLOW..eytzinger.levels {
                for (path, at) in paths.iter_mut().zip(at) {
                    // SAFETY: above the last level, a path is a node's place.
                    let node = unsafe {
                        _mm512_i64gather_epi64::<8>(*path, eytzinger.nodes.as_ptr().cast())
                    };
                    *path = down(*path, node, at);
                }
            }
        }
        _mm512_or_si512(paths[0], _mm512_slli_epi64::<32>(paths[1]))
    };
    let intervals = _mm512_set1_epi32((1 << eytzinger.levels) - 1);
    // Where the interleaving below leaves the outcomes of keys 0 to 15.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15);
    let (sixteens, rest) = keys.as_chunks::<16>();
    let (out_sixteens, out_rest) = out.as_chunks_mut::<16>();
    for (keys, out) in sixteens.iter().zip(out_sixteens) {
        // SAFETY: 16 keys are four vectors.
        let key =
            |vector: usize| unsafe { _mm512_loadu_si512(keys.as_ptr().add(4 * vector).cast()) };
        let paths = paths([
            _mm512_unpackhi_epi64(key(0), key(1)),
            _mm512_unpackhi_epi64(key(2), key(3)),
        ]);
        let found = if LONG {
            let interval = _mm512_and_si512(paths, intervals);
            // SAFETY: below the last level, a path's low bits are an interval's place.
            unsafe { _mm512_i32gather_epi32::<4>(interval, eytzinger.outcomes.as_ptr().cast()) }
        } else {
            _mm512_permutex2var_epi32(outcomes[0], paths, outcomes[1])
        };
        let found = _mm512_permutexvar_epi32(order, found);
        // SAFETY: 16 outcomes are a vector.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), found) };
    }
    portable::eytzinger_batch(Level::Avx512, eytzinger, base, rest, out_rest);
}
