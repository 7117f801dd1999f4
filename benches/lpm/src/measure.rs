//! One table with every library: built, checked, timed turn by turn.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use nix::time::ClockId;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::library::{Batch, Flap, Library, Mode, Origin, Subject};
use crate::route::{Address, Route};
use crate::stream::{BATCH, Oracle, Source, Stream};
use crate::table::Table;

/// A pass over a stream is cut to about this long: the slow ones see fewer of its addresses.
const LONGEST_PASS: Duration = Duration::from_millis(25);

/// So long a pass is made before, to bring the table and the addresses near.
const WARM_UP: Duration = Duration::from_millis(6);

/// Answers in a page of memory.
const PAGE: usize = 1024;

/// A library that takes part.
pub struct Contestant<A> {
    /// Its name in the report.
    pub name: &'static str,
    /// Who made it.
    pub origin: Origin,
    /// The most routes it is asked to hold.
    pub most: usize,
    /// Builds its table of the routes; `None` if this machine cannot.
    pub enter: fn(&[Route<A>]) -> Option<Entry<A>>,
}

/// A table that has been built, and what that took.
pub struct Entry<A> {
    subject: Box<dyn Subject<A>>,
    bytes: usize,
    build: Duration,
}

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    /// A stream's addresses, in bytes: more of them, and IPv6 would be measured at the memory's speed.
    pub bytes: usize,
    /// Passes over it, of which the median counts.
    pub passes: usize,
    /// The streams that are measured.
    pub sources: &'static [Source],
}

/// What one library does with one table.
pub struct Outcome {
    /// Its name.
    pub name: &'static str,
    /// Who made it.
    pub origin: Origin,
    /// Lookups a second, of each mode and stream that applies.
    pub rates: Vec<(Mode, Source, f64)>,
    /// Bytes of the table.
    pub bytes: usize,
    /// Building it.
    pub build: Duration,
    /// Withdrawing or announcing one route, where that can be done.
    pub update: Result<Duration, Flap>,
}

impl Outcome {
    /// Lookups a second.
    pub fn rate(&self, mode: Mode, source: Source) -> Option<f64> {
        let mut rates = self.rates.iter();
        let found = rates.find(|rate| (rate.0, rate.1) == (mode, source));
        found.map(|rate| rate.2)
    }
}

/// The CPU time of this thread: what others run on the same CPU meanwhile is not counted.
struct Clock(Duration);

impl Clock {
    fn now() -> Self {
        let time = ClockId::CLOCK_THREAD_CPUTIME_ID.now();
        Self(time.expect("Linux has this clock").into())
    }

