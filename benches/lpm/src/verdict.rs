//! What a verdict costs beside the lookup in it.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use jiff::civil::Date;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use voicelane::config::Config;
use voicelane::lpm::{LookupTable, PrefixTable};
use voicelane::net::{Endpoint, Prefix, Protocol};
use voicelane::policy::Policy;

use crate::route::{Address, Route};

/// Packets of a stream, half of them to where the policy captures.
const PACKETS: usize = 1 << 20;

/// The packets that the data path takes from the TUN in one turn.
const BATCH: usize = 64;

/// Measures the compiled-in policy; the report's line.
pub fn measure(day: Date, passes: usize) -> String {
    let policy = Policy::compile(&Config::default(), day);
    let captured = policy.captures().iter();
    let captured: Vec<Prefix> = captured.flat_map(|it| it.prefixes.clone()).collect();
    let table: PrefixTable<u32> = captured.iter().map(|prefix| (*prefix, 1)).collect();
    let table = LookupTable::new(&table);

    let mut rng = StdRng::seed_from_u64(0);
    let packets: Vec<(Protocol, Endpoint)> = (0..PACKETS)
        .map(|_| {
            let prefix = captured.choose(&mut rng).expect("the policy captures");
            let inside: bool = rng.random();
            let addr = match prefix.first() {
                IpAddr::V4(first) => addr(first.to_bits(), prefix.len(), inside, &mut rng),
                IpAddr::V6(first) => addr(first.to_bits(), prefix.len(), inside, &mut rng),
            };
            let port = *[3478, 443, rng.random()].choose(&mut rng).expect("three");
            let protocol = if rng.random() {
                Protocol::Udp
            } else {
                Protocol::Tcp
            };
            (protocol, Endpoint { addr, port })
        })
        .collect();

    let lookup = median(passes, || {
        for (_, to) in &packets {
            black_box(table.lookup(to.addr));
        }
    });
    // As many packets as the data path reads from the TUN in one turn.
    let addrs: Vec<IpAddr> = packets.iter().map(|(_, to)| to.addr).collect();
    let mut values = [None; BATCH];
    let bulk = median(passes, || {
        for addrs in addrs.chunks(BATCH) {
            table.lookup_batch(addrs, &mut values[..addrs.len()]);
            black_box(&mut values);
        }
    });
    let verdict = median(passes, || {
        for (protocol, to) in &packets {
            black_box(policy.evaluate(*protocol, *to));
        }
    });
    format!(
        "policy: a lookup {lookup:.1} ns, {bulk:.1} ns in bulk ({BATCH} of both families), a verdict {verdict:.1} ns: {:.1} ns more",
        verdict - lookup
    )
}

/// An address of a prefix, or any of its family.
fn addr<A: Address>(first: A, len: u8, inside: bool, rng: &mut impl Rng) -> IpAddr {
    let route = Route {
        first,
        len,
        class: 1,
    };
    if inside {
        route.random(rng)
    } else {
        A::random(rng)
    }
    .ip()
}

/// Nanoseconds a packet, of a pass over all of them.
fn median(passes: usize, mut pass: impl FnMut()) -> f64 {
    let mut took: Vec<f64> = (0..passes)
        .map(|_| {
            let start = Instant::now();
            pass();
            start.elapsed().as_secs_f64() * 1e9 / PACKETS as f64
        })
        .collect();
    took.sort_unstable_by(f64::total_cmp);
    took[passes / 2]
}
