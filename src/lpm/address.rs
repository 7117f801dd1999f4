//! The types of address that a bulk lookup accepts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::v4::Ipv4Engine;
use super::v6::Ipv6Engine;

/// The number of addresses between two passes over their values: both stay in the L1 cache.
pub(super) const BATCH: usize = 256;

/// The engines of a table, one for each family.
#[derive(Clone)]
pub struct Engines {
    pub(super) v4: Ipv4Engine,
    pub(super) v6: Ipv6Engine,
}

/// A type of address that [`LookupTable::lookup_batch`](super::LookupTable::lookup_batch) accepts.
///
/// `u32` is an IPv4 address and `u128` an IPv6 address, both in host order.
pub trait Address: Copy + sealed::Classify {}

impl Address for Ipv4Addr {}
impl Address for Ipv6Addr {}
impl Address for IpAddr {}
impl Address for u32 {}
impl Address for u128 {}

pub(super) mod sealed {
    use super::Engines;

    /// Looks up addresses of one type.
    pub trait Classify: Sized {
        /// Looks up at most `BATCH` addresses; both slices have one length.
        #[doc(hidden)]
        fn classify(engines: &Engines, addrs: &[Self], classes: &mut [u32]);
    }
}

impl sealed::Classify for u32 {
    fn classify(engines: &Engines, addrs: &[Self], classes: &mut [u32]) {
        engines.v4.lookup_batch(addrs, classes);
    }
}

impl sealed::Classify for u128 {
    fn classify(engines: &Engines, addrs: &[Self], classes: &mut [u32]) {
        engines.v6.lookup_batch(addrs, classes);
    }
}

impl sealed::Classify for Ipv4Addr {
    fn classify(engines: &Engines, addrs: &[Self], classes: &mut [u32]) {
        let mut keys = [0; BATCH];
        let keys = &mut keys[..addrs.len()];
        for (key, addr) in keys.iter_mut().zip(addrs) {
            *key = addr.to_bits();
        }
        engines.v4.lookup_batch(keys, classes);
    }
}

impl sealed::Classify for Ipv6Addr {
    fn classify(engines: &Engines, addrs: &[Self], classes: &mut [u32]) {
        let mut keys = [0; BATCH];
        let keys = &mut keys[..addrs.len()];
        for (key, addr) in keys.iter_mut().zip(addrs) {
            *key = addr.to_bits();
        }
        engines.v6.lookup_batch(keys, classes);
    }
}

impl sealed::Classify for IpAddr {
    /// Looks up each family by itself and restores the order.
    fn classify(engines: &Engines, addrs: &[Self], classes: &mut [u32]) {
        let (mut keys4, mut keys6, mut found) = ([0; BATCH], [0; BATCH], [0; BATCH]);
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
        let (classes4, classes6) = found.split_at_mut(count4);
        engines.v4.lookup_batch(&keys4[..count4], classes4);
        engines
            .v6
            .lookup_batch(&keys6[..count6], &mut classes6[..count6]);
        let (mut classes4, mut classes6) = (classes4.iter(), classes6.iter());
        for (addr, class) in addrs.iter().zip(classes) {
            let found = if addr.is_ipv4() {
                &mut classes4
            } else {
                &mut classes6
            };
            *class = *found.next().expect("one class for each address");
        }
    }
}