    fn elapsed(&self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

/// Bytes that malloc has handed out.
#[expect(unsafe_code, reason = "no crate wraps mallinfo2")]
fn malloced() -> usize {
    // SAFETY: only reads malloc's counters.
    let counters = unsafe { libc::mallinfo2() };
    counters.uordblks + counters.hblkhd
}

/// Builds the table of a library that is written in Rust: again and again for a third of a second.
pub fn enter<A: Address, L: Library<A> + Subject<A>>(routes: &[Route<A>]) -> Option<Entry<A>> {
    let routes = L::routes(routes);
    let mut took = Vec::new();
    let begin = Clock::now();
    loop {
        let before = malloced();
        let start = Clock::now();
        let built = L::build(&routes);
        took.push(start.elapsed());
        let bytes = malloced().saturating_sub(before);
        if begin.elapsed() > Duration::from_millis(300) || took.len() == 1_000 {
            return Some(Entry {
                subject: Box::new(built),
                bytes,
                build: median(took),
            });
        }
    }
}

/// Builds a table of DPDK's, once: it has memory of its own.
#[cfg(feature = "dpdk")]
pub fn enter_dpdk<A: Address, S: Subject<A> + 'static>(
    build: impl FnOnce() -> Option<S>,
) -> Option<Entry<A>> {
    let before = dpdk::allocated();
    let start = Clock::now();
    let built = build()?;
    Some(Entry {
        build: start.elapsed(),
        bytes: dpdk::allocated() - before,
        subject: Box::new(built),
    })
}

/// Measures every contestant with a table.
///
/// # Panics
/// If one of them gives a wrong answer.
pub fn measure<A: Address>(
    table: &Table<A>,
    contestants: &[Contestant<A>],
    effort: Effort,
) -> Vec<Outcome> {
    let routes = &table.routes[..];
    let oracle = Oracle::new(routes);
    let all = effort.bytes / size_of::<A>();
    let streams = effort
        .sources
        .iter()
        .map(|source| Stream::new(*source, routes, &oracle, all));
    let streams: Vec<_> = streams.collect();

    let mut rng = StdRng::seed_from_u64(2);
    let mut entries = Vec::new();
    let mut outcomes = Vec::new();
    for contestant in contestants
        .iter()
        .filter(|contestant| routes.len() <= contestant.most)
    {
        eprintln!("{}: building {}", table.name, contestant.name);
        let Some(entry) = (contestant.enter)(routes) else {
            continue;
        };
        outcomes.push(Outcome {
            name: contestant.name,
            origin: contestant.origin,
            rates: Vec::new(),
            bytes: entry.bytes,
            build: entry.build,
            update: Err(Flap::Rebuild),
        });
        entries.push(entry.subject);
    }

    for (&source, stream) in effort.sources.iter().zip(&streams) {
        for mode in [Mode::Independent, Mode::Chained, Mode::Bulk] {
            let chained_enough = matches!(source, Source::In | Source::Mix);
            if mode == Mode::Chained && !chained_enough {
                continue;
            }
            eprintln!("{}: {mode:?}, {source:?}", table.name);
            let mut runners: Vec<_> = (0..entries.len())
                .filter(|index| mode != Mode::Bulk || entries[*index].has_bulk())
                .map(|index| {
                    let whole = check(&*entries[index], mode, stream)
                        .unwrap_or_else(|wrong| panic!("{} errs: {wrong}", outcomes[index].name));
                    let [warm, keys] = [WARM_UP, LONGEST_PASS].map(|longest| {
                        let share = longest.as_secs_f64() / whole.as_secs_f64();
                        let keys = (all as f64 * share.min(1.0)) as usize;
                        keys.next_multiple_of(BATCH).min(all)
                    });
                    (index, warm, keys)
                })
                .collect();
            let mut rates = vec![Vec::new(); entries.len()];
            // Turn by turn, so that what else the machine does meets all of them; and who comes after one that fills the
            // caches is chance.
            for turn in 0..effort.passes {
                // Loads may have to wait for stores at the same place of another page. Where a table lies is chance, so
                // that the answers lie elsewhere each time.
                let place = turn * (PAGE / effort.passes);
                for &(index, warm, keys) in &runners {
                    pass(&*entries[index], mode, stream, warm, place);
                    let took = pass(&*entries[index], mode, stream, keys, place);
                    rates[index].push(keys as f64 / took.as_secs_f64());
                }
                runners.shuffle(&mut rng);
            }
            for (index, ..) in runners {
                let mut rates = std::mem::take(&mut rates[index]);
                rates.sort_unstable_by(f64::total_cmp);
                outcomes[index]
                    .rates
                    .push((mode, source, rates[rates.len() / 2]));
            }
        }
    }

    for (entry, outcome) in entries.iter_mut().zip(&mut outcomes) {
        outcome.update = flaps(&mut **entry, routes);
        // A table that has changed back and forth must still answer as before.
        if let Err(wrong) = check(&**entry, Mode::Independent, &streams[0]) {
            let ours = [Origin::Compiled, Origin::Changing];
            assert!(!ours.contains(&outcome.origin), "after changes, {wrong}");
            eprintln!(
                "{}: after changes, {} errs: {wrong}",
                table.name, outcome.name
            );
            outcome.update = Err(Flap::Broken);
        }
    }
    outcomes
}

fn batches<A: Address>(stream: &Stream<A>, keys: usize) -> impl Iterator<Item = Batch<'_, A>> {
    let octets = stream.octets()[..keys].chunks(BATCH);
    let keys = stream.keys()[..keys].chunks(BATCH);
    keys.zip(octets)
        .map(|(keys, octets)| Batch { keys, octets })
}

