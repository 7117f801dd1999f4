//! DPDK's tables, as far as the benchmark of the lookup table needs them.
//!
//! Three tables for next hops above 0, which stands for "no route": [`Lpm`] is rte_lpm, [`Fib`] rte_fib (DIR-24-8),
//! [`Fib6`] rte_fib6 (a trie of 8 bits a level). Addresses are in host order, those of IPv6 sixteen octets.

use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

unsafe extern "C" {
    fn dpdk_start(megabytes: *const c_char, cpu: *const c_char) -> c_int;
    fn dpdk_allocated() -> usize;

    fn dpdk_lpm_new(name: *const c_char, rules: u32, groups: u32) -> *mut c_void;
    fn rte_lpm_add(lpm: *mut c_void, addr: u32, depth: u8, hop: u32) -> c_int;
    fn rte_lpm_delete(lpm: *mut c_void, addr: u32, depth: u8) -> c_int;
    fn rte_lpm_free(lpm: *mut c_void);
    fn dpdk_lpm_independent(lpm: *const c_void, keys: *const u32, answers: *mut u32, count: usize);
    fn dpdk_lpm_chained(
        lpm: *const c_void,
        keys: *const u32,
        answers: *mut u32,
        count: usize,
        zero: u32,
    );
    fn dpdk_lpm_bulk(lpm: *const c_void, keys: *const u32, answers: *mut u32, count: usize);
    fn dpdk_lpm_fours(lpm: *const c_void, keys: *const u32, answers: *mut u32, count: usize);

    fn dpdk_fib_new(name: *const c_char, rules: c_int, groups: u32, vector: c_int) -> *mut c_void;
    fn rte_fib_add(fib: *mut c_void, addr: u32, depth: u8, hop: u64) -> c_int;
    fn rte_fib_delete(fib: *mut c_void, addr: u32, depth: u8) -> c_int;
    fn rte_fib_free(fib: *mut c_void);
    fn dpdk_fib_independent(fib: *mut c_void, keys: *const u32, answers: *mut u64, count: usize);
    fn dpdk_fib_chained(
        fib: *mut c_void,
        keys: *const u32,
        answers: *mut u64,
        count: usize,
        zero: u32,
    );
    fn rte_fib_lookup_bulk(
        fib: *mut c_void,
        keys: *const u32,
        answers: *mut u64,
        count: c_int,
    ) -> c_int;

    fn dpdk_fib6_new(name: *const c_char, rules: c_int, groups: u32, vector: c_int) -> *mut c_void;
    fn rte_fib6_add(fib: *mut c_void, addr: *const u8, depth: u8, hop: u64) -> c_int;
    fn rte_fib6_delete(fib: *mut c_void, addr: *const u8, depth: u8) -> c_int;
    fn rte_fib6_free(fib: *mut c_void);
    fn dpdk_fib6_independent(
        fib: *mut c_void,
        keys: *const [u8; 16],
        answers: *mut u64,
        count: usize,
    );
    fn dpdk_fib6_chained(
        fib: *mut c_void,
        keys: *const [u8; 16],
        answers: *mut u64,
        count: usize,
        zero: u32,
    );
    fn rte_fib6_lookup_bulk(
        fib: *mut c_void,
        keys: *const [u8; 16],
        answers: *mut u64,
        count: c_int,
    ) -> c_int;
}

/// Bytes that all tables hold.
#[must_use]
pub fn allocated() -> usize {
    // SAFETY: asks for counters; without a started DPDK there are none.
    unsafe { dpdk_allocated() }
}

/// Starts DPDK once, on the CPU that the process runs on, and names the next table.
fn table_name() -> CString {
    static STARTED: OnceLock<()> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    STARTED.get_or_init(|| {
        let cpu = format!("{}", cpu());
        let cpu = CString::new(cpu).expect("a number has no zero byte");
        // SAFETY: two strings, which are copied; called once.
        let consumed = unsafe { dpdk_start(c"4096".as_ptr(), cpu.as_ptr()) };
        assert!(consumed >= 0, "DPDK did not start: is it allowed 4 GB?");
    });
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    CString::new(format!("table{next}")).expect("a name has no zero byte")
}

