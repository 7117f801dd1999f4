//! The measurements. The relays take turns at each, so that what drifts drifts for all.

use std::fs;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::relay::{Kind, Relay, number};
use crate::traffic::{FLOWS, Load};
use crate::world::Cores;

/// The numbers of calls at which the highest rate is looked for, and how long the cards gather packets before they
/// interrupt, as most do under load.
pub const CALLS: [(u32, Duration); 4] = [
    (1, Duration::ZERO),
    (100, Duration::ZERO),
    (FLOWS, Duration::ZERO),
    (FLOWS, Duration::from_micros(100)),
];

/// The numbers of calls whose round trips are measured, each of 50 packets a second.
pub const PACED: [u32; 2] = [1, 400];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often everything is measured.
    pub rounds: usize,
    /// Two rates this close to each other are one.
    pub close: f64,
    /// The time for each rate that is tried.
    pub step: Duration,
    /// The time of overload, and of the load that its cost is measured at.
    pub long: Duration,
    /// The time for round trips, by the number of calls.
    pub paced: [Duration; 2],
}

impl Effort {
    /// For a table to be published.
    pub const FULL: Self = Self {
        rounds: 3,
        close: 1.04,
        step: Duration::from_millis(500),
        long: Duration::from_secs(2),
        paced: [Duration::from_secs(10), Duration::from_secs(4)],
    };

    /// For a few minutes.
    pub const QUICK: Self = Self {
        rounds: 1,
        close: 1.07,
        step: Duration::from_millis(200),
        long: Duration::from_secs(1),
        paced: [Duration::from_secs(3), Duration::from_secs(2)],
    };
}

/// What was measured of a relay: one value a round, but for the memory.
pub struct Figures {
    /// Which relay.
    pub kind: Kind,
    /// By [`CALLS`].
    pub rates: [Rates; CALLS.len()],
    /// The time of the relay's core for a packet, softirqs and all, in microseconds, at the greater number of paced calls.
    pub cost_paced: Vec<f64>,
    /// Memory of a flow in bytes: of the processes, and of the kernel's slabs.
    pub memory: Option<[f64; 2]>,
    /// Round trips of paced calls, on an idle core and beside a hog.
    pub paced: [[Paced; 2]; 2],
    /// Why it was not measured to the end.
    pub fault: Option<anyhow::Error>,
}

/// How much is carried: one value a round. All but the first for the most calls only.
#[derive(Default)]
pub struct Rates {
    /// The highest rate without loss, in round trips a second.
    pub no_loss: Vec<f64>,
    /// What was answered a second when twice that was offered.
    pub overload: Vec<f64>,
    /// The same, of the most that was answered a second at 0.95, 1.2 or 2 times the highest rate.
    pub kept: Vec<f64>,
    /// The time of the relay's core for a packet, softirqs and all, in microseconds: near the highest rate.
    pub cost: Vec<f64>,
}

/// Round trips of calls.
pub struct Paced {
    /// In nanoseconds, all rounds together: what happens once in a while counts.
    pub round_trips: Histogram<u64>,
    /// Packets without an answer, of all that were sent.
    pub lost: [u64; 2],
}

impl Default for Paced {
    fn default() -> Self {
        Self {
            round_trips: Histogram::new(3).expect("3 digits are allowed"),
            lost: [0; 2],
        }
    }
}

/// How many of the answered packets had no round trip that counts, for the generator was held up, in percent.
pub fn not_counted(answered: u64, round_trips: &Histogram<u64>) -> f64 {
    100.0 * (answered - round_trips.len()) as f64 / answered.max(1) as f64
}

impl Figures {
    /// Nothing measured yet.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            rates: Default::default(),
            cost_paced: Vec::new(),
            memory: None,
            paced: Default::default(),
            fault: None,
        }
    }
}

/// Round trips of one number of paced calls, beside a hog or not.
pub fn paced(
    relay: &mut Relay,
    figures: &mut Figures,
    which: usize,
    hog: bool,
    effort: Effort,
    cores: Cores,
) -> Result<()> {
    let flows = PACED[which];
    relay.traffic.warm(flows)?;
    let load = Load {
        flows,
        rate: f64::from(flows) * 50.0,
        gathering: Duration::ZERO,
        time: effort.paced[which],
    };
    let _hog = hog.then(|| Hog::start(cores.relay));
    let before = Busy::now(cores.relay);
    let outcome = relay.traffic.run(load)?;
    if which == 1 && !hog {
        let busy = before.since(cores.relay);
        figures.cost_paced.push(per_packet(busy, outcome.answered));
    }
    let paced = &mut figures.paced[which][usize::from(hog)];
    paced.round_trips.add(&outcome.round_trips)?;
    paced.lost[0] += outcome.sent - outcome.answered;
    paced.lost[1] += outcome.sent;
    Ok(())
}

/// What a flow costs in memory: once, before anything else has used as many flows.
pub fn memory(relay: &mut Relay, figures: &mut Figures) -> Result<()> {
    relay.traffic.warm(1)?;
    let before = [relay.memory(), slabs()];
    relay.traffic.warm(FLOWS)?;
    let after = [relay.memory(), slabs()];
    let each = |at: usize| (after[at] as f64 - before[at] as f64) * 1024.0 / f64::from(FLOWS - 1);
    figures.memory = Some([each(0), each(1)]);
    Ok(())
}

