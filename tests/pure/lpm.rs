//! The lookup table against a model: every engine and level, single addresses and batches.
//!
//! `VOICELANE_LPM_PROBES` sets the number of lookups in each table (default 20,000; `scripts/check` sets ten
//! million). `VOICELANE_BGP` names a folder with full BGP tables, `bgp_v4.txt.gz` and `bgp_v6.txt.gz`, one prefix per
//! line, for further tests.

use std::collections::HashMap;
use std::env;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::mpsc::{self, TryRecvError};
use std::sync::{Arc, Weak};
use std::thread;

use voicelane::lpm::{Level, LookupTable, PrefixTable};
use voicelane::net::{Family, Prefix, PrefixError};

#[path = "../../benches/lpm/src/crowded.rs"]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the benchmark's file, under the benchmark's lints"
)]
mod crowded;

use crowded::Crowd;

/// `SplitMix64`: a reproducible sequence.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.bits() % end as u64).expect("below a usize")
    }

    fn addr(&mut self, family: Family) -> IpAddr {
        let bits = u128::from(self.bits()) << 64 | u128::from(self.bits());
        from_bits(family, bits >> (128 - family.bits()))
    }

    /// An address in a prefix.
    fn within(&mut self, prefix: Prefix) -> IpAddr {
        let host = match prefix.family().bits() - prefix.len() {
            128 => u128::MAX,
            bits => (1 << bits) - 1,
        };
        let random = to_bits(self.addr(prefix.family()));
        from_bits(prefix.family(), to_bits(prefix.first()) | random & host)
    }
}

fn to_bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits().into(),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

fn from_bits(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits).expect("32 bits")).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

fn prefix(addr: IpAddr, len: u8) -> Prefix {
    match Prefix::new(addr, len) {
        Ok(prefix) | Err(PrefixError::HostBits { meant: prefix }) => prefix,
        Err(error) => panic!("{error}"),
    }
}

/// Looks up each length, from the longest to the shortest: slow but simple.
struct Model {
    by_len: Vec<((Family, u8), HashMap<IpAddr, u16>)>,
}

impl Model {
    fn new(entries: &[(Prefix, u16)]) -> Self {
        let mut by_len: HashMap<_, HashMap<_, _>> = HashMap::new();
        for (prefix, value) in entries {
            let of_len = by_len.entry((prefix.family(), prefix.len())).or_default();
            of_len.insert(prefix.first(), *value);
        }
        let mut by_len: Vec<_> = by_len.into_iter().collect();
        by_len.sort_by_key(|((family, len), _)| (*family, u8::MAX - len));
        Self { by_len }
    }

    fn lookup(&self, addr: IpAddr) -> Option<u16> {
        let of_family = |((family, _), _): &&(_, _)| *family == Family::of(addr);
        let mut lens = self.by_len.iter().filter(of_family);
        lens.find_map(|((_, len), prefixes)| prefixes.get(&prefix(addr, *len).first()).copied())
    }
}

/// Prefixes of lengths as in a BGP table: mostly /16 to /24 and /32 to /48, some shorter, some longer, some nested.
fn realistic(random: &mut Random, count: usize, values: usize) -> Vec<(Prefix, u16)> {
    let mut entries: Vec<(Prefix, u16)> = Vec::with_capacity(count);
    while entries.len() < count {
        let family = if random.below(4) == 0 {
            Family::V6
        } else {
            Family::V4
        };
        let usual = match family {
            Family::V4 => 16 + random.below(9),
            Family::V6 => 28 + random.below(21),
        };
        let len = match random.below(16) {
            0 => random.below(usize::from(family.bits()) + 1),
            1 => family.bits().into(),
            _ => usual,
        };
        let addr = match entries.len() {
            // Within or beside an existing prefix.
            1.. if random.below(2) == 0 => {
                let (near, _) = entries[random.below(entries.len())];
                let offset = random.bits() % 3;
                let addr = to_bits(near.last())
                    .saturating_sub(1)
                    .saturating_add(offset.into());
                let highest = u128::MAX >> (128 - near.family().bits());
                from_bits(near.family(), addr.min(highest))
            }
            _ => random.addr(family),
        };
        let len = u8::try_from(len)
            .expect("at most 128")
            .min(Family::of(addr).bits());
        let value = u16::try_from(random.below(values)).expect("few values");
        entries.push((prefix(addr, len), value));
    }
    entries
}

/// Prefixes of one length each, all around one address.
fn nested(addr: IpAddr) -> Vec<(Prefix, u16)> {
    (0..=Family::of(addr).bits())
        .map(|len| (prefix(addr, len), len.into()))
        .collect()
}

