//! DPDK's tables. Their loops are C, for their lookups are inline functions of C.

use std::cell::RefCell;
use std::collections::HashSet;
use std::hint::black_box;

use dpdk::{Fib, Fib6, Lpm};

use crate::library::{Batch, Flap, Mode, Subject};
use crate::route::{Address, Route};
use crate::stream::BATCH;

/// Blocks of 256 addresses that rte_lpm and rte_fib need: one for each /24 with longer prefixes inside.
fn blocks_v4(routes: &[Route<u32>]) -> u32 {
    let longer = routes.iter().filter(|route| route.len > 24);
    let blocks: HashSet<u32> = longer.map(|route| route.first & u32::mask(24)).collect();
    counted(blocks.len())
}

/// Blocks of 256 cells that rte_fib6 reserves: for each prefix one for each level of 8 bits, after the first 24, that the
/// prefix around it does not reach. It shares them between neighbours, but counts them once for each.
fn blocks_v6(routes: &[Route<u128>]) -> u32 {
    let levels = |route: &Route<u128>| usize::from(route.len.saturating_sub(24).div_ceil(8));
    let mut around: Vec<&Route<u128>> = Vec::new();
    let reserved = routes.iter().map(|route| {
        while around
            .pop_if(|outer| !outer.contains(route.first))
            .is_some()
        {}
        let reached = around.last().map_or(0, |outer| levels(outer));
        around.push(route);
        levels(route) - reached
    });
    counted(reserved.sum())
}

/// A change of a table takes a few more for a moment.
fn counted(count: usize) -> u32 {
    u32::try_from(count).expect("DPDK counts by u32") + 16
}

/// rte_lpm.
pub struct RteLpm {
    lpm: Lpm,
    fours: bool,
}

impl RteLpm {
    /// Builds the table, for bulk lookups of whole batches or of four addresses at a time.
    pub fn build(routes: &[Route<u32>], fours: bool) -> Self {
        let mut lpm = Lpm::new(counted(routes.len()), blocks_v4(routes));
        for route in routes {
            lpm.add(route.first, route.len, route.class);
        }
        Self { lpm, fours }
    }
}

impl Subject<u32> for RteLpm {
    fn has_bulk(&self) -> bool {
        true
    }

    fn run(&self, mode: Mode, batch: Batch<'_, u32>, answers: &mut [u32]) {
        match mode {
            Mode::Independent => self.lpm.independent(batch.keys, answers),
            Mode::Chained => self.lpm.chained(batch.keys, answers, black_box(0)),
            Mode::Bulk if self.fours => self.lpm.fours(batch.keys, answers),
            Mode::Bulk => self.lpm.bulk(batch.keys, answers),
        }
    }

    fn settle(&self, _mode: Mode, _answers: &mut [u32]) {}

    fn flap(&mut self, route: &Route<u32>) -> Flap {
        self.lpm.delete(route.first, route.len);
        self.lpm.add(route.first, route.len, route.class);
        Flap::Done
    }
}

macro_rules! fib {
    ($(#[$doc:meta])* $name:ident, $fib:ident, $addr:ty, $batch:ident, $route:ident => $first:expr,
     $blocks:ident, $flap:ident) => {
        $(#[$doc])*
        pub struct $name {
            fib: $fib,
            // Next hops are of 64 bits.
            answers: RefCell<Box<[u64]>>,
        }

        impl $name {
            /// Builds the table; `None` if AVX-512 is wanted and not to be had.
            pub fn build(routes: &[Route<$addr>], vector: bool) -> Option<Self> {
                let mut fib = $fib::new(counted(routes.len()), $blocks(routes), vector)?;
                for $route in routes {
                    fib.add($first, $route.len, $route.class);
                }
                let answers = RefCell::new(vec![0; BATCH].into());
                Some(Self { fib, answers })
            }
        }

        impl Subject<$addr> for $name {
            fn has_bulk(&self) -> bool {
                true
            }

            fn run(&self, mode: Mode, batch: Batch<'_, $addr>, _answers: &mut [u32]) {
                let answers = &mut self.answers.borrow_mut()[..batch.keys.len()];
                match mode {
                    Mode::Independent => self.fib.independent(batch.$batch, answers),
                    Mode::Chained => self.fib.chained(batch.$batch, answers, black_box(0)),
                    Mode::Bulk => self.fib.bulk(batch.$batch, answers),
                }
            }

            fn settle(&self, _mode: Mode, answers: &mut [u32]) {
                for (answer, wide) in answers.iter_mut().zip(&**self.answers.borrow()) {
                    *answer = (*wide).try_into().expect("a next hop is a class");
                }
            }

            fn flap(&mut self, $route: &Route<$addr>) -> Flap {
                if Flap::$flap == Flap::Done {
                    self.fib.delete($first, $route.len);
                    self.fib.add($first, $route.len, $route.class);
                }
                Flap::$flap
            }
        }
    };
}

fib!(
    /// rte_fib, of type DIR-24-8.
    RteFib, Fib, u32, keys, route => route.first, blocks_v4, Done
);

fib!(
    /// rte_fib6, of type TRIE. It miscounts its blocks when a route is withdrawn, and soon refuses new ones.
    RteFib6, Fib6, u128, octets, route => route.first.octets(), blocks_v6, Broken
);
