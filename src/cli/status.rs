//! `voicelane status`: how the service does, on one screen.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::control::{
    self, AskError, Body, Reply, SchedulingStatus, State, Status, TrafficStatus, VpnStatus,
};

use super::mappings::outside;
use super::watch::WatchArgs;
use super::{NOT_RUNNING, RuntimeDir};

/// The exit code when the service does not tell: the asker may not know, or the service is too busy.
const NOT_TOLD: u8 = 4;

/// How many mappings one screen has room for.
const MAPPINGS: usize = 10;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print JSON (version 1) instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    watch: WatchArgs,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let show = || show(&args.runtime.runtime_dir, args.json, args.watch.watch);
    args.watch.repeat(args.json, show)
}

/// What to print, and the exit code that says the same. A watcher's JSON is one object a line.
fn show(runtime_dir: &Path, json: bool, watched: bool) -> anyhow::Result<(String, ExitCode)> {
    let status = match control::status(runtime_dir) {
        Ok(status) => status,
        Err(error) => return Ok(unavailable(&error, watched && !json)),
    };
    let code = ExitCode::from(match status.state {
        State::Working => 0,
        State::Degraded => 1,
        State::NotWorking => 2,
    });
    let shown = if json {
        let reply = Reply::new(Body::Status(Box::new(status)));
        let json = if watched {
            serde_json::to_string(&reply)
        } else {
            serde_json::to_string_pretty(&reply)
        };
        json? + "\n"
    } else {
        text(&status)
    };
    Ok((shown, code))
}

/// The output of a command that gets no status: on the screen of a watcher, or on standard error.
pub(super) fn unavailable(error: &AskError, is_on_screen: bool) -> (String, ExitCode) {
    if is_on_screen {
        return (format!("{error}\n"), not_told_code(error));
    }
    (String::new(), not_told(error))
}

/// Says on standard error why there is no status; answers the exit code.
pub(super) fn not_told(error: &AskError) -> ExitCode {
    match std::error::Error::source(error) {
        Some(source) => eprintln!("voicelane: {error}: {source}"),
        None => eprintln!("voicelane: {error}"),
    }
    not_told_code(error)
}

fn not_told_code(error: &AskError) -> ExitCode {
    ExitCode::from(match error {
        AskError::NotRunning(_) => NOT_RUNNING,
        _ => NOT_TOLD,
    })
}

