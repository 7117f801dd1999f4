//! Addresses of either family as integers, and routes.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::{BitAnd, BitOr, BitXor, Not};

use rand::Rng;
use rand::RngExt;

/// An IPv4 address as a `u32`, an IPv6 address as a `u128`.
pub trait Address:
    Copy
    + Ord
    + Hash
    + Debug
    + From<u32>
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
    + Not<Output = Self>
    + bytemuck::Pod
    + 'static
{
    /// 32 or 128.
    const BITS: u8;

    /// The address in network order.
    type Octets: bytemuck::Pod;

    /// The address in network order.
    fn octets(self) -> Self::Octets;

    /// The address as std writes it.
    fn ip(self) -> IpAddr;

    /// The address with its first 32 bits changed where `word` has ones.
    fn changed(self, word: u32) -> Self;

    /// An address whose first `len` bits are set.
    fn mask(len: u8) -> Self;

    /// The next address, if this is not the last.
    fn next(self) -> Option<Self>;

    /// Any address that may be routed: of all of IPv4, or of 2000::/3.
    fn random(rng: &mut impl Rng) -> Self;
}

impl Address for u32 {
    const BITS: u8 = 32;
    type Octets = [u8; 4];

    fn octets(self) -> [u8; 4] {
        self.to_be_bytes()
    }

    fn ip(self) -> IpAddr {
        IpAddr::from(self.to_be_bytes())
    }

    fn changed(self, word: u32) -> Self {
        self ^ word
    }

    fn mask(len: u8) -> Self {
        !Self::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn random(rng: &mut impl Rng) -> Self {
        rng.random()
    }
}

impl Address for u128 {
    const BITS: u8 = 128;
    type Octets = [u8; 16];

    fn octets(self) -> [u8; 16] {
        self.to_be_bytes()
    }

    fn ip(self) -> IpAddr {
        IpAddr::from(self.to_be_bytes())
    }

    fn changed(self, word: u32) -> Self {
        self ^ u128::from(word) << 96
    }

    fn mask(len: u8) -> Self {
        !Self::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn random(rng: &mut impl Rng) -> Self {
        rng.random::<Self>() >> 3 | 1 << 125
    }
}

/// A prefix and the class that it gives its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Route<A> {
    /// The first address.
    pub first: A,
    /// The number of leading bits that are fixed.
    pub len: u8,
    /// Above 0, which stands for "no route".
    pub class: u32,
}

impl<A: Address> Route<A> {
    /// The last address.
    pub fn last(&self) -> A {
        self.first | !A::mask(self.len)
    }

    /// Whether an address lies in the prefix.
    pub fn contains(&self, addr: A) -> bool {
        addr & A::mask(self.len) == self.first
    }

    /// Any address of the prefix.
    pub fn random(&self, rng: &mut impl Rng) -> A {
        self.first | A::random(rng) & !A::mask(self.len)
    }
}
