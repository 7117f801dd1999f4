//! The comparisons of blocks and lines in the vectors that every x86-64 processor has.
//!
//! They are inlined into any caller. Wider vectors would need a function call, which costs more than they save.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, _mm_castsi128_ps, _mm_cmpgt_epi16, _mm_cmpgt_epi32, _mm_loadu_si128,
    _mm_movemask_epi8, _mm_movemask_ps, _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi16,
    _mm_set1_epi32,
};

/// A bit for each end below `key`.
#[inline]
pub(super) fn mask4(ends: &[i32; 4], key: i32) -> usize {
    // SAFETY: SSE2 belongs to x86-64.
    let mask = unsafe { _mm_movemask_ps(_mm_castsi128_ps(below(ends, key))) };
    mask.cast_unsigned() as usize
}

/// The number of ends below `key`, of ends in order.
#[inline]
pub(super) fn count8(ends: &[[i32; 4]; 2], key: i32) -> usize {
    let [low, high] = ends;
    // SAFETY: SSE2 belongs to x86-64.
    let mask = unsafe { _mm_movemask_epi8(_mm_packs_epi32(below(low, key), below(high, key))) };
    // Two bits for each end, the ones below in front.
    (mask.cast_unsigned() + 1).trailing_zeros() as usize / 2
}

/// The number of ends below `key`, of ends in order; the last is the highest number.
#[inline]
pub(super) fn count16(ends: &[[i16; 8]; 2], key: i16) -> usize {
    // SAFETY: SSE2 belongs to x86-64, and each array is as long as the vector.
    let mask = unsafe {
        let key = _mm_set1_epi16(key);
        let [low, high] = ends
            .each_ref()
            .map(|ends| _mm_cmpgt_epi16(key, _mm_loadu_si128(ends.as_ptr().cast())));
        _mm_movemask_epi8(_mm_packs_epi16(low, high))
    };
    // One bit for each end, the ones below in front.
    (mask.cast_unsigned() + 1).trailing_zeros() as usize
}

/// All bits of a lane for each end below `key`.
#[inline]
fn below(ends: &[i32; 4], key: i32) -> __m128i {
    // SAFETY: SSE2 belongs to x86-64, and the array is as long as the vector.
    unsafe { _mm_cmpgt_epi32(_mm_set1_epi32(key), _mm_loadu_si128(ends.as_ptr().cast())) }
}
