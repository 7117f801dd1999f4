//! `voicelane explain`: shows the path that a packet takes now, and the reason. With `--policy`, the policy alone.

mod destination;
mod path;
mod policy;

use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::{Value, json};

use super::sources::{Files, Overrides};
use super::{RuntimeDir, exit};
use crate::config::Config;
use crate::control::{
    self, AskError, Body, EventKind, MediaStatus, Request, StateReason, Status, UplinkStatus,
};
use crate::daemon;
use crate::ipsec::Ipsec;
use crate::net::{Family, IfIndex, PerFamily, Protocol};
use crate::policy::Policy;
use crate::route::lookup::{PacketKey, RoutingDecision};
use crate::route::netlink::Rtnetlink;
use crate::route::observed::Observed;
use crate::route::vpn;

use destination::{Destination, Resolved};
use path::{Path, PathFacts, PathVerdict};
use policy::PolicyVerdict;

/// The arguments of `voicelane explain`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// Protocol: udp or tcp
    pub protocol: Protocol,
    /// Destination: an address or a host name, and a port; an IPv6 address in brackets
    #[arg(value_name = "HOST:PORT")]
    pub destination: Destination,
    /// Source address of the application, or its address and port
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = source)]
    pub from: Option<SocketAddr>,
    /// Show the policy alone: neither the service nor the kernel is asked
    #[arg(long)]
    pub policy: bool,
    /// Print JSON (version 1)
    #[arg(long)]
    pub json: bool,
    /// The configuration
    #[command(flatten)]
    pub files: Files,
    /// Settings of the command line
    #[command(flatten)]
    pub overrides: Overrides,
    /// Runtime directory
    #[command(flatten)]
    pub runtime: RuntimeDir,
    /// Day of the policy, with --policy; default: today (UTC)
    #[arg(long, value_name = "YYYY-MM-DD", requires = "policy")]
    pub date: Option<Date>,
}

fn source(text: &str) -> Result<SocketAddr, &'static str> {
    let address = text.parse::<IpAddr>().map(|addr| SocketAddr::new(addr, 0));
    address
        .or_else(|_| text.parse())
        .map_err(|_| "expected an address such as 10.8.0.2, or with a port 10.8.0.2:50000")
}

/// Prints the explanation of each address.
///
/// # Errors
/// If standard output cannot be written, or the kernel cannot be read. Errors of the configuration return exit code 2.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let config = match args.files.load(&args.overrides) {
        Ok(effective) => effective.into_config(),
        Err(error) => return Ok(error.report_as(args.json)),
    };
    let date = args.date.unwrap_or_else(daemon::today);
    let policy = Policy::compile(&config, date);
    let Resolved {
        addresses,
        resolver,
    } = match args.destination.resolve() {
        Ok(resolved) => resolved,
        Err(error) => {
            let text = format!("cannot resolve {}: {error}", args.destination);
            return Ok(exit::report_text(&text, exit::INVALID, args.json));
        }
    };
    let verdicts = addresses.iter();
    let verdicts: Vec<_> = verdicts
        .map(|to| PolicyVerdict::of(&policy, args.protocol, *to, date))
        .collect();
    let paths = if args.policy {
        Vec::new()
    } else {
        match Facts::collect(args, &config, &addresses) {
            Ok(facts) => facts.paths(args, &verdicts),
            Err(error) => {
                let text = format!("cannot read the kernel's routes: {error:#}");
                return Ok(exit::report_text(&text, exit::INVALID, args.json));
            }
        }
    };
    let explained: Vec<_> = addresses
        .iter()
        .zip(&verdicts)
        .enumerate()
        .map(|(index, (to, policy))| Explanation {
            to: *to,
            policy,
            path: paths.get(index),
        })
        .collect();
    if args.json {
        super::print(&format!(
            "{:#}\n",
            json(args, resolver.as_deref(), &explained)
        ))?;
    } else {
        super::print(&text(args, resolver.as_deref(), &explained))?;
    }
    Ok(code(&paths))
}

/// Exit code: 0 if everything leaves directly, 1 if something is in the VPN, 3 elsewhere, 2 if it was not measured.
fn code(paths: &[Path]) -> ExitCode {
    let has = |verdict| paths.iter().any(|path| path.verdict == verdict);
    ExitCode::from(match () {
        () if has(PathVerdict::Unknown) => exit::INVALID,
        () if has(PathVerdict::InVpn) => 1,
        () if has(PathVerdict::Elsewhere) => 3,
        () => 0,
    })
}