/// The CPU that this thread is on.
fn cpu() -> u32 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux has /proc");
    let after_name = stat.rsplit(')').next().expect("the name is in parentheses");
    let processor = after_name.split_whitespace().nth(36);
    processor
        .and_then(|cpu| cpu.parse().ok())
        .expect("proc(5): field 39 is the processor")
}

fn count(length: usize) -> c_int {
    length.try_into().expect("a batch is short")
}

/// An rte_lpm table.
pub struct Lpm(*mut c_void);

impl Lpm {
    /// Makes an empty table for so many prefixes, and so many blocks of 256 addresses with prefixes beyond /24.
    #[must_use]
    pub fn new(rules: u32, blocks: u32) -> Self {
        // SAFETY: the name lives through the call; DPDK is started.
        let lpm = unsafe { dpdk_lpm_new(table_name().as_ptr(), rules, blocks) };
        assert!(!lpm.is_null(), "rte_lpm_create failed");
        Self(lpm)
    }

    /// Announces a prefix.
    pub fn add(&mut self, addr: u32, len: u8, hop: u32) {
        // SAFETY: a live table, borrowed exclusively.
        let status = unsafe { rte_lpm_add(self.0, addr, len, hop) };
        assert_eq!(status, 0, "rte_lpm_add");
    }

    /// Withdraws a prefix.
    pub fn delete(&mut self, addr: u32, len: u8) {
        // SAFETY: as above.
        let status = unsafe { rte_lpm_delete(self.0, addr, len) };
        assert_eq!(status, 0, "rte_lpm_delete");
    }

    /// Looks one address up after the other.
    pub fn independent(&self, keys: &[u32], answers: &mut [u32]) {
        assert_eq!(keys.len(), answers.len());
        // SAFETY: a live table; both slices have that many elements.
        unsafe { dpdk_lpm_independent(self.0, keys.as_ptr(), answers.as_mut_ptr(), keys.len()) }
    }

    /// The same, each address by way of the answer before; `zero` is 0.
    pub fn chained(&self, keys: &[u32], answers: &mut [u32], zero: u32) {
        assert_eq!(keys.len(), answers.len());
        // SAFETY: a live table; both slices have that many elements.
        unsafe {
            dpdk_lpm_chained(
                self.0,
                keys.as_ptr(),
                answers.as_mut_ptr(),
                keys.len(),
                zero,
            )
        }
    }

    /// Looks many addresses up at once.
    pub fn bulk(&self, keys: &[u32], answers: &mut [u32]) {
        assert_eq!(keys.len(), answers.len());
        // SAFETY: a live table; both slices have that many elements.
        unsafe { dpdk_lpm_bulk(self.0, keys.as_ptr(), answers.as_mut_ptr(), keys.len()) }
    }

    /// Looks a multiple of four addresses up, four at a time.
    pub fn fours(&self, keys: &[u32], answers: &mut [u32]) {
        assert_eq!(keys.len(), answers.len());
        assert!(keys.len().is_multiple_of(4));
        // SAFETY: a live table; both slices have that many elements, a multiple of four.
        unsafe { dpdk_lpm_fours(self.0, keys.as_ptr(), answers.as_mut_ptr(), keys.len()) }
    }
}

impl Drop for Lpm {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe { rte_lpm_free(self.0) }
    }
}