/// The highest rate without loss for one of [`CALLS`]; for the most, also what twice that does, and what it costs.
pub fn rates(
    relay: &mut Relay,
    figures: &mut Figures,
    which: usize,
    effort: Effort,
    cores: Cores,
) -> Result<()> {
    let (flows, gathering) = CALLS[which];
    let rates = &mut figures.rates[which];
    relay.traffic.warm(flows)?;
    let known = rates.no_loss.last().copied();
    let load = |rate, time| Load {
        flows,
        rate,
        time,
        gathering,
    };
    let best = search(relay, known, effort, |rate| load(rate, effort.step))?;
    rates.no_loss.push(best);
    if flows != FLOWS {
        return Ok(());
    }
    // The peak is where it is a little more than can be carried, if the queues do no harm yet.
    let mut answered = [0.0; 3];
    for (goodput, times) in answered.iter_mut().zip([0.95, 1.2, 2.0]) {
        let before = Busy::now(cores.relay);
        let outcome = relay.traffic.run(load(times * best, effort.long))?;
        *goodput = outcome.goodput;
        if times < 1.0 {
            let busy = before.since(cores.relay);
            rates.cost.push(per_packet(busy, outcome.answered));
        }
    }
    let [_, _, overload] = answered;
    rates.overload.push(overload);
    let peak = answered.into_iter().fold(0.0, f64::max);
    rates.kept.push(overload / peak);
    Ok(())
}

/// Looks for the highest rate without loss.
fn search(
    relay: &mut Relay,
    known: Option<f64>,
    effort: Effort,
    load: impl Fn(f64) -> Load,
) -> Result<f64> {
    let (mut rate, growth) = known.map_or((10_000.0, 2.0), |known| (known, 1.1));
    let (mut clean, mut lossy) = (0.0, f64::INFINITY);
    while lossy / f64::max(clean, 1.0) > effort.close {
        let load = load(rate);
        // Somebody else's work on the machine costs a packet at any rate; that the relay is too slow shows again.
        let mut passed = false;
        for _ in 0..2 {
            let outcome = relay.traffic.run(load)?;
            passed = outcome.is_clean(load);
            if passed || (outcome.answered as f64) < 0.95 * outcome.sent as f64 {
                break;
            }
        }
        if passed {
            clean = rate;
        } else {
            lossy = rate;
        }
        rate = match (clean > 0.0, lossy.is_finite()) {
            (_, false) => clean * growth,
            (false, _) => lossy / growth,
            _ => f64::midpoint(clean, lossy),
        };
        if rate < 50.0 {
            break;
        }
    }
    Ok(clean)
}

/// Microseconds a packet; a round trip is two.
fn per_packet(busy: Duration, answered: u64) -> f64 {
    busy.as_secs_f64() * 1e6 / (2 * answered.max(1)) as f64
}

/// What the kernel holds in slabs, in KiB.
fn slabs() -> u64 {
    number(
        &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        "Slab:",
    )
}

/// How busy the relay's core is without a relay, of 1.
pub fn disturbance(cores: Cores) -> f64 {
    let before = Busy::now(cores.relay);
    sleep(Duration::from_secs(1));
    before.since(cores.relay).as_secs_f64()
}

/// How long a core has idled, as the kernel tells to 10 ms.
struct Busy {
    idle: u64,
    at: Instant,
}

impl Busy {
    fn now(core: usize) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cpu{core} ")));
        // user, nice, system, idle, iowait. What runs at a low priority is somebody else's, and only where it may.
        let times = line.unwrap_or_default().split_whitespace();
        let spare = times.enumerate().filter(|(at, _)| [1, 3, 4].contains(at));
        let idle = spare.filter_map(|(_, time)| time.parse::<u64>().ok()).sum();
        Self {
            idle,
            at: Instant::now(),
        }
    }

    /// How long the core has been busy since.
    fn since(&self, core: usize) -> Duration {
        let now = Self::now(core);
        let idle = Duration::from_millis(10 * (now.idle - self.idle));
        now.at.duration_since(self.at).saturating_sub(idle)
    }
}

/// A thread that takes all of a core that it gets; it ends with this value.
pub struct Hog(Option<thread::JoinHandle<()>>);

static HOGGING: AtomicBool = AtomicBool::new(false);

impl Hog {
    /// Starts it on a core.
    pub fn start(core: usize) -> Self {
        HOGGING.store(true, Ordering::Relaxed);
        let thread = thread::spawn(move || {
            pin(core);
            while HOGGING.load(Ordering::Relaxed) {
                spin_loop();
            }
        });
        sleep(Duration::from_millis(100));
        Self(Some(thread))
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        HOGGING.store(false, Ordering::Relaxed);
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// Keeps this thread, and what it starts, on a core.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core).expect("it was checked against the machine's");
    sched_setaffinity(Pid::from_raw(0), &set).expect("the core exists");
}
