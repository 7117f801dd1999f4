//! Makes glibc return large freed allocations to the kernel.
//!
//! A status with thousands of mappings needs megabytes for a moment. After a large free, glibc raises its thresholds up
//! to 64 MiB and keeps the memory. Setting one threshold fixes both (mallopt(3)).

#![allow(unsafe_code)]

#[cfg(target_env = "gnu")]
use nix::libc;

/// The size of large allocations, in bytes: glibc's initial threshold.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;

/// Fixes the thresholds. Must be called before other threads start.
pub(super) fn return_large_allocations() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call sets a parameter of the allocator, and no other thread allocates.
    let is_set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    #[cfg(target_env = "gnu")]
    debug_assert_eq!(is_set, 1, "the value is valid");
}