macro_rules! fib {
    ($(#[$doc:meta])* $name:ident, $key:ty, $addr:ident => $pointer:expr, $new:ident, $add:ident, $delete:ident,
     $free:ident, $independent:ident, $chained:ident, $bulk:ident) => {
        $(#[$doc])*
        pub struct $name(*mut c_void);

        impl $name {
            /// Makes an empty table for so many prefixes and so many second-level blocks, with AVX-512 or without.
            ///
            /// `None` if this CPU or this DPDK has no AVX-512.
            #[must_use]
            pub fn new(rules: u32, blocks: u32, vector: bool) -> Option<Self> {
                // SAFETY: the name lives through the call; DPDK is started.
                let fib = unsafe { $new(table_name().as_ptr(), rules.cast_signed(), blocks, vector.into()) };
                assert!(vector || !fib.is_null(), "{} cannot be made", stringify!($name));
                (!fib.is_null()).then_some(Self(fib))
            }

            /// Announces a prefix.
            pub fn add(&mut self, $addr: $key, len: u8, hop: u32) {
                // SAFETY: a live table, borrowed exclusively.
                let status = unsafe { $add(self.0, $pointer, len, hop.into()) };
                assert_eq!(status, 0, stringify!($add));
            }

            /// Withdraws a prefix.
            pub fn delete(&mut self, $addr: $key, len: u8) {
                // SAFETY: a live table, borrowed exclusively.
                let status = unsafe { $delete(self.0, $pointer, len) };
                assert_eq!(status, 0, stringify!($delete));
            }

            /// Looks one address up after the other: a bulk of one, for there is no other function.
            pub fn independent(&self, keys: &[$key], answers: &mut [u64]) {
                assert_eq!(keys.len(), answers.len());
                // SAFETY: a live table; both slices have that many elements; keys are only read.
                unsafe { $independent(self.0, keys.as_ptr(), answers.as_mut_ptr(), keys.len()) }
            }

            /// The same, each address by way of the answer before; `zero` is 0.
            pub fn chained(&self, keys: &[$key], answers: &mut [u64], zero: u32) {
                assert_eq!(keys.len(), answers.len());
                // SAFETY: a live table; both slices have that many elements; keys are only read.
                unsafe { $chained(self.0, keys.as_ptr(), answers.as_mut_ptr(), keys.len(), zero) }
            }

            /// Looks many addresses up at once.
            pub fn bulk(&self, keys: &[$key], answers: &mut [u64]) {
                assert_eq!(keys.len(), answers.len());
                // SAFETY: a live table; both slices have that many elements; keys are only read.
                let status = unsafe { $bulk(self.0, keys.as_ptr(), answers.as_mut_ptr(), count(keys.len())) };
                assert_eq!(status, 0, stringify!($bulk));
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made by `new`, freed once.
                unsafe { $free(self.0) }
            }
        }
    };
}

fib!(
    /// An rte_fib table of type DIR-24-8.
    Fib, u32, addr => addr, dpdk_fib_new, rte_fib_add, rte_fib_delete, rte_fib_free,
    dpdk_fib_independent, dpdk_fib_chained, rte_fib_lookup_bulk
);

fib!(
    /// An rte_fib6 table of type TRIE.
    Fib6, [u8; 16], addr => addr.as_ptr(), dpdk_fib6_new, rte_fib6_add, rte_fib6_delete, rte_fib6_free,
    dpdk_fib6_independent, dpdk_fib6_chained, rte_fib6_lookup_bulk
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_answers() {
        let mut lpm = Lpm::new(16, 16);
        let mut fib = Fib::new(16, 16, false).expect("always there without AVX-512");
        for (addr, len, hop) in [
            (0x0a00_0000, 8, 1),
            (0x0a01_0000, 16, 2),
            (0x0a01_0180, 25, 3),
        ] {
            lpm.add(addr, len, hop);
            fib.add(addr, len, hop);
        }
        let keys = [0x0a02_0000, 0x0a01_0000, 0x0a01_01ff, 0x0b00_0000];
        let (mut narrow, mut wide) = ([0; 4], [0; 4]);
        lpm.bulk(&keys, &mut narrow);
        assert_eq!(narrow, [1, 2, 3, 0]);
        lpm.fours(&keys, &mut narrow);
        assert_eq!(narrow, [1, 2, 3, 0]);
        fib.bulk(&keys, &mut wide);
        assert_eq!(wide, [1, 2, 3, 0]);

        let mut fib6 = Fib6::new(16, 64, false).expect("always there without AVX-512");
        let addr = |first: u8, last: u8| {
            let mut octets = [0; 16];
            (octets[0], octets[15]) = (first, last);
            octets
        };
        fib6.add(addr(0x20, 0), 8, 1);
        fib6.add(addr(0x20, 7), 128, 2);
        fib6.bulk(
            &[addr(0x20, 6), addr(0x20, 7), addr(0x21, 7)],
            &mut wide[..3],
        );
        assert_eq!(wide[..3], [1, 2, 0]);
    }
}
