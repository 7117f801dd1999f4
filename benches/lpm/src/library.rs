//! What the benchmark asks of a library, and the loops that are timed.

use std::hint::black_box;

use crate::route::{Address, Route};

/// How addresses follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One call an address; the core may overlap them.
    Independent,
    /// One call an address, and each address is known only after the answer before.
    Chained,
    /// One call a batch.
    Bulk,
}

/// Who made it, for the ratios.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// voicelane, what the data path asks.
    Compiled,
    /// voicelane, what it is compiled from.
    Changing,
    /// A crate.
    Crate,
    /// DPDK.
    #[cfg(feature = "dpdk")]
    Dpdk,
    /// What anyone would write first.
    Baseline,
}

/// What came of withdrawing a route and announcing it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flap {
    /// The table is as before.
    Done,
    /// The table does not change: it is built anew.
    Rebuild,
    /// The library errs.
    Broken,
}

/// A longest-prefix-match table of a library that is written in Rust.
pub trait Library<A: Address>: Sized + 'static {
    /// The routes in the library's own words.
    type Routes;

    /// Whether there is a call for a whole batch.
    const BULK: bool = false;

    /// Puts routes into the library's words, which is not timed.
    fn routes(routes: &[Route<A>]) -> Self::Routes;

    /// Builds the table.
    fn build(routes: &Self::Routes) -> Self;

    /// The class of an address, 0 if it has no route.
    fn lookup(&self, addr: A) -> u32;

    /// Looks a batch up; the answers may stay with the library until [`Library::settle`].
    fn lookup_bulk(&self, addrs: &[A], answers: &mut [u32]) {
        for (answer, addr) in answers.iter_mut().zip(addrs) {
            *answer = self.lookup(*addr);
        }
    }

    /// Brings the answers of a bulk lookup, if they are not there yet; not timed.
    fn settle(&self, _answers: &mut [u32]) {}

    /// Withdraws a route and announces it again.
    fn flap(&mut self, _route: &Route<A>) -> Flap {
        Flap::Rebuild
    }
}

/// A batch of addresses, in both orders of octets.
#[derive(Clone, Copy)]
pub struct Batch<'a, A: Address> {
    /// As integers.
    pub keys: &'a [A],
    /// As octets in network order.
    #[cfg_attr(
        not(feature = "dpdk"),
        expect(dead_code, reason = "only DPDK asks for octets")
    )]
    pub octets: &'a [A::Octets],
}

/// A table that has been built: the timed loops around it.
pub trait Subject<A: Address> {
    /// Whether there is a call for a whole batch.
    fn has_bulk(&self) -> bool;

    /// Looks a batch up.
    fn run(&self, mode: Mode, batch: Batch<'_, A>, answers: &mut [u32]);

    /// Brings the answers of a batch, if they are not there yet; not timed.
    fn settle(&self, mode: Mode, answers: &mut [u32]);

    /// Withdraws a route and announces it again.
    fn flap(&mut self, route: &Route<A>) -> Flap;
}

#[inline(never)]
fn independent<A: Address, L: Library<A>>(library: &L, keys: &[A], answers: &mut [u32]) {
    for (answer, key) in answers.iter_mut().zip(keys) {
        *answer = library.lookup(*key);
    }
}

#[inline(never)]
fn chained<A: Address, L: Library<A>>(library: &L, keys: &[A], answers: &mut [u32]) {
    let zero = black_box(0);
    let mut last = 0;
    for (answer, key) in answers.iter_mut().zip(keys) {
        last = library.lookup(key.changed(last & zero));
        *answer = last;
    }
}

impl<A: Address, L: Library<A>> Subject<A> for L {
    fn has_bulk(&self) -> bool {
        L::BULK
    }

    fn run(&self, mode: Mode, batch: Batch<'_, A>, answers: &mut [u32]) {
        match mode {
            Mode::Independent => independent(self, batch.keys, answers),
            Mode::Chained => chained(self, batch.keys, answers),
            Mode::Bulk => self.lookup_bulk(batch.keys, answers),
        }
    }

    fn settle(&self, mode: Mode, answers: &mut [u32]) {
        if mode == Mode::Bulk {
            Library::settle(self, answers);
        }
    }

    fn flap(&mut self, route: &Route<A>) -> Flap {
        Library::flap(self, route)
    }
}
