//! The lookup table beside what else there is: `scripts/bench lpm [--quick] [--plot FILE] [TABLE...]`.
//!
//! Each library builds each table of routes and answers the same streams of addresses, in one process, turn by turn;
//! every answer is checked before it is timed. `benches/README.md` says how to read the tables that are printed.

mod baseline;
mod crates;
mod crowded;
#[cfg(feature = "dpdk")]
mod dpdk;
mod library;
mod measure;
mod ours;
mod plot;
mod report;
mod route;
mod stream;
mod table;
mod verdict;

use crate::library::Origin;
use crate::measure::{Contestant, Effort, enter, measure};
use crate::plot::{COUNTS, Point};
use crate::report::Section;
use crate::route::Address;
use crate::stream::Source;
use crate::table::{Bgp, Table};

/// A search through the list is not asked of more.
const SCANNED: usize = 1_000;

/// DPDK is not asked for more in the plot: a random table of more fills its memory with second-level blocks.
const HEAVY: usize = 8_000;

fn main() {
    let mut effort = Effort {
        bytes: 4 << 20,
        passes: 7,
        sources: &Source::ALL,
    };
    let mut wanted = Vec::new();
    let mut plot = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => {
                effort = Effort {
                    bytes: 1 << 20,
                    passes: 3,
                    ..effort
                }
            }
            "--plot" => plot = Some(arguments.next().expect("--plot FILE")),
            _ => wanted.push(argument),
        }
    }
    let bgp = Bgp::read();
    for (_, table) in bgp.shapes_v4(128) {
        measure::assert_checks_find_wrong_answers(&table);
    }
    for (_, table) in bgp.shapes_v6(128) {
        measure::assert_checks_find_wrong_answers(&table);
    }
    if let Some(file) = plot {
        let svg = plot::svg(&points(&bgp));
        std::fs::write(&file, svg).unwrap_or_else(|error| panic!("{file}: {error}"));
        println!("plot: {file}");
        return;
    }
    let mut sections = Vec::new();
    run(
        bgp.tables_v4(),
        &contestants_v4(),
        &wanted,
        effort,
        &mut sections,
    );
    run(
        bgp.tables_v6(),
        &contestants_v6(),
        &wanted,
        effort,
        &mut sections,
    );
    if sections.is_empty() {
        eprintln!("no table is called {wanted:?}");
        std::process::exit(2);
    }
    println!(
        "{}\n\n{}\n\n{}\n\n{}",
        report::figures(&sections),
        report::summary(&sections),
        report::worst(&sections),
        verdict::measure(jiff::Zoned::now().date(), effort.passes),
    );
}

/// Measures what the plot shows: each shape and number of prefixes.
fn points(bgp: &Bgp) -> Vec<Point> {
    let (v4, v6) = (drawn(contestants_v4()), drawn(contestants_v6()));
    let mut points = Vec::new();
    for count in COUNTS {
        points.extend(
            bgp.shapes_v4(count)
                .into_iter()
                .map(|(shape, table)| point(shape, &table, &v4)),
        );
        points.extend(
            bgp.shapes_v6(count)
                .into_iter()
                .map(|(shape, table)| point(shape, &table, &v6)),
        );
    }
    points.sort_by(|one, other| (&one.shape, one.count).cmp(&(&other.shape, other.count)));
    points
}

fn drawn<A>(contestants: Vec<Contestant<A>>) -> Vec<Contestant<A>> {
    let mut drawn: Vec<_> = contestants
        .into_iter()
        .filter(|contestant| plot::is_drawn(contestant.name))
        .collect();
    for contestant in &mut drawn {
        if plot::is_heavy(contestant.origin) {
            contestant.most = HEAVY;
        }
    }
    drawn
}

fn point<A: Address>(shape: &str, table: &Table<A>, contestants: &[Contestant<A>]) -> Point {
    let effort = Effort {
        bytes: 1 << 20,
        passes: 3,
        sources: &[Source::In, Source::Mix],
    };
    let family = if A::BITS == 32 { "IPv4" } else { "IPv6" };
    Point {
        shape: format!("{shape} {family}"),
        count: table.routes.len(),
        outcomes: measure(table, contestants, effort),
    }
}

/// Measures the tables whose names begin like one of `wanted`; all, if nothing is.
fn run<A: Address>(
    tables: Vec<Table<A>>,
    contestants: &[Contestant<A>],
    wanted: &[String],
    effort: Effort,
    sections: &mut Vec<Section>,
) {
    for table in tables {
        if wanted.is_empty() || wanted.iter().any(|name| table.name.starts_with(name)) {
            sections.push(Section {
                outcomes: measure(&table, contestants, effort),
                name: table.name,
            });
        }
    }
}