impl State {
    /// The state in words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Degraded => "degraded: see the warnings",
            Self::NotWorking => "not working: media is in the VPN",
        }
    }
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(out, "{name:<10} {value}").expect("a string takes everything");
    };
    let uptime = duration(status.uptime_seconds);
    line(
        "voicelane",
        format!("{}, up {uptime}", status.program_version),
    );
    line("state", status.state.words().to_owned());
    if status.uplink.is_none() {
        line("uplink", "none: media stays in the VPN".to_owned());
    }
    let parts = status.uplink_v6.is_some();
    let both = ["IPv4", "IPv6"];
    let own = if parts { &both[..1] } else { &both };
    for (uplink, families) in [(&status.uplink, own), (&status.uplink_v6, &both[1..])] {
        let Some(uplink) = uplink else {
            continue;
        };
        line(
            "uplink",
            format!("{} ({})", uplink.interface, uplink.reason),
        );
        for family in families {
            let gateway = match *family {
                "IPv4" => &uplink.gateway_v4,
                _ => &uplink.gateway_v6,
            };
            let leaves = status.captured.contains(&family.to_lowercase());
            match gateway {
                Some(gateway) if leaves => line("", format!("{family} by way of {gateway}")),
                _ => line("", format!("{family} stays in the VPN")),
            }
        }
    }
    for (interface, families) in &status.clients {
        let families = families.iter().map(|it| it.replace("ip", "IP"));
        let families = families.collect::<Vec<_>>().join(" and ");
        line("clients", format!("at {interface}: {families}"));
    }
    if status.vpns.is_empty() {
        line("vpn", "none found".to_owned());
    }
    for vpn in &status.vpns {
        line("vpn", vpn_words(vpn));
    }
    let rules = match status.rule_priority {
        Some(priority) => format!("rules at priority {priority}"),
        None => "nothing captured".to_owned(),
    };
    let rules = match status.capture_mode.as_str() {
        "prefix" => format!("{rules}, whole prefixes captured"),
        _ => rules,
    };
    line("tun", format!("{}, {rules}", status.tun));
    if let Some(scheduling) = scheduling(&status.scheduling) {
        line("cpu", scheduling);
    }
    line("out", traffic(&status.outbound));
    line("in", traffic(&status.inbound));
    line("rejected", status.rejected.to_string());
    let fallback = &status.fallback;
    for family in &fallback.failed_uplinks {
        line(
            "fallback",
            format!("{family}: the uplink fails, calls go on in the VPN"),
        );
    }
    if !fallback.failovers.is_empty() {
        let (falls, returns) = (counted(&fallback.failovers), counted(&fallback.failbacks));
        line(
            "fallback",
            format!("into the VPN: {falls}; back: {returns}"),
        );
    }
    let (passed_on, left_out) = (status.errors_returned, status.errors_suppressed);
    line(
        "errors",
        format!("{passed_on} passed on to applications, {left_out} left out as too many"),
    );
    if !status.kernel_errors.is_empty() {
        line("refused", counted(&status.kernel_errors));
    }
    line("mappings", status.mappings.len().to_string());
    for mapping in status.mappings.iter().take(MAPPINGS) {
        let outside = outside(mapping);
        let (contacts, idle) = (mapping.remotes, mapping.idle_seconds);
        let fallen = mapping.failover_cause.as_deref();
        let fallen = fallen.map_or_else(String::new, |cause| format!(", in the VPN ({cause})"));
        line(
            "",
            format!(
                "{} -> {outside}, {contacts} remotes, idle {idle} s{fallen}",
                mapping.inside
            ),
        );
    }
    if let Some(more @ 1..) = status.mappings.len().checked_sub(MAPPINGS) {
        line("", format!("and {more} more: voicelane mappings"));
    }
    // TCP is off by default: of what was never there nothing is said.
    if status.tcp.values().any(|count| *count > 0) {
        let open = status.connections.len();
        let counts = status.tcp.iter().filter(|(_, count)| **count > 0);
        let counts: Vec<_> = counts
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        line("tcp", format!("{open} connections; {}", counts.join(", ")));
        for connection in status.connections.iter().take(MAPPINGS) {
            let (inside, remote, state) =
                (&connection.inside, &connection.remote, &connection.state);
            let (out, inward) = (connection.bytes_out, connection.bytes_in);
            line(
                "",
                format!("{inside} -> {remote}, {state}, {out} bytes out, {inward} in"),
            );
        }
    }
    for warning in &status.warnings {
        line("warning", warning.clone());
    }
    out
}

/// How the thread that carries packets is scheduled; nothing when a service says nothing of it.
fn scheduling(scheduling: &SchedulingStatus) -> Option<String> {
    let class = match scheduling.class.as_str() {
        "" => return None,
        "realtime" => "media runs in real time",
        "budget_exhausted" => {
            "media runs as any other program: its real-time budget is used up for the moment"
        }
        "not_permitted" => {
            "media runs as any other program: real time is not permitted (LimitRTPRIO=1 permits it)"
        }
        _ => "media runs as any other program, as configured",
    };
    Some(match scheduling.budget_exhausted {
        0 => class.to_owned(),
        times => format!("{class}; budget used up {times} times"),
    })
}

fn traffic(traffic: &TrafficStatus) -> String {
    let drops = if traffic.drops.is_empty() {
        "none".to_owned()
    } else {
        counted(&traffic.drops)
    };
    format!(
        "{} packets, {} bytes; dropped: {drops}",
        traffic.packets, traffic.bytes
    )
}

fn counted(reasons: &BTreeMap<String, u64>) -> String {
    let counted = reasons.iter();
    let counted: Vec<_> = counted.map(|(it, count)| format!("{it} {count}")).collect();
    counted.join(", ")
}

fn vpn_words(vpn: &VpnStatus) -> String {
    let kind = vpn.kind.as_deref().unwrap_or("tunnel");
    let takes = match (vpn.full_tunnel_v4, vpn.full_tunnel_v6) {
        (true, true) => "takes all of IPv4 and IPv6",
        (true, false) => "takes all of IPv4",
        (false, true) => "takes all of IPv6",
        (false, false) => "takes some networks",
    };
    format!("{} ({kind}), {takes}", vpn.interface)
}

