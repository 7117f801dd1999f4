//! The data path beside other ways to carry a call: `scripts/bench datapath [--quick] [RELAY...]`.
//!
//! Client, router and server are namespaces of the benchmark's own; the relay under test has one core, generator and
//! echo another. `benches/README.md` says how to read the table that is printed.

mod burst;
mod frame;
mod loops;
mod measure;
#[path = "../../../tests/support/namespace.rs"]
#[allow(dead_code, reason = "the lab uses more of it")]
mod namespace;
#[path = "../../../tests/support/program.rs"]
#[allow(dead_code, reason = "the lab uses more of it")]
mod program;
mod relay;
mod report;
mod traffic;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::frame::Family;
use crate::loops::Readiness;
use crate::measure::{CALLS, Effort, Figures, PACED};
use crate::relay::{Kind, Programs, Relay};
use crate::traffic::INTERRUPTED;
use crate::world::Cores;

/// Measures voicelane's data path beside others.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    guest: Option<Guest>,
    /// One round, shorter.
    #[arg(long)]
    quick: bool,
    /// Calls over IPv6, by what is set up for it.
    #[arg(long)]
    ipv6: bool,
    /// voicelane's binary.
    #[arg(long, default_value = "target/release/voicelane")]
    voicelane: PathBuf,
    /// The folder in which what it is compared with was installed.
    #[arg(long, default_value = "target/peers")]
    peers: PathBuf,
    /// The core of the relay.
    #[arg(long, default_value_t = 1)]
    relay_core: usize,
    /// The core of generator and echo.
    #[arg(long, default_value_t = 0)]
    traffic_core: usize,
    /// Carries this many calls by the one relay that is named, for as many seconds, and prints what became of them: for a
    /// profiler beside it. CALLS:RATE:SECONDS, and behind that how many microseconds the cards gather, if they do
    #[arg(long, value_parser = parse_load)]
    load: Option<traffic::Load>,
    /// Beside that load, a thread that takes all of the relay's core that it gets.
    #[arg(long, requires = "load")]
    hog: bool,
    /// A command that starts the relays, such as "chrt --fifo 10".
    #[arg(long, default_value = "")]
    under: String,
    /// What to measure; without it everything but other loops than the plain one.
    relays: Vec<Kind>,
}

#[derive(Debug, Subcommand)]
enum Guest {
    /// Runs one of the loops.
    #[command(hide = true)]
    Loop {
        readiness: Readiness,
        tun: String,
        uplink: String,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Guest::Loop {
        readiness,
        tun,
        uplink,
    }) = arguments.guest
    {
        return loops::run(readiness, &tun, &uplink);
    }
    namespace::require(&[
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("taskset", "util-linux"),
    ]);
    let cores = Cores {
        relay: arguments.relay_core,
        traffic: arguments.traffic_core,
    };
    let available = std::thread::available_parallelism()?.get();
    ensure!(
        cores.relay != cores.traffic && cores.relay.max(cores.traffic) < available.min(32),
        "the relay and its traffic want a core each, of this machine's {available}"
    );
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))?;
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    measure::pin(cores.traffic);

    let programs = Programs {
        voicelane: arguments.voicelane,
        peers: arguments.peers,
        under: arguments
            .under
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
    };
    let wanted = match &arguments.relays[..] {
        [] => &Kind::DEFAULT,
        some => some,
    };
    let family = if arguments.ipv6 {
        Family::V6
    } else {
        Family::V4
    };
    let mut relays = Vec::new();
    for &kind in wanted {
        if let Some(remedy) = kind.wanting(&programs) {
            println!("NOT MEASURED: {}. Run: {remedy}", kind.name());
            continue;
        }
        if !kind.carries(family) {
            println!("NOT MEASURED: {} over IPv6", kind.name());
            continue;
        }
        relays.push(
            kind.start(&programs, family, cores)
                .with_context(|| kind.name())?,
        );
    }
    if let Some(load) = arguments.load {
        let _hog = arguments.hog.then(|| measure::Hog::start(cores.relay));
        return carry(&mut relays, load);
    }
    let disturbance = measure::disturbance(cores);
    if disturbance > 0.05 {
        println!(
            "NOT IDLE: others take {:.0} % of the relay's core",
            100.0 * disturbance
        );
    }
    let effort = if arguments.quick {
        Effort::QUICK
    } else {
        Effort::FULL
    };
    let all = measure(&mut relays, effort, cores)?;
    println!("\n{}\n{}", report::table(&all), report::targets(&all));
    for figures in &all {
        if let Some(fault) = &figures.fault {
            println!("FAILED: {}: {fault:#}", figures.kind.name());
        }
    }
    Ok(())
}

