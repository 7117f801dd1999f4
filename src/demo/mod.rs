//! `voicelane demo`: the main function, measured in network namespaces of its own.
//!
//! # Theory of operation
//!
//! The process moves into new namespaces (`isolation`) and builds a network there (`network`): hosts are network
//! namespaces, joined by veth links (`lab::link`). A full-tunnel VPN really encapsulates (`wireguard`). The demo makes
//! two calls, one of each address family, through the VPN (`media`). Then it makes two more with voicelane on the laptop
//! (`service`). Packet sockets capture on every host (`capture`). All results of calls (`measure`) and of other traffic
//! (`checks`) come from the captures and from both ends of the calls. `report` compares them with expected values.
//!
//! Nothing outlives the process: namespaces, devices, rules, threads and the files in a private tmpfs end with it, and
//! the kernel kills the child process. An interrupt needs no handler.

mod capture;
mod checks;
mod isolation;
mod measure;
mod media;
mod network;
mod progress;
mod report;
mod service;
mod wireguard;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use capture::{CapturePoint, Captures};
use measure::{CallMeasurement, CallSetting};
use media::DemoCall;
use network::DemoNetwork;
use report::DemoReport;
use service::DemoService;

/// The exit code when this machine does not allow the demo its namespaces.
const NOT_ISOLATED: u8 = 3;

/// The length of the calls before the first probe.
const SETTLING: Duration = Duration::from_secs(1);

const PICTURE: &str = "\
A laptop in a full-tunnel VPN (WireGuard), in network namespaces apart from this machine:

   laptop ── home router ── internet ─┬─ VPN gateway (the demo adds 45 to 51 ms each way)
                                      ├─ media cloud 168.86.128.0/18, 2001:db8:c10d::/64
                                      └─ another host
";

/// Options of `voicelane demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Print the result as one JSON document
    #[arg(long)]
    json: bool,
    /// Length of each call in seconds, 2 to 60
    #[arg(long, value_name = "SECONDS", default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=60))]
    seconds: u64,
    /// Run the service with the demo's policy and this runtime directory, inside the demo
    #[arg(long, value_name = "DIR", hide = true)]
    service: Option<PathBuf>,
}

/// Runs the demo and prints its results: exit code 0 when all are as expected, 1 when not, 3 when this machine does not
/// allow the namespaces.
///
/// Must be called while the process has one thread; the process is of no other use afterwards.
///
/// # Errors
/// The network cannot be built, or voicelane does not start in it.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    if let Some(runtime_dir) = &args.service {
        service::run(runtime_dir)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(error) = isolation::isolate() {
        eprintln!("voicelane demo: {:#}", anyhow::Error::new(error));
        return Ok(ExitCode::from(NOT_ISOLATED));
    }
    let report = measure_all(Duration::from_secs(args.seconds))?;
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

fn measure_all(length: Duration) -> anyhow::Result<DemoReport> {
    let started = Instant::now();
    progress::say(PICTURE);
    let network = DemoNetwork::build()?;
    let mut captures = Captures::default();
    for (host, point) in [
        (&network.laptop, CapturePoint::Laptop),
        (&network.home, CapturePoint::Home),
        (&network.gateway, CapturePoint::Gateway),
        (&network.cloud, CapturePoint::Cloud),
    ] {
        captures.start(host, point)?;
    }
    network.connect_vpn()?;
    checks::serve(&network)?;

    let mut measurements = call(&network, &captures, CallSetting::VpnOnly, length)?;
    let mut service = DemoService::start(&network)?;
    let ready = Instant::now();
    measurements.extend(call(
        &network,
        &captures,
        CallSetting::WithVoicelane,
        length,
    )?);

    let calls = dial(&network)?;
    progress::listen("Other traffic", &calls, SETTLING);
    let mut checks = checks::probe(&network, &captures);
    let stray = |family: &_| checks::strays(*family, ready, &captures);
    checks.extend(network.families.iter().map(stray));
    let send = |call| checks::send_unsolicited(&network, call, &captures);
    let unsolicited = calls.iter().map(send).collect::<Result<Vec<_>, _>>()?;
    let killed = service.kill()?;
    progress::listen("voicelane killed", &calls, checks::AFTER_KILL);
    for (call, unsolicited) in media::hang_up(calls).iter().zip(unsolicited) {
        checks.push(unsolicited.outcome(call));
        checks.push(checks::failover(call, killed, &captures));
    }
    Ok(DemoReport::new(
        network.translates(),
        measurements,
        checks,
        started.elapsed(),
    ))
}

/// Makes one call of each family and measures it.
fn call(
    network: &DemoNetwork,
    captures: &Captures,
    setting: CallSetting,
    length: Duration,
) -> anyhow::Result<Vec<CallMeasurement>> {
    let calls = dial(network)?;
    progress::listen(&format!("Calls, {setting}"), &calls, length);
    let measure = |call: &_| CallMeasurement::of(call, setting, captures);
    Ok(media::hang_up(calls).iter().map(measure).collect())
}

fn dial(network: &DemoNetwork) -> anyhow::Result<Vec<DemoCall>> {
    let families = network.families.iter();
    families
        .map(|family| DemoCall::dial(network, *family))
        .collect()
}