/// As many prefixes of each family, crowded as cloud providers publish their ranges, in 250 classes.
fn crowded(crowd: Crowd) -> Vec<(Prefix, u16)> {
    let v4 = crowded::v4(crowd).into_iter();
    let v4 = v4.map(|(first, len)| prefix(Ipv4Addr::from_bits(first).into(), len));
    let v6 = crowded::v6(crowd).into_iter();
    let v6 = v6.map(|(first, len)| prefix(Ipv6Addr::from_bits(first).into(), len));
    v4.chain(v6).zip((0..250).cycle()).collect()
}

fn bgp(folder: &str, file: &str) -> Vec<(Prefix, u16)> {
    let path = format!("{folder}/{file}");
    let gzip = Command::new("gzip")
        .args(["-dc", &path])
        .output()
        .expect("gzip is there");
    assert!(
        gzip.status.success(),
        "VOICELANE_BGP wants {path} to be a file that gzip reads"
    );
    let text = String::from_utf8(gzip.stdout).expect("a list of prefixes");
    let prefixes = text
        .lines()
        .map(|line| line.parse().expect("a prefix a line"));
    prefixes.zip((0..250).cycle()).collect()
}

fn tables() -> Vec<(String, Vec<(Prefix, u16)>)> {
    let random = &mut Random(1);
    let mut tables = vec![
        ("nothing".into(), vec![]),
        (
            "all lengths".into(),
            nested(Ipv4Addr::new(168, 86, 133, 20).into()),
        ),
        (
            "all lengths, v6".into(),
            nested("2001:db8:86:133::20".parse().expect("an address")),
        ),
        (
            "all lengths to the top".into(),
            nested(Ipv4Addr::BROADCAST.into()),
        ),
        (
            "all lengths to the top, v6".into(),
            nested(Ipv6Addr::from_bits(u128::MAX).into()),
        ),
    ];
    for (count, values) in [
        (16, 16),
        (60, 60),
        (1_000, 250),
        (1_000, 900),
        (30_000, 250),
        (100_000, 60_000),
    ] {
        tables.push((
            format!("{count} prefixes, {values} values"),
            realistic(random, count, values),
        ));
    }
    for (seed, count, crowding) in [
        (1, 16, 1.0),
        (2, 300, 2.0),
        (3, 1_000, 1.0),
        (4, 3_000, 0.3),
        (5, 3_000, 1.0),
        (6, 8_000, 1.5),
    ] {
        let crowd = Crowd {
            seed,
            count,
            crowding,
        };
        tables.push((format!("{crowd:?}"), crowded(crowd)));
    }
    if let Ok(folder) = env::var("VOICELANE_BGP") {
        for file in ["bgp_v4.txt.gz", "bgp_v6.txt.gz"] {
            tables.push((file.into(), bgp(&folder, file)));
        }
    }
    tables
}

/// Returns an address at the bounds of a prefix, or a random one.
fn probe(random: &mut Random, entries: &[(Prefix, u16)]) -> IpAddr {
    let family = if random.below(2) == 0 {
        Family::V4
    } else {
        Family::V6
    };
    if entries.is_empty() || random.below(8) == 0 {
        return random.addr(family);
    }
    let (near, _) = entries[random.below(entries.len())];
    let highest = u128::MAX >> (128 - near.family().bits());
    let bits = match random.below(8) {
        0 => to_bits(near.first()),
        1 => to_bits(near.last()),
        2 => to_bits(near.first()).wrapping_sub(1) & highest,
        3 => to_bits(near.last()).wrapping_add(1) & highest,
        4 if random.below(64) == 0 => highest,
        _ => to_bits(random.within(near)),
    };
    from_bits(near.family(), bits)
}