/// Times the first `keys` addresses of a stream. The answers begin at a place in a page.
fn pass<A: Address>(
    subject: &dyn Subject<A>,
    mode: Mode,
    stream: &Stream<A>,
    keys: usize,
    place: usize,
) -> Duration {
    let mut page = [0; PAGE + BATCH];
    let answers = &mut page[place..][..BATCH];
    let start = Clock::now();
    for batch in batches(stream, keys) {
        subject.run(mode, batch, &mut answers[..batch.keys.len()]);
        black_box(&mut *answers);
    }
    start.elapsed()
}

/// Holds every answer against the oracle's; returns about how long the lookups took.
///
/// # Errors
/// The first wrong answer.
fn check<A: Address>(
    subject: &dyn Subject<A>,
    mode: Mode,
    stream: &Stream<A>,
) -> Result<Duration, String> {
    check_answers(stream, |batch, answers| {
        subject.run(mode, batch, answers);
        subject.settle(mode, answers);
    })
}

fn check_answers<A: Address>(
    stream: &Stream<A>,
    lookup: impl Fn(Batch<'_, A>, &mut [u32]),
) -> Result<Duration, String> {
    let mut answers = [0; BATCH];
    let start = Clock::now();
    let all = batches(stream, stream.keys().len());
    for (batch, expected) in all.zip(stream.answers.chunks(BATCH)) {
        let answers = &mut answers[..batch.keys.len()];
        answers.fill(u32::MAX);
        lookup(batch, answers);
        for ((answer, expected), key) in answers.iter().zip(expected).zip(batch.keys) {
            if answer != expected {
                return Err(format!("{}: {answer}, not {expected}", key.ip()));
            }
        }
    }
    Ok(start.elapsed())
}

/// Withdraws and announces routes, up to 10,000 or for a second; the time of one such change.
fn flaps<A: Address>(subject: &mut dyn Subject<A>, routes: &[Route<A>]) -> Result<Duration, Flap> {
    let mut rng = StdRng::seed_from_u64(1);
    let chosen: Vec<_> = (0..10_000)
        .filter_map(|_| routes.choose(&mut rng))
        .collect();
    let mut changes = 0;
    let start = Clock::now();
    for route in chosen {
        match subject.flap(route) {
            Flap::Done => {}
            not => return Err(not),
        }
        changes += 2;
        // Asking for the CPU time takes longer than many a change.
        if changes % 64 == 0 && start.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    Ok(start.elapsed() / changes)
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}

/// Plants one wrong answer in a stream, at either end and amid a batch.
///
/// # Panics
/// If the check of answers overlooks one, or reports one where all are right.
pub fn assert_checks_find_wrong_answers<A: Address>(table: &Table<A>) {
    let oracle = Oracle::new(&table.routes);
    let count = 4 * BATCH;
    let stream = Stream::new(Source::In, &table.routes, &oracle, count);
    for planted in [None, Some(0), Some(BATCH + 1), Some(count - 1)] {
        let place = Cell::new(0);
        let lookup = |batch: Batch<'_, A>, answers: &mut [u32]| {
            let first = place.replace(place.get() + batch.keys.len());
            for (answer, place) in answers.iter_mut().zip(first..) {
                *answer = stream.answers[place] + u32::from(planted == Some(place));
            }
        };
        let checked = check_answers(&stream, lookup);
        assert_eq!(
            checked.is_err(),
            planted.is_some(),
            "a planted wrong answer at {planted:?}"
        );
    }
}