/// Everything, of everybody.
fn measure(relays: &mut [Relay], effort: Effort, cores: Cores) -> Result<Vec<Figures>> {
    type Step = Box<dyn Fn(&mut Relay, &mut Figures) -> Result<()>>;
    let mut steps: Vec<Step> = vec![Box::new(measure::memory)];
    for _ in 0..effort.rounds {
        for which in 0..PACED.len() {
            for hog in [false, true] {
                steps.push(Box::new(move |relay, figures| {
                    measure::paced(relay, figures, which, hog, effort, cores)
                }));
            }
        }
        for which in 0..CALLS.len() {
            steps.push(Box::new(move |relay, figures| {
                measure::rates(relay, figures, which, effort, cores)
            }));
        }
    }
    let mut all: Vec<_> = relays
        .iter()
        .map(|relay| Figures::new(relay.kind))
        .collect();
    let total = steps.len();
    let start = Instant::now();
    for (number, step) in steps.iter().enumerate() {
        eprint!("\r{}/{total} ", number + 1);
        for (relay, figures) in relays.iter_mut().zip(&mut all) {
            if figures.fault.is_none() {
                figures.fault = step(relay, figures).err();
            }
            if INTERRUPTED.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
        }
    }
    eprintln!("in {} s", start.elapsed().as_secs());
    Ok(all)
}

/// Carries one load by one relay.
fn carry(relays: &mut [Relay], load: traffic::Load) -> Result<()> {
    let [relay] = relays else {
        bail!("a load is carried by one relay: name it");
    };
    relay.traffic.warm(load.flows)?;
    let outcome = relay.traffic.run(load)?;
    let trip = |quantile| outcome.round_trips.value_at_quantile(quantile) / 1_000;
    println!(
        "{}: sent {}, answered {}, offered {:.0}/s, goodput {:.0}/s; p50 {} us, p99 {} us, p99.9 {} us of {} round trips, {:.2} % not counted",
        relay.kind.name(),
        outcome.sent,
        outcome.answered,
        outcome.offered,
        outcome.goodput,
        trip(0.5),
        trip(0.99),
        trip(0.999),
        outcome.round_trips.len(),
        measure::not_counted(outcome.answered, &outcome.round_trips)
    );
    Ok(())
}

fn parse_load(text: &str) -> Result<traffic::Load> {
    let (flows, rate, seconds, gathering) = match text.split(':').collect::<Vec<_>>()[..] {
        [flows, rate, seconds] => (flows, rate, seconds, "0"),
        [flows, rate, seconds, gathering] => (flows, rate, seconds, gathering),
        _ => bail!("CALLS:RATE:SECONDS, such as 2000:40000:10, or CALLS:RATE:SECONDS:MICROSECONDS"),
    };
    let flows = flows.parse()?;
    ensure!(
        (1..=traffic::FLOWS).contains(&flows),
        "1 to {} calls",
        traffic::FLOWS
    );
    let time = Duration::try_from_secs_f64(seconds.parse()?)?;
    let rate: f64 = rate.parse()?;
    ensure!(rate >= 1.0, "a packet a second at least");
    let gathering = Duration::from_micros(gathering.parse()?);
    Ok(traffic::Load {
        flows,
        rate,
        time,
        gathering,
    })
}