pub(super) fn duration(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {seconds} s"),
        _ => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ConnectionStatus, FallbackStatus, MappingStatus, UplinkStatus};

    fn mapping() -> MappingStatus {
        MappingStatus {
            inside: "10.8.0.2:50000".parse().expect("an endpoint"),
            outside: "192.168.1.10:50000".parse().ok(),
            egress: "tunnel".into(),
            failover_cause: Some("no_traffic".into()),
            remotes: 2,
            age_seconds: 9,
            idle_seconds: 0,
        }
    }

    #[test]
    fn one_screen_tells_it_all() {
        let status = Status {
            program_version: "0.1.0".to_owned(),
            uptime_seconds: 3_725,
            tun: "voicelane0".to_owned(),
            uplink: Some(UplinkStatus {
                interface: "wlan0".to_owned(),
                gateway_v4: Some("192.168.1.1".to_owned()),
                gateway_v6: None,
                reason: "the default route".to_owned(),
            }),
            vpns: vec![VpnStatus {
                interface: "tun0".to_owned(),
                kind: Some("tun".to_owned()),
                full_tunnel_v4: true,
                full_tunnel_v6: false,
            }],
            captured: ["ipv4".to_owned()].into(),
            rule_priority: Some(97),
            warnings: vec!["mind the gap".to_owned()],
            mappings: vec![mapping()],
            connections: vec![ConnectionStatus {
                inside: "10.8.0.2:40000".parse().expect("an endpoint"),
                remote: "168.86.128.1:443".parse().expect("an endpoint"),
                state: "established".into(),
                bytes_out: 517,
                bytes_in: 4_096,
                age_seconds: 9,
                idle_seconds: 0,
            }],
            tcp: [("accepted".to_owned(), 1), ("refused".to_owned(), 0)].into(),
            outbound: TrafficStatus {
                packets: 3,
                bytes: 516,
                drops: [("not_in_policy".to_owned(), 1)].into(),
            },
            capture_mode: "prefix".to_owned(),
            fallback: FallbackStatus {
                failed_uplinks: vec!["IPv6".to_owned()],
                failovers: [("no_traffic".to_owned(), 2)].into(),
                failbacks: [("probes_answered".to_owned(), 1)].into(),
                ..FallbackStatus::default()
            },
            errors_returned: 2,
            errors_suppressed: 1,
            kernel_errors: [("open_emfile".to_owned(), 1), ("send_eperm".to_owned(), 2)].into(),
            ..Status::default()
        }
        .judged();
        let expected = "\
voicelane  0.1.0, up 1 h 2 min
state      degraded: see the warnings
uplink     wlan0 (the default route)
           IPv4 by way of 192.168.1.1
           IPv6 stays in the VPN
vpn        tun0 (tun), takes all of IPv4
tun        voicelane0, rules at priority 97, whole prefixes captured
out        3 packets, 516 bytes; dropped: not_in_policy 1
in         0 packets, 0 bytes; dropped: none
rejected   0
fallback   IPv6: the uplink fails, calls go on in the VPN
fallback   into the VPN: no_traffic 2; back: probes_answered 1
errors     2 passed on to applications, 1 left out as too many
refused    open_emfile 1, send_eperm 2
mappings   1
           10.8.0.2:50000 -> 192.168.1.10:50000, 2 remotes, idle 0 s, in the VPN (no_traffic)
tcp        1 connections; accepted 1
           10.8.0.2:40000 -> 168.86.128.1:443, established, 517 bytes out, 4096 in
warning    mind the gap
";
        assert_eq!(text(&status), expected);
    }

    #[test]
    fn a_hundred_mappings_fit_on_the_screen_too() {
        let status = Status {
            mappings: vec![mapping(); 100],
            ..Status::default()
        };
        let text = text(&status);
        assert!(text.contains("mappings   100\n"), "{text}");
        assert!(text.contains("and 90 more: voicelane mappings\n"), "{text}");
        assert!(text.lines().count() <= 24, "{text}");
    }
}