macro_rules! contestants {
    ($addr:ty, $crates:ident) => {
        [
            (
                "voicelane",
                Origin::Compiled,
                usize::MAX,
                enter::<_, ours::Compiled<true>> as _,
            ),
            (
                "voicelane, AVX2",
                Origin::Compiled,
                usize::MAX,
                enter::<_, ours::Compiled<false>> as _,
            ),
            (
                "voicelane, PrefixTable",
                Origin::Changing,
                usize::MAX,
                enter::<_, ours::Mutable> as _,
            ),
            (
                "prefix-trie",
                Origin::Crate,
                usize::MAX,
                enter::<_, $crates::PrefixTrie> as _,
            ),
            (
                "ip_network_table",
                Origin::Crate,
                usize::MAX,
                enter::<_, $crates::IpNetworkTable> as _,
            ),
            (
                "treebitmap",
                Origin::Crate,
                usize::MAX,
                enter::<_, $crates::Treebitmap> as _,
            ),
            (
                "iptrie, Patricia",
                Origin::Crate,
                usize::MAX,
                enter::<_, $crates::Patricia> as _,
            ),
            (
                "iptrie, LC",
                Origin::Crate,
                usize::MAX,
                enter::<_, $crates::LevelCompressed> as _,
            ),
            (
                "ipnet-trie",
                Origin::Crate,
                usize::MAX,
                enter::<_, $crates::IpnetTrie> as _,
            ),
            (
                "poptrie",
                Origin::Crate,
                usize::MAX,
                enter::<_, $crates::Poptrie> as _,
            ),
            (
                "routemap",
                Origin::Crate,
                usize::MAX,
                enter::<_, $crates::Routemap> as _,
            ),
            (
                "ts_bart",
                Origin::Crate,
                usize::MAX,
                enter::<_, $crates::Bart> as _,
            ),
            (
                "linear scan",
                Origin::Baseline,
                SCANNED,
                enter::<_, baseline::LinearScan<$addr>> as _,
            ),
            (
                "binary search",
                Origin::Baseline,
                usize::MAX,
                enter::<_, baseline::BinarySearch<$addr>> as _,
            ),
        ]
        .map(|(name, origin, most, enter)| Contestant {
            name,
            origin,
            most,
            enter,
        })
    };
}

fn contestants_v4() -> Vec<Contestant<u32>> {
    use crate::crates::v4;

    #[cfg_attr(not(feature = "dpdk"), expect(unused_mut, reason = "DPDK's follow"))]
    let mut contestants = Vec::from(contestants!(u32, v4));
    #[cfg(feature = "dpdk")]
    contestants.extend([
        dpdk_contestant("rte_lpm", |routes| {
            measure::enter_dpdk(|| Some(dpdk::RteLpm::build(routes, false)))
        }),
        dpdk_contestant("rte_lpm, in fours", |routes| {
            measure::enter_dpdk(|| Some(dpdk::RteLpm::build(routes, true)))
        }),
        dpdk_contestant("rte_fib", |routes| {
            measure::enter_dpdk(|| dpdk::RteFib::build(routes, false))
        }),
        dpdk_contestant("rte_fib, AVX-512", |routes| {
            measure::enter_dpdk(|| dpdk::RteFib::build(routes, true))
        }),
    ]);
    contestants
}

fn contestants_v6() -> Vec<Contestant<u128>> {
    use crate::crates::v6;

    #[cfg_attr(not(feature = "dpdk"), expect(unused_mut, reason = "DPDK's follow"))]
    let mut contestants = Vec::from(contestants!(u128, v6));
    #[cfg(feature = "dpdk")]
    contestants.extend([
        dpdk_contestant("rte_fib6", |routes| {
            measure::enter_dpdk(|| dpdk::RteFib6::build(routes, false))
        }),
        dpdk_contestant("rte_fib6, AVX-512", |routes| {
            measure::enter_dpdk(|| dpdk::RteFib6::build(routes, true))
        }),
    ]);
    contestants
}

#[cfg(feature = "dpdk")]
fn dpdk_contestant<A>(
    name: &'static str,
    enter: fn(&[route::Route<A>]) -> Option<measure::Entry<A>>,
) -> Contestant<A> {
    Contestant {
        name,
        origin: Origin::Dpdk,
        most: usize::MAX,
        enter,
    }
}
