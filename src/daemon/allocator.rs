//! Has the allocator give back what is large once it is not needed any more.
//!
//! A status of thousands of mappings takes megabytes for a moment. By itself glibc takes what was given back once for a
//! sign that as much will be wanted again: it raises the sizes from which memory comes straight from the kernel, and from
//! which what is free goes back there, up to 32 and 64 MiB. To set one of the two keeps both.

#![allow(unsafe_code)]

#[cfg(target_env = "gnu")]
use nix::libc;

/// The size in bytes from which memory comes from the kernel by itself and goes back at once: glibc's own at the start.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;

/// Keeps the allocator from keeping more as time goes by. To be called before other threads are made.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only sets a number of the allocator's, and no other thread allocates.
    let is_set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    #[cfg(target_env = "gnu")]
    debug_assert_eq!(is_set, 1, "far below the limit");
}
