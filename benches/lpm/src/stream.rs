//! The streams of addresses that are looked up, with the answers that are right.

use std::collections::HashMap;
use std::marker::PhantomData;

use bytemuck::Pod;
use memmap2::{Advice, MmapMut};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};

use crate::route::{Address, Route};

/// Addresses that are looked up at once, and answers that lie in L1 until the next ones overwrite them.
pub const BATCH: usize = 256;

/// Addresses of which a Zipf stream is made: the flows of a busy link.
const FLOWS: usize = 1 << 16;

/// Where addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Any address of any prefix.
    In,
    /// Half `In`, half `Uniform`, in no order.
    Mix,
    /// 65,536 addresses of `In`, the n-th most frequent 1/n as frequent as the first.
    Zipf,
    /// Any address of the family, most of them outside a small table.
    Uniform,
}

impl Source {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Mix => "mix",
            Self::Zipf => "Zipf",
            Self::Uniform => "uniform",
        }
    }

    /// All, in the order of the report.
    pub const ALL: [Self; 4] = [Self::In, Self::Mix, Self::Zipf, Self::Uniform];
}

/// Addresses in both orders of octets, so that no library has to turn them around.
pub struct Stream<A: Address> {
    keys: HugePages,
    octets: HugePages,
    /// The class of each, 0 if it has no route.
    pub answers: Vec<u32>,
    family: PhantomData<A>,
}

impl<A: Address> Stream<A> {
    /// Draws `count` addresses, a multiple of [`BATCH`], the same ones every time.
    pub fn new(source: Source, routes: &[Route<A>], oracle: &Oracle<A>, count: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(source as u64);
        let inside = |rng: &mut StdRng| {
            let route = routes.choose(rng).expect("no table is empty");
            route.random(rng)
        };
        let keys: Vec<A> = match source {
            Source::In => (0..count).map(|_| inside(&mut rng)).collect(),
            Source::Uniform => (0..count).map(|_| A::random(&mut rng)).collect(),
            Source::Mix => (0..count)
                .map(|_| {
                    if rng.random() {
                        inside(&mut rng)
                    } else {
                        A::random(&mut rng)
                    }
                })
                .collect(),
            Source::Zipf => {
                let flows: Vec<A> = (0..FLOWS).map(|_| inside(&mut rng)).collect();
                let rank = Zipf::new(FLOWS as f64, 1.0).expect("both are above 0");
                (0..count)
                    .map(|_| flows[rank.sample(&mut rng) as usize - 1])
                    .collect()
            }
        };
        Self {
            octets: HugePages::new(&keys.iter().map(|key| key.octets()).collect::<Vec<_>>()),
            answers: keys.iter().map(|key| oracle.answer(*key)).collect(),
            keys: HugePages::new(&keys),
            family: PhantomData,
        }
    }

    /// The addresses as integers.
    pub fn keys(&self) -> &[A] {
        bytemuck::cast_slice(&self.keys.0)
    }

    /// The same, as octets in network order.
    pub fn octets(&self) -> &[A::Octets] {
        bytemuck::cast_slice(&self.octets.0)
    }
}

/// What is read from end to end, where that costs least: it is the lookups that are measured.
struct HugePages(MmapMut);

impl HugePages {
    fn new(values: &[impl Pod]) -> Self {
        let mut map = MmapMut::map_anon(size_of_val(values)).expect("there is memory");
        // A kernel without them is only slower, for all alike.
        let _ = map.advise(Advice::HugePage);
        map.copy_from_slice(bytemuck::cast_slice(values));
        Self(map)
    }
}

/// What is right, found another way than any library's: each length that occurs is tried, the longest first.
pub struct Oracle<A> {
    by_length: Vec<(u8, HashMap<A, u32>)>,
}

impl<A: Address> Oracle<A> {
    /// Files the routes by length, and holds some answers against a search through the whole list.
    pub fn new(routes: &[Route<A>]) -> Self {
        let by_length = (0..=A::BITS).rev().map(|len| {
            let routes = routes.iter().filter(|route| route.len == len);
            (
                len,
                routes
                    .map(|route| (route.first, route.class))
                    .collect::<HashMap<_, _>>(),
            )
        });
        let oracle = Self {
            by_length: by_length.filter(|(_, routes)| !routes.is_empty()).collect(),
        };
        let mut rng = StdRng::seed_from_u64(0);
        for route in routes.sample(&mut rng, 100) {
            let beyond = route.last().next().unwrap_or(route.first);
            for addr in [route.first, route.last(), beyond, A::random(&mut rng)] {
                let holders = routes.iter().filter(|route| route.contains(addr));
                let longest = holders.max_by_key(|route| route.len);
                let class = longest.map_or(0, |route| route.class);
                assert_eq!(oracle.answer(addr), class, "the oracle errs for {addr:x?}");
            }
        }
        oracle
    }

    /// The class of an address.
    pub fn answer(&self, addr: A) -> u32 {
        let find =
            |(len, routes): &(u8, HashMap<A, u32>)| routes.get(&(addr & A::mask(*len))).copied();
        self.by_length.iter().find_map(find).unwrap_or(0)
    }
}