#[test]
fn lookups_agree_with_the_model() {
    let probes = env::var("VOICELANE_LPM_PROBES").map_or(20_000, |count| {
        count.parse().expect("VOICELANE_LPM_PROBES is a number")
    });
    for (name, mut entries) in tables() {
        let mut seen = HashMap::new();
        for (prefix, value) in &entries {
            seen.insert(*prefix, *value);
        }
        entries = seen.into_iter().collect();
        entries.sort_unstable();
        let source: PrefixTable<u16> = entries.iter().copied().collect();
        let model = Model::new(&entries);
        let levels = [Level::Portable, Level::Avx2, Level::Avx512];
        let compiled = levels.map(|level| LookupTable::with_level(&source, level));
        let random = &mut Random(2);
        for _ in 0..200 {
            let addr = probe(random, &entries);
            let covering = entries.iter().filter(|(prefix, _)| prefix.contains(addr));
            let longest = covering.max_by_key(|(prefix, _)| prefix.len());
            assert_eq!(
                model.lookup(addr),
                longest.map(|(_, value)| *value),
                "the model, {addr}"
            );
        }
        let mut left: usize = probes;
        while left > 0 {
            // These lengths leave vectors partly filled.
            let count = left.min(1 + random.below(5_000));
            left -= count;
            let addrs: Vec<_> = iter::repeat_with(|| probe(random, &entries))
                .take(count)
                .collect();
            let expected: Vec<_> = addrs.iter().map(|addr| model.lookup(*addr)).collect();
            for (table, level) in compiled.iter().zip(levels) {
                check(
                    table,
                    &addrs,
                    &expected,
                    &format!("{name}, {level:?}, {table:?}"),
                );
            }
        }
        println!("{name}: {probes} addresses, {:?}", compiled[2]);
    }
}

fn check(table: &LookupTable<u16>, addrs: &[IpAddr], expected: &[Option<u16>], what: &str) {
    for (addr, value) in addrs.iter().zip(expected) {
        assert_eq!(table.lookup(*addr), *value, "{what}: {addr}");
    }
    let mut values = vec![None; addrs.len()];
    table.lookup_batch(addrs, &mut values);
    assert_eq!(values, expected, "{what}: mixed batch");

    let both = || addrs.iter().zip(expected);
    let v4 = both().filter_map(|(addr, value)| match addr {
        IpAddr::V4(addr) => Some((*addr, *value)),
        IpAddr::V6(_) => None,
    });
    let (v4, expected4): (Vec<_>, Vec<_>) = v4.unzip();
    let mut values = vec![None; v4.len()];
    table.lookup_batch(&v4, &mut values);
    assert_eq!(values, expected4, "{what}: IPv4 batch");

    let v6 = both().filter_map(|(addr, value)| match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(addr) => Some((*addr, *value)),
    });
    let (v6, expected6): (Vec<_>, Vec<_>) = v6.unzip();
    let mut values = vec![None; v6.len()];
    table.lookup_batch(&v6, &mut values);
    assert_eq!(values, expected6, "{what}: IPv6 batch");
}

#[test]
fn a_small_table_fits_the_l1_cache() {
    let entries = realistic(&mut Random(3), 16, 16);
    let table = LookupTable::new(&entries.into_iter().collect());
    assert!(table.memory() <= 48 * 1024, "{table:?}");
}

/// Readers change the table between two batches, so that one table answers each batch.
#[test]
fn tables_are_swapped_under_load() {
    const SWAPS: u16 = 300;
    let compile = |version: u16| {
        let everything = [Family::V4, Family::V6].map(|family| prefix(family.unspecified(), 0));
        let source = everything.into_iter().map(|prefix| (prefix, version));
        Arc::new(LookupTable::new(&source.collect()))
    };
    let first = compile(0);
    let readers: Vec<_> = (0..2)
        .map(|seed| {
            let mut table = Arc::clone(&first);
            let (swap, swapped) = mpsc::channel();
            let reader = thread::spawn(move || {
                let random = &mut Random(seed);
                let (mut last, mut taken) = (0, 0);
                loop {
                    match swapped.try_recv() {
                        Ok(new) => {
                            table = new;
                            taken += 1;
                        }
                        Err(TryRecvError::Empty) => {}
                        Err(TryRecvError::Disconnected) => return (last, taken),
                    }
                    let addrs = [(); 40].map(|()| random.addr(Family::V4));
                    let mut values = [None; 40];
                    table.lookup_batch(&addrs, &mut values);
                    let version = table
                        .lookup(random.addr(Family::V6))
                        .expect("all is covered");
                    assert!(version >= last, "versions never decrease");
                    assert_eq!(values, [Some(version); 40], "one table for a batch");
                    last = version;
                }
            });
            (swap, reader)
        })
        .collect();
    let mut old: Vec<Weak<_>> = vec![Arc::downgrade(&first)];
    drop(first);
    for version in 1..=SWAPS {
        let table = compile(version);
        old.push(Arc::downgrade(&table));
        for (swap, _) in &readers {
            swap.send(Arc::clone(&table)).expect("the reader runs");
        }
    }
    for (swap, reader) in readers {
        drop(swap);
        assert_eq!(
            reader.join().expect("no reader panics"),
            (SWAPS, SWAPS.into())
        );
    }
    assert!(
        old.iter().all(|table| table.upgrade().is_none()),
        "no table outlives its readers"
    );
}
