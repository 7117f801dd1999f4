//! `voicelane demo`: the main job, shown and measured in a world of its own.
//!
//! # Theory of operation
//!
//! The process moves into new namespaces (`namespace`) and builds a world there (`world`): hosts are network
//! namespaces, joined by veth cables (`link`). A full-tunnel VPN really encapsulates (`wireguard`). Two calls, one
//! of each address family, are made through it (`media`), then two more with `voicelane run` on the laptop
//! (`service`). Packet sockets watch every host (`capture`); all that is reported of a call (`measure`) and of
//! everything else (`checks`) comes from there and from the ends of the call, and is held against what it should be
//! (`report`).
//!
//! Nothing outlives the process: namespaces, devices, rules, threads and the files in a private tmpfs end with it, and
//! the one child process is killed by the kernel. An interrupt needs no handler.

mod capture;
mod checks;
mod link;
mod measure;
mod media;
mod namespace;
mod progress;
mod report;
mod service;
mod wireguard;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use capture::{Captures, Place};
use measure::{Measure, Setting};
use media::Call;
use report::Report;
use service::Service;
use world::World;

/// The exit code when this machine gives the demo no world of its own.
const NO_WORLD: u8 = 3;

/// How long calls go on before the first probe.
const SETTLING: Duration = Duration::from_secs(1);

const PICTURE: &str = "\
A laptop in a full-tunnel VPN (WireGuard), in a world apart from this machine:

   laptop ── home router ── internet ─┬─ VPN gateway, 45 ms away
                                      ├─ media cloud 168.86.128.0/18, 2001:db8:c10d::/64
                                      └─ another host
";

/// Options of `voicelane demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Print the result as one JSON document.
    #[arg(long)]
    json: bool,
    /// How long each call is, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=60))]
    seconds: u64,
}

/// Plays the demo and prints what it found: exit code 0 when all is as it should be, 1 when not, 3 when this machine
/// gives no namespaces.
///
/// Must be called while the process has one thread; the process is of no other use afterwards.
///
/// # Errors
/// The world could not be built, or voicelane did not start in it.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    if let Err(error) = namespace::isolate() {
        eprintln!("voicelane demo: {:#}", anyhow::Error::new(error));
        return Ok(ExitCode::from(NO_WORLD));
    }
    let report = play(Duration::from_secs(args.seconds))?;
    if args.json {
        println!("{}", report.json()?);
    } else {
        println!("{}", report.text());
    }
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn play(length: Duration) -> anyhow::Result<Report> {
    let started = Instant::now();
    progress::say(PICTURE);
    let world = World::build()?;
    let captures = Captures::default();
    for (node, place) in [
        (&world.laptop, Place::Laptop),
        (&world.home, Place::Home),
        (&world.gateway, Place::Gateway),
        (&world.cloud, Place::Cloud),
    ] {
        captures.watch(node, place)?;
    }
    world.connect_vpn()?;
    checks::serve(&world)?;

    let mut measures = call(&world, &captures, Setting::VpnOnly, length)?;
    let mut service = Service::start(&world)?;
    let ready = Instant::now();
    measures.extend(call(&world, &captures, Setting::WithVoicelane, length)?);

    let calls = dial(&world)?;
    progress::listen("Other traffic meanwhile", &calls, SETTLING);
    let mut findings = checks::probe(&world, &captures);
    let stray = |family: &_| checks::strays(*family, ready, &captures);
    findings.extend(world.families.iter().map(stray));
    let intrude = |call| checks::intrude(&world, call, &captures);
    let intrusions = calls.iter().map(intrude).collect::<Result<Vec<_>, _>>()?;
    let killed = service.kill()?;
    progress::listen("voicelane killed", &calls, checks::AFTERMATH);
    for (call, intrusion) in media::hang_up(calls).iter().zip(intrusions) {
        findings.push(intrusion.outcome(call));
        findings.push(checks::fallback(call, killed, &captures));
    }
    Ok(Report::new(
        world.translates(),
        measures,
        findings,
        started.elapsed(),
    ))
}

/// One call of each family, for a while.
fn call(
    world: &World,
    captures: &Captures,
    setting: Setting,
    length: Duration,
) -> anyhow::Result<Vec<Measure>> {
    let calls = dial(world)?;
    progress::listen(&format!("Calls, {setting}"), &calls, length);
    let measure = |call: &_| Measure::of(call, setting, captures);
    Ok(media::hang_up(calls).iter().map(measure).collect())
}

fn dial(world: &World) -> anyhow::Result<Vec<Call>> {
    world
        .families
        .iter()
        .map(|family| Call::dial(world, *family))
        .collect()
}
