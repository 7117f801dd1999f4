//! What addresses may be looked up in bulk as.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::LookupTable;
use super::lookup_table::BATCH;

/// An address of one family, or of either; a number stands for an address of its family, in host order.
pub trait Address: Copy + sealed::Classify {}

impl Address for Ipv4Addr {}
impl Address for Ipv6Addr {}
impl Address for IpAddr {}
impl Address for u32 {}
impl Address for u128 {}

pub(super) mod sealed {
    use super::LookupTable;

    pub trait Classify: Sized {
        /// Looks up at most `BATCH` addresses; both slices have one length.
        #[doc(hidden)]
        fn classify<V: Copy>(table: &LookupTable<V>, addrs: &[Self], classes: &mut [u32]);
    }
}

impl sealed::Classify for u32 {
    fn classify<V: Copy>(table: &LookupTable<V>, addrs: &[Self], classes: &mut [u32]) {
        table.v4.lookup_batch(addrs, classes);
    }
}

impl sealed::Classify for u128 {
    fn classify<V: Copy>(table: &LookupTable<V>, addrs: &[Self], classes: &mut [u32]) {
        table.v6.lookup_batch(addrs, classes);
    }
}

impl sealed::Classify for Ipv4Addr {
    fn classify<V: Copy>(table: &LookupTable<V>, addrs: &[Self], classes: &mut [u32]) {
        let mut keys = [0; BATCH];
        let keys = &mut keys[..addrs.len()];
        for (key, addr) in keys.iter_mut().zip(addrs) {
            *key = addr.to_bits();
        }
        table.v4.lookup_batch(keys, classes);
    }
}

impl sealed::Classify for Ipv6Addr {
    fn classify<V: Copy>(table: &LookupTable<V>, addrs: &[Self], classes: &mut [u32]) {
        let mut keys = [0; BATCH];
        let keys = &mut keys[..addrs.len()];
        for (key, addr) in keys.iter_mut().zip(addrs) {
            *key = addr.to_bits();
        }
        table.v6.lookup_batch(keys, classes);
    }
}

impl sealed::Classify for IpAddr {
    /// Sorts the addresses by family, and the answers back.
    fn classify<V: Copy>(table: &LookupTable<V>, addrs: &[Self], classes: &mut [u32]) {
        let (mut keys4, mut keys6, mut answers) = ([0; BATCH], [0; BATCH], [0; BATCH]);
        let (mut count4, mut count6) = (0, 0);
        for addr in addrs {
            match addr {
                IpAddr::V4(addr) => {
                    keys4[count4] = addr.to_bits();
                    count4 += 1;
                }
                IpAddr::V6(addr) => {
                    keys6[count6] = addr.to_bits();
                    count6 += 1;
                }
            }
        }
        let (answers4, answers6) = answers.split_at_mut(count4);
        table.v4.lookup_batch(&keys4[..count4], answers4);
        table
            .v6
            .lookup_batch(&keys6[..count6], &mut answers6[..count6]);
        let (mut answers4, mut answers6) = (answers4.iter(), answers6.iter());
        for (addr, class) in addrs.iter().zip(classes) {
            let answers = if addr.is_ipv4() {
                &mut answers4
            } else {
                &mut answers6
            };
            *class = *answers.next().expect("an answer for each question");
        }
    }
}
