//! Lookups of many addresses at once, with instructions that not every x86-64 processor has.
#![allow(unsafe_code)]
#![allow(
    clippy::wildcard_imports,
    reason = "the names of intrinsics are all alike, and unlike any other"
)]

use std::arch::x86_64::*;

use super::bit_select::{BitSelectDirectory, LINE, low};
use super::block::signed;
use super::directory::LargeDirectory;
use super::two_level::{CELL_SHIFT, ClassCell, PAGE_BITS, ROOT_SHIFT, TwoLevelDirectory};

/// Compares all eight ends of a block at once.
#[target_feature(enable = "avx512f,avx512vl,popcnt,bmi2")]
pub(super) fn directory(directory: &LargeDirectory, keys: &[u32], classes: &mut [u32]) {
    for (key, class) in keys.iter().zip(classes) {
        *class = directory.lookup_by(*key, |block| {
            // SAFETY: the two halves together are as long as the vector.
            let ends = unsafe { _mm256_loadu_si256((&raw const block.ends).cast()) };
            let below = _mm256_cmplt_epi32_mask(ends, _mm256_set1_epi32(signed(*key)));
            block.classes[below.count_ones() as usize & 7]
        });
    }
}

/// Gathers eight pages, then eight cells.
#[target_feature(enable = "avx2")]
pub(super) fn pages<C: ClassCell>(pages: &TwoLevelDirectory<C>, keys: &[u32], classes: &mut [u32]) {
    let (keys, keys_left) = keys.as_chunks::<8>();
    let (classes, classes_left) = classes.as_chunks_mut::<8>();
    let in_page = _mm256_set1_epi32((1 << PAGE_BITS) - 1);
    let bits = _mm256_set1_epi32(C::SPLIT.class().cast_signed());
    for (keys, classes) in keys.iter().zip(classes) {
        // SAFETY: the array is as long as the vector.
        let key = unsafe { _mm256_loadu_si256(keys.as_ptr().cast()) };
        let place = _mm256_srli_epi32::<{ ROOT_SHIFT.cast_signed() }>(key);
        // SAFETY: the root has a place for all that the shift leaves of a key.
        let page = unsafe { _mm256_i32gather_epi32::<4>(pages.root.as_ptr().cast(), place) };
        let cell = _mm256_and_si256(
            _mm256_srli_epi32::<{ CELL_SHIFT.cast_signed() }>(key),
            in_page,
        );
        let at = _mm256_add_epi32(page, cell);
        let cells = pages.cells.as_ptr().cast();
        // SAFETY: every place in the root begins a whole page, and behind the last one cells are left for what is read
        // beyond the one that is wanted.
        let read = unsafe {
            match size_of::<C>() {
                1 => _mm256_i32gather_epi32::<1>(cells, at),
                2 => _mm256_i32gather_epi32::<2>(cells, at),
                _ => _mm256_i32gather_epi32::<4>(cells, at),
            }
        };
        let found = _mm256_and_si256(read, bits);
        // SAFETY: the array is as long as the vector.
        unsafe { _mm256_storeu_si256(classes.as_mut_ptr().cast(), found) };
        let split = _mm256_castsi256_ps(_mm256_cmpeq_epi32(found, bits));
        let mut split = _mm256_movemask_ps(split);
        while split != 0 {
            let lane = split.trailing_zeros() as usize;
            classes[lane] = pages.split.class(keys[lane]);
            split &= split - 1;
        }
    }
    for (key, class) in keys_left.iter().zip(classes_left) {
        *class = pages.lookup(*key);
    }
}

/// Compares each key with a whole line at once.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2,popcnt")]
pub(super) fn bit_select_avx512(directory: &BitSelectDirectory, keys: &[u32], classes: &mut [u32]) {
    for (key, class) in keys.iter().zip(classes) {
        *class = directory.lookup_by(*key, |line| {
            // SAFETY: the two halves together are as long as the vector.
            let ends = unsafe { _mm256_loadu_si256((&raw const line.ends).cast()) };
            let below = _mm256_cmplt_epi16_mask(ends, _mm256_set1_epi16(low(*key)));
            line.classes[below.count_ones() as usize & (LINE - 1)].into()
        });
    }
}

/// Compares each key with a whole line at once.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(super) fn bit_select_avx2(directory: &BitSelectDirectory, keys: &[u32], classes: &mut [u32]) {
    for (key, class) in keys.iter().zip(classes) {
        *class = directory.lookup_by(*key, |line| {
            // SAFETY: the two halves together are as long as the vector.
            let ends = unsafe { _mm256_loadu_si256((&raw const line.ends).cast()) };
            let below = _mm256_cmpgt_epi16(_mm256_set1_epi16(low(*key)), ends);
            // Two bits for each end.
            let bits = _mm256_movemask_epi8(below).count_ones() as usize;
            line.classes[(bits / 2) & (LINE - 1)].into()
        });
    }
}
