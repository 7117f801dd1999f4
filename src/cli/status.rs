//! `voicelane status`: what the running service does.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;

use crate::control::{self, AskError, Body, Request, Status, TrafficStatus};

use super::{NOT_RUNNING, RuntimeDir};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print JSON (version 1) instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let reply = match control::ask(&args.runtime.runtime_dir, Request::Status) {
        Ok(reply) => reply,
        Err(error @ AskError::NotRunning(_)) => {
            eprintln!("voicelane: {error}");
            return Ok(ExitCode::from(NOT_RUNNING));
        }
        Err(error) => return Err(error.into()),
    };
    if args.json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&reply)?))?;
    } else if let Body::Status(status) = &reply.body {
        super::print(&text(status))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(out, "{name:<10} {value}").expect("a string takes everything");
    };
    let uptime = duration(status.uptime_seconds);
    line("voicelane", format!("{}, up {uptime}", status.program));
    match &status.uplink {
        None => line("uplink", "none: media stays in the VPN".to_owned()),
        Some(uplink) => {
            line("uplink", format!("{} ({})", uplink.interface, uplink.why));
            for (family, gateway) in [("IPv4", &uplink.gateway_v4), ("IPv6", &uplink.gateway_v6)] {
                let gateway = gateway.as_deref().unwrap_or("nothing: it stays in the VPN");
                line("", format!("{family} by way of {gateway}"));
            }
        }
    }
    let rules = match status.rule_priority {
        Some(priority) => format!("rules at priority {priority}"),
        None => "nothing captured".to_owned(),
    };
    let rules = match status.capture.as_str() {
        "prefix" => format!("{rules}, whole prefixes captured"),
        _ => rules,
    };
    line("tun", format!("{}, {rules}", status.tun));
    line("out", traffic(&status.outbound));
    line("in", traffic(&status.inbound));
    line("rejected", status.rejected.to_string());
    let fallback = &status.fallback;
    for family in &fallback.uplinks {
        line(
            "fallback",
            format!("{family}: the uplink fails, calls go on in the VPN"),
        );
    }
    if !fallback.falls.is_empty() {
        let (falls, returns) = (counted(&fallback.falls), counted(&fallback.returns));
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
    if !status.refusals.is_empty() {
        line("refused", counted(&status.refusals));
    }
    line("mappings", status.mappings.len().to_string());
    for mapping in &status.mappings {
        let outside = mapping.outside.as_deref().unwrap_or("opening");
        let (contacts, idle) = (mapping.contacts, mapping.idle_seconds);
        let fallen = mapping.fallen.as_deref();
        let fallen = fallen.map_or_else(String::new, |cause| format!(", in the VPN ({cause})"));
        line(
            "",
            format!(
                "{} -> {outside}, {contacts} remotes, idle {idle} s{fallen}",
                mapping.inside
            ),
        );
    }
    // TCP is off by default: of what was never there nothing is said.
    if status.tcp.values().any(|count| *count > 0) {
        let open = status.connections.len();
        let counts = status.tcp.iter().filter(|(_, count)| **count > 0);
        let counts: Vec<_> = counts
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        line("tcp", format!("{open} connections; {}", counts.join(", ")));
        for connection in &status.connections {
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

fn duration(seconds: u64) -> String {
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

    #[test]
    fn one_screen_tells_it_all() {
        let status = Status {
            program: "0.1.0".to_owned(),
            uptime_seconds: 3_725,
            tun: "voicelane0".to_owned(),
            uplink: Some(UplinkStatus {
                interface: "wlan0".to_owned(),
                gateway_v4: Some("192.168.1.1".to_owned()),
                gateway_v6: None,
                why: "the default route".to_owned(),
            }),
            rule_priority: Some(97),
            warnings: vec!["mind the gap".to_owned()],
            mappings: vec![MappingStatus {
                inside: "10.8.0.2:50000".to_owned(),
                outside: Some("192.168.1.10:50000".to_owned()),
                way: "tunnel".to_owned(),
                fallen: Some("silent".to_owned()),
                contacts: 2,
                age_seconds: 9,
                idle_seconds: 0,
            }],
            connections: vec![ConnectionStatus {
                inside: "10.8.0.2:40000".to_owned(),
                remote: "168.86.128.1:443".to_owned(),
                state: "established".to_owned(),
                bytes_out: 517,
                bytes_in: 4_096,
                ..ConnectionStatus::default()
            }],
            tcp: [("accepted".to_owned(), 1), ("refused".to_owned(), 0)].into(),
            outbound: TrafficStatus {
                packets: 3,
                bytes: 516,
                drops: [("not_in_policy".to_owned(), 1)].into(),
            },
            capture: "prefix".to_owned(),
            fallback: FallbackStatus {
                uplinks: vec!["IPv6".to_owned()],
                falls: [("silent".to_owned(), 2)].into(),
                returns: [("answered".to_owned(), 1)].into(),
                ..FallbackStatus::default()
            },
            errors_returned: 2,
            errors_suppressed: 1,
            refusals: [("open_emfile".to_owned(), 1), ("send_eperm".to_owned(), 2)].into(),
            ..Status::default()
        };
        let expected = "\
voicelane  0.1.0, up 1 h 2 min
uplink     wlan0 (the default route)
           IPv4 by way of 192.168.1.1
           IPv6 by way of nothing: it stays in the VPN
tun        voicelane0, rules at priority 97, whole prefixes captured
out        3 packets, 516 bytes; dropped: not_in_policy 1
in         0 packets, 0 bytes; dropped: none
rejected   0
fallback   IPv6: the uplink fails, calls go on in the VPN
fallback   into the VPN: silent 2; back: answered 1
errors     2 passed on to applications, 1 left out as too many
refused    open_emfile 1, send_eperm 2
mappings   1
           10.8.0.2:50000 -> 192.168.1.10:50000, 2 remotes, idle 0 s, in the VPN (silent)
tcp        1 connections; accepted 1
           10.8.0.2:40000 -> 168.86.128.1:443, established, 517 bytes out, 4096 in
warning    mind the gap
";
        assert_eq!(text(&status), expected);
    }
}