/// One address.
struct Explanation<'a> {
    to: SocketAddr,
    policy: &'a PolicyVerdict<'a>,
    path: Option<&'a Path>,
}

fn text(args: &ExplainArgs, resolver: Option<&str>, explained: &[Explanation<'_>]) -> String {
    let mut out = String::new();
    let mut line = |text: &str| writeln!(out, "{text}").expect("a string takes everything");
    if let Some(resolver) = resolver {
        let addresses = crate::text::count(explained.len(), "address");
        line(&format!(
            "{}: {addresses} from {resolver}",
            args.destination
        ));
    }
    for Explanation { to, policy, path } in explained {
        let verdict = path.map_or(policy.phrase(), |path| &path.text);
        line(&format!("{} {to}: {verdict}", args.protocol));
        if let Some(remedy) = path.and_then(|path| path.remedy.as_ref()) {
            line(&format!("  remedy     {remedy}"));
        }
        if let Some(not_measured) = path.and_then(|path| path.not_measured.as_ref()) {
            line(&format!("  unknown    {not_measured}"));
        }
        line(&policy.to_string());
    }
    out
}

fn json(args: &ExplainArgs, resolver: Option<&str>, explained: &[Explanation<'_>]) -> Value {
    let addresses = explained.iter().map(|Explanation { to, policy, path }| {
        json!({
            "destination": to.to_string(),
            "path": path.map(Path::json),
            "policy": policy.json(),
        })
    });
    json!({
        "version": 1,
        "protocol": args.protocol.to_string(),
        "destination": args.destination.to_string(),
        "from": args.from.map(|it| it.to_string()),
        "resolver": resolver,
        "addresses": addresses.collect::<Vec<_>>(),
    })
}

/// The state of the service and of the kernel, read once.
struct Facts {
    status: Result<Status, AskError>,
    observed: Observed,
    tun: String,
    failed_seconds: PerFamily<Option<u64>>,
    has_ipsec: Option<PerFamily<bool>>,
    /// For each address: the decision for an application, for the direct path, and for the path into the VPN.
    decisions: Vec<[io::Result<RoutingDecision>; 3]>,
}

impl Facts {
    fn collect(args: &ExplainArgs, config: &Config, to: &[SocketAddr]) -> anyhow::Result<Self> {
        let runtime_dir = &args.runtime.runtime_dir;
        let status = current_status(runtime_dir, config);
        let ids = daemon::routing_ids(config);
        let failed_seconds = failed_seconds(runtime_dir, status.as_ref().ok());
        let (observed, decisions, has_ipsec) = daemon::runtime()?.block_on(async {
            let kernel = Rtnetlink::open()?;
            let observed = kernel.observe().await?;
            let mut decisions = Vec::new();
            for to in to {
                let from = args.from.filter(|it| it.is_ipv4() == to.is_ipv4());
                let application = PacketKey {
                    user: caller(),
                    ..PacketKey::new(args.protocol, *to)
                };
                let application = PacketKey {
                    from: from.unwrap_or(application.from),
                    ..application
                };
                let direct = PacketKey {
                    mark: ids.mark,
                    device: uplink(status.as_ref().ok(), *to, &observed),
                    ..PacketKey::new(args.protocol, *to)
                };
                let tunnel = PacketKey {
                    mark: ids.tunnel_mark(),
                    device: None,
                    ..direct
                };
                let (application, direct, tunnel) = (
                    kernel.lookup(application).await,
                    kernel.lookup(direct).await,
                    kernel.lookup(tunnel).await,
                );
                decisions.push([application, direct, tunnel]);
            }
            // The kernel shows IPsec policies to administrators only.
            let has_ipsec = match Ipsec::open() {
                Ok(None) => Some(PerFamily::default()),
                Ok(Some(ipsec)) => ipsec.foreign_families().await.ok(),
                Err(_) => None,
            };
            anyhow::Ok((observed, decisions, has_ipsec))
        })?;
        let tun = match &status {
            Ok(status) => status.tun.clone(),
            Err(_) => config.tun().name.to_string(),
        };
        Ok(Self {
            status,
            observed,
            tun,
            failed_seconds,
            has_ipsec,
            decisions,
        })
    }

    fn paths(&self, args: &ExplainArgs, policies: &[PolicyVerdict<'_>]) -> Vec<Path> {
        let links = self.observed.links.iter();
        let tun = links.into_iter().find(|link| link.name == self.tun);
        let vpns = vpn::find(&self.observed, tun.map_or(IfIndex(0), |tun| tun.index));
        let unbound = SocketAddr::new(Family::V4.unspecified(), 0);
        let paths = self
            .decisions
            .iter()
            .zip(policies)
            .map(|(decisions, policy)| {
                let [route, direct, tunnel] = decisions;
                let family = Family::of(policy.to.ip());
                let facts = PathFacts {
                    from: args.from.unwrap_or(unbound),
                    route,
                    direct: direct.as_ref().ok().copied(),
                    tunnel: tunnel.as_ref().ok().copied(),
                    policy,
                    status: self.status.as_ref(),
                    observed: &self.observed,
                    vpns: &vpns,
                    tun: &self.tun,
                    failed_seconds: self.failed_seconds[family],
                    has_ipsec: self.has_ipsec.map(|has| has[family]),
                };
                facts.path()
            });
        paths.collect()
    }
}

/// The status of the service. Of a summary, which every user may read, the part that decides about paths.
fn current_status(runtime_dir: &std::path::Path, config: &Config) -> Result<Status, AskError> {
    match control::ask(runtime_dir, Request::Status)?.body {
        Body::Status(status) => Ok(*status),
        Body::Summary(summary) => {
            let mut reasons = summary.reasons.into_iter();
            let reason = StateReason {
                code: "not_captured".into(),
                text: reasons
                    .next()
                    .unwrap_or_else(|| "the reason was not measured".to_owned()),
                remedy: String::new(),
            };
            let media = Family::BOTH.map(|family| {
                let name = family.to_string().to_lowercase();
                let is_direct = summary.captured.contains(&name);
                let media = MediaStatus {
                    egress: if is_direct { "direct" } else { "tunnel" }.into(),
                    reason: (!is_direct).then(|| reason.clone()),
                };
                (name, media)
            });
            let uplink = summary.uplinks.into_iter().next();
            Ok(Status {
                tun: config.tun().name.to_string(),
                media: media.into(),
                uplink: uplink.map(|interface| UplinkStatus {
                    interface,
                    ..UplinkStatus::default()
                }),
                ..Status::default()
            })
        }
        _ => Err(AskError::Refused("the reply is not a status".to_owned())),
    }
}

/// The link of the service's uplink for a destination.
fn uplink(status: Option<&Status>, to: SocketAddr, observed: &Observed) -> Option<IfIndex> {
    let status = status?;
    let v6 = status.uplink_v6.as_ref().filter(|_| to.is_ipv6());
    let name = &v6.or(status.uplink.as_ref())?.interface;
    let mut links = observed.links.iter();
    links.find(|link| link.name == *name).map(|link| link.index)
}

/// Seconds since the uplink of each family failed, by the events of the service.
fn failed_seconds(
    runtime_dir: &std::path::Path,
    status: Option<&Status>,
) -> PerFamily<Option<u64>> {
    let failed = status.map_or(&[][..], |status| &status.failover.failed_uplinks);
    if failed.is_empty() {
        return PerFamily::default();
    }
    let events = match control::ask(runtime_dir, Request::Events { after: 0 }).map(|it| it.body) {
        Ok(Body::Events(list)) => list.events,
        _ => Vec::new(),
    };
    PerFamily::new(|family| {
        let name = family.to_string();
        let mut events = events.iter().rev();
        let event =
            events.find(|event| event.kind == EventKind::UplinkFailed && event.subject == name);
        let seconds = Timestamp::now().as_second() - event?.time.as_second();
        failed
            .contains(&name)
            .then(|| u64::try_from(seconds).unwrap_or(0))
    })
}

/// The user whose packets are looked up: the one that called sudo, if there is one. None for the user of this process.
fn caller() -> Option<u32> {
    let is_root = nix::unistd::geteuid().is_root();
    let user = std::env::var("SUDO_UID").ok().filter(|_| is_root);
    user.and_then(|user| user.parse().ok())
}

#[cfg(test)]
mod tests;
