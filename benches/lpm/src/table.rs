//! The tables of routes that are searched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use voicelane::config::Config;
use voicelane::net::Family;
use voicelane::policy::Policy;

use crate::crowded::{self, Crowd};
use crate::route::{Address, Route};

/// Up to so many routes each has a class of its own, as in a policy; the routes of larger tables share classes.
const OWN_CLASSES: usize = 1_000;

/// The classes of large tables: the next hops of a well-connected router.
const SHARED_CLASSES: u32 = 250;

/// Names that the command line and the report use, with what they hold.
pub struct Table<A> {
    /// "16 v4" and the like.
    pub name: String,
    /// Ascending, each prefix once.
    pub routes: Vec<Route<A>>,
}

/// A real BGP table of each family.
pub struct Bgp {
    v4: Vec<(u32, u8)>,
    v6: Vec<(u128, u8)>,
}

impl Bgp {
    /// Reads `bgp_v4.txt.gz` and `bgp_v6.txt.gz`, a prefix a line.
    ///
    /// # Panics
    /// If they are not in `$VOICELANE_BGP`, or beside the project in `../shared/data` if that is unset.
    pub fn read() -> Self {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
        let folder = std::env::var_os("VOICELANE_BGP").map_or_else(beside, PathBuf::from);
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for name in ["bgp_v4.txt.gz", "bgp_v6.txt.gz"] {
            let path = folder.join(name);
            let file = File::open(&path).unwrap_or_else(|error| {
                panic!(
                    "{}: {error}\nwanted: a BGP table, one prefix a line, gzip; name its folder in VOICELANE_BGP",
                    path.display()
                )
            });
            for line in BufReader::new(GzDecoder::new(file)).lines() {
                let line = line.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let prefix: voicelane::net::Prefix = line
                    .parse()
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                match prefix.first() {
                    IpAddr::V4(first) => v4.push((first.to_bits(), prefix.len())),
                    IpAddr::V6(first) => v6.push((first.to_bits(), prefix.len())),
                }
            }
        }
        Self { v4, v6 }
    }

    /// The IPv4 tables, from small to large.
    pub fn tables_v4(&self) -> Vec<Table<u32>> {
        let today = jiff::Zoned::now().date();
        let policy = Policy::compile(&Config::default(), today);
        let prefixes = policy
            .captures()
            .iter()
            .flat_map(|capture| &capture.prefixes);
        let catalogue = prefixes
            .filter(|prefix| prefix.family() == Family::V4)
            .map(|prefix| match prefix.first() {
                IpAddr::V4(first) => (first.to_bits(), prefix.len()),
                IpAddr::V6(_) => unreachable!("filtered by family"),
            });
        let mut tables = vec![table("policy", catalogue.collect())];
        tables.extend(from_bgp(&self.v4, 12..=24, 28));
        tables.extend(crowded_tables(7_787, "8,000", crowded::v4));
        tables
    }

    /// The IPv6 tables, from small to large.
    pub fn tables_v6(&self) -> Vec<Table<u128>> {
        let mut tables = from_bgp(&self.v6, 20..=48, 64);
        tables.extend(crowded_tables(2_945, "3,000", crowded::v6));
        tables
    }

    /// IPv4 tables of so many prefixes for the plot: the shape, and the table.
    pub fn shapes_v4(&self, count: usize) -> Vec<(&'static str, Table<u32>)> {
        shapes(&self.v4, crowded::v4, count)
    }

    /// IPv6 tables of so many prefixes for the plot: the shape, and the table.
    pub fn shapes_v6(&self, count: usize) -> Vec<(&'static str, Table<u128>)> {
        shapes(&self.v6, crowded::v6, count)
    }
}

/// How crowded tables are drawn: a mark in the name, a seed, and how unequal blocks are.
const CROWDS: [(&str, u64, f64); 3] = [("", 1, 1.0), (" b", 2, 0.6), (" c", 3, 1.5)];

/// Crowded tables of `count` prefixes, and 1,000 and 16 drawn from the first.
fn crowded_tables<A: Address>(
    count: usize,
    name: &str,
    draw: fn(Crowd) -> BTreeSet<(A, u8)>,
) -> Vec<Table<A>> {
    let mut tables = Vec::new();
    for (mark, seed, crowding) in CROWDS {
        let all = draw(Crowd {
            seed,
            count,
            crowding,
        });
        if mark.is_empty() {
            tables.push(table("16 crowded", sample(&all, 16, seed)));
        }
        tables.push(table(
            &format!("1,000 crowded{mark}"),
            sample(&all, 1_000, seed),
        ));
        tables.push(table(&format!("{name} crowded{mark}"), all));
    }
    tables
}

