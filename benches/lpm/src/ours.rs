//! voicelane's own tables: the one place that knows their API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use voicelane::lpm::{Level, LookupTable, PrefixTable};
use voicelane::net::Prefix;

use crate::library::{Flap, Library};
use crate::route::{Address, Route};

fn prefix<A: Address>(route: &Route<A>) -> Prefix {
    Prefix::new(route.first.ip(), route.len).expect("a route has no host bits")
}

/// The compiled table of the data path, with AVX-512 or without.
pub struct Compiled<const AVX512: bool>(LookupTable<NonZeroU32>);

impl<A: Classified, const AVX512: bool> Library<A> for Compiled<AVX512> {
    type Routes = PrefixTable<NonZeroU32>;

    const BULK: bool = true;

    fn routes(routes: &[Route<A>]) -> Self::Routes {
        let class = |route: &Route<A>| NonZeroU32::new(route.class).expect("0 is no route");
        let routes = routes.iter().map(|route| (prefix(route), class(route)));
        routes.collect()
    }

    fn build(table: &Self::Routes) -> Self {
        let level = if AVX512 { Level::Avx512 } else { Level::Avx2 };
        Self(LookupTable::with_level(table, level))
    }

    #[inline(always)]
    fn lookup(&self, addr: A) -> u32 {
        A::find(&self.0, addr).map_or(0, NonZeroU32::get)
    }

    fn lookup_bulk(&self, addrs: &[A], answers: &mut [u32]) {
        self.0
            .lookup_batch(addrs, bytemuck::cast_slice_mut(answers));
    }
}

/// An address, a number, that a compiled table looks up.
pub trait Classified: Address + voicelane::lpm::Address {
    /// Looks one up.
    fn find(table: &LookupTable<NonZeroU32>, addr: Self) -> Option<NonZeroU32>;
}

impl Classified for u32 {
    #[inline(always)]
    fn find(table: &LookupTable<NonZeroU32>, addr: Self) -> Option<NonZeroU32> {
        table.lookup_v4(Ipv4Addr::from_bits(addr))
    }
}

impl Classified for u128 {
    #[inline(always)]
    fn find(table: &LookupTable<NonZeroU32>, addr: Self) -> Option<NonZeroU32> {
        table.lookup_v6(Ipv6Addr::from_bits(addr))
    }
}

/// The table that is changed.
pub struct Mutable(PrefixTable<u32>);

impl<A: Address + Into<Ip>> Library<A> for Mutable {
    type Routes = Vec<(Prefix, u32)>;

    fn routes(routes: &[Route<A>]) -> Self::Routes {
        routes
            .iter()
            .map(|route| (prefix(route), route.class))
            .collect()
    }

    fn build(routes: &Self::Routes) -> Self {
        Self(routes.iter().copied().collect())
    }

    #[inline(always)]
    fn lookup(&self, addr: A) -> u32 {
        let Ip(addr) = addr.into();
        self.0.longest_match(addr).map_or(0, |(_, class)| *class)
    }

    fn flap(&mut self, route: &Route<A>) -> Flap {
        let prefix = prefix(route);
        self.0.remove(prefix);
        self.0.insert(prefix, route.class);
        Flap::Done
    }
}

/// An address as std writes it: a lookup takes either family.
pub struct Ip(IpAddr);

impl From<u32> for Ip {
    fn from(addr: u32) -> Self {
        Self(addr.ip())
    }
}

impl From<u128> for Ip {
    fn from(addr: u128) -> Self {
        Self(addr.ip())
    }
}
