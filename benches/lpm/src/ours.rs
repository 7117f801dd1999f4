//! voicelane's own tables: the one place that knows their API.

use std::net::IpAddr;

use voicelane::lpm::{LookupTable, PrefixTable};
use voicelane::net::Prefix;

use crate::library::{Flap, Library};
use crate::route::{Address, Route};

fn prefix<A: Address>(route: &Route<A>) -> Prefix {
    Prefix::new(route.first.ip(), route.len).expect("a route has no host bits")
}

fn prefix_table<A: Address>(routes: &[Route<A>]) -> PrefixTable<u32> {
    routes
        .iter()
        .map(|route| (prefix(route), route.class))
        .collect()
}

/// The compiled table of the data path.
pub struct Compiled(LookupTable<u32>);

impl<A: Address + Into<Ip> + Classified> Library<A> for Compiled {
    type Routes = PrefixTable<u32>;

    const BULK: bool = true;

    fn routes(routes: &[Route<A>]) -> Self::Routes {
        prefix_table(routes)
    }

    fn build(table: &Self::Routes) -> Self {
        Self(LookupTable::new(table))
    }

    #[inline]
    fn lookup(&self, addr: A) -> u32 {
        let Ip(addr) = addr.into();
        self.0.lookup(addr).unwrap_or(0)
    }

    fn lookup_bulk(&self, addrs: &[A], answers: &mut [u32]) {
        A::classify(&self.0, addrs, answers);
        for answer in answers {
            *answer = self.0.value(*answer).unwrap_or(0);
        }
    }
}

/// An address that a compiled table looks up in bulk as a number.
pub trait Classified: Address {
    /// Looks a batch up; the answers are for [`LookupTable::value`].
    fn classify(table: &LookupTable<u32>, addrs: &[Self], classes: &mut [u32]);
}

impl Classified for u32 {
    fn classify(table: &LookupTable<u32>, addrs: &[Self], classes: &mut [u32]) {
        table.classify_v4(addrs, classes);
    }
}

impl Classified for u128 {
    fn classify(table: &LookupTable<u32>, addrs: &[Self], classes: &mut [u32]) {
        table.classify_v6(addrs, classes);
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

    #[inline]
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