fn sample<A: Address>(prefixes: &BTreeSet<(A, u8)>, count: usize, seed: u64) -> BTreeSet<(A, u8)> {
    let prefixes: Vec<_> = prefixes.iter().copied().collect();
    let mut rng = StdRng::seed_from_u64(seed);
    prefixes.sample(&mut rng, count).copied().collect()
}

/// A table of each shape; the routed one has at most the routes of the BGP table.
fn shapes<A: Address>(
    bgp: &[(A, u8)],
    draw: fn(Crowd) -> BTreeSet<(A, u8)>,
    count: usize,
) -> Vec<(&'static str, Table<A>)> {
    let routed = bgp.iter().copied().collect();
    let (_, seed, crowding) = CROWDS[0];
    let crowded = draw(Crowd {
        seed,
        // Smaller ones are drawn from a large one, as a policy is from what providers publish.
        count: count.max(8_000),
        crowding,
    });
    vec![
        ("routed", table("routed", sample(&routed, count, seed))),
        ("crowded", table("crowded", sample(&crowded, count, seed))),
        ("random", table("random", random(count).collect())),
    ]
}

/// Prefixes of any length from a quarter of an address on.
fn random<A: Address>(count: usize) -> impl Iterator<Item = (A, u8)> {
    let mut rng = StdRng::seed_from_u64(16);
    (0..count).map(move |_| {
        let len = rng.random_range(A::BITS / 4..=A::BITS);
        (A::random(&mut rng) & A::mask(len), len)
    })
}

/// Small tables like policies, then random prefixes, then the BGP table itself.
///
/// A policy names blocks of all sizes, and the smaller ones are not announced by themselves: so each prefix is drawn by
/// its length first, and one longer than `announced` is a block within some announced prefix.
fn from_bgp<A: Address>(
    bgp: &[(A, u8)],
    announced: RangeInclusive<u8>,
    longest: u8,
) -> Vec<Table<A>> {
    let mut rng = StdRng::seed_from_u64(16);
    let mut by_length: BTreeMap<u8, Vec<A>> = BTreeMap::new();
    for &(first, len) in bgp {
        by_length.entry(len).or_default().push(first);
    }
    let mut tables: Vec<_> = [(16, "16"), (128, "128"), (1_000, "1,000")]
        .map(|(count, name)| {
            let mut drawn = BTreeSet::new();
            while drawn.len() < count {
                let len = rng.random_range(*announced.start()..=longest);
                if announced.contains(&len) {
                    let of_length = by_length
                        .get(&len)
                        .and_then(|firsts| firsts.choose(&mut rng));
                    drawn.extend(of_length.map(|first| (*first, len)));
                } else if let Some((first, outer)) = bgp.choose(&mut rng) {
                    let host = A::random(&mut rng) & !A::mask(*outer);
                    drawn.insert(((*first | host) & A::mask(len), len));
                }
            }
            table(name, drawn)
        })
        .into();
    let random = (0..100_000).map(|_| {
        let len = rng.random_range(A::BITS / 4..=A::BITS);
        (A::random(&mut rng) & A::mask(len), len)
    });
    tables.push(table("100,000 random", random.collect()));
    tables.push(table("full", bgp.iter().copied().collect()));
    tables
}

fn table<A: Address>(name: &str, prefixes: BTreeSet<(A, u8)>) -> Table<A> {
    let mut rng = StdRng::seed_from_u64(250);
    let own = prefixes.len() <= OWN_CLASSES;
    let routes = prefixes
        .into_iter()
        .zip(1..)
        .map(|((first, len), class)| Route {
            first,
            len,
            class: if own { class } else { shared_class(&mut rng) },
        });
    Table {
        name: format!("{name} {}", if A::BITS == 32 { "v4" } else { "v6" }),
        routes: routes.collect(),
    }
}

fn shared_class(rng: &mut impl Rng) -> u32 {
    rng.random_range(1..=SHARED_CLASSES)
}
