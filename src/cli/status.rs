//! `voicelane status`: shows the state of the service on one screen.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::config::Config;
use crate::control::{
    self, Body, FailoverStatus, MappingStatus, Reply, Request, SchedulingStatus, State,
    StateReason, Status, TrafficStatus, UplinkStatus, VpnStatus,
};
use crate::route::desired::RoutingIds;
use crate::text::{count, duration};

use super::mappings::outside;
use super::watch::WatchArgs;
use super::{RuntimeDir, exit, summary};

/// The most mappings, and the most connections, on one screen.
const MOST_ROWS: usize = 10;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print JSON (version 1)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    watch: WatchArgs,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    args.watch.repeat(args.json, || {
        match control::ask(&args.runtime.runtime_dir, Request::Status) {
            Ok(reply) => show(&reply, args.json, args.watch.watch).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    })
}

/// Returns the output and the exit code. With `watch`, JSON has one object per line.
fn show(reply: &Reply, json: bool, watch: bool) -> anyhow::Result<(String, ExitCode)> {
    let (state, shown) = match &reply.body {
        Body::Status(status) => (status.state, text(status)),
        Body::Summary(summary) => (summary.state, summary::text(summary)),
        _ => bail!("the service sent an unexpected reply"),
    };
    let code = exit::of_state(state);
    let shown = if json {
        let json = if watch {
            serde_json::to_string(&reply)
        } else {
            serde_json::to_string_pretty(&reply)
        };
        json? + "\n"
    } else {
        shown
    };
    Ok((shown, code))
}

impl State {
    /// Returns the state as a phrase, without knowledge of families and calls.
    pub(super) const fn phrase(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Degraded => {
                "degraded: media leaves through the uplink, but not all of it or with a warning"
            }
            Self::NotWorking => "not working: no media leaves through an uplink",
        }
    }
}

/// Returns the state as a phrase: what happens to media.
pub(super) fn phrase(status: &Status) -> String {
    let in_vpn = status.media.iter();
    let in_vpn = in_vpn.filter(|(_, media)| media.egress == "tunnel");
    let in_vpn: Vec<_> = in_vpn.map(|(name, _)| name.replace("ip", "IP")).collect();
    match status.state {
        State::Degraded if !in_vpn.is_empty() => {
            format!("degraded: {} media is in the VPN", in_vpn.join(" and "))
        }
        State::Degraded if status.calls_in_vpn > 0 => {
            let calls = count(status.calls_in_vpn, "call");
            format!("degraded: new calls leave through the uplink, {calls} in the VPN")
        }
        State::Degraded => "degraded: media leaves through the uplink, with a warning".to_owned(),
        State::NotWorking if !in_vpn.is_empty() => {
            "not working: all media is in the VPN".to_owned()
        }
        State::Working | State::NotWorking => status.state.phrase().to_owned(),
    }
}

/// The lines of the screen. The first of several lines of a topic has its name.
struct Screen(String);

impl Screen {
    fn line(&mut self, name: &str, value: impl AsRef<str>) {
        writeln!(self.0, "{name:<10} {}", value.as_ref()).expect("a string takes everything");
    }
}

fn text(status: &Status) -> String {
    let mut screen = Screen(String::new());
    screen.line("state", phrase(status));
    let reason = status.reason.as_ref();
    if let Some(StateReason { text, remedy, .. }) = reason {
        screen.line("reason", text);
        if !remedy.is_empty() {
            screen.line("remedy", remedy);
        }
    }
    // The reason is one of the warnings, in most cases.
    let is_reason = |it: &&String| reason.is_none_or(|reason| !it.starts_with(&reason.text));
    for warning in status.warnings.iter().filter(is_reason) {
        screen.line("warning", warning);
    }
    let uptime = duration(status.uptime_seconds);
    screen.line(
        "voicelane",
        format!("{}, up {uptime}", status.program_version),
    );
    uplinks(status, &mut screen);
    for (interface, families) in &status.clients {
        let families = families.iter().map(|it| it.replace("ip", "IP"));
        let families = families.collect::<Vec<_>>().join(" and ");
        screen.line("clients", format!("on {interface}: {families}"));
    }
    if status.vpns.is_empty() {
        screen.line("vpn", "none found");
    }
    for vpn in &status.vpns {
        screen.line("vpn", describe_vpn(vpn));
    }
    if let Some(tun) = describe_tun(status) {
        screen.line("tun", tun);
    }
    if let Some(scheduling) = describe_scheduling(&status.scheduling) {
        screen.line("cpu", scheduling);
    }
    for (name, direction) in [("sent", &status.outbound), ("received", &status.inbound)] {
        if direction.packets > 0 || !direction.drops.is_empty() {
            screen.line(name, traffic(direction));
        }
    }
    if status.rejected > 0 {
        screen.line("rejected", count(status.rejected, "packet"));
    }
    failover(&status.failover, &mut screen);
    let (sent, suppressed) = (status.errors_returned, status.errors_suppressed);
    if sent + suppressed > 0 {
        let errors = count(sent, "ICMP error");
        let suppressed = match suppressed {
            0 => String::new(),
            _ => format!(", {suppressed} more suppressed by the rate limit"),
        };
        screen.line(
            "errors",
            format!("{errors} sent to applications{suppressed}"),
        );
    }
    if !status.kernel_errors.is_empty() {
        screen.line(
            "kernel",
            format!("refused {}", counts(&status.kernel_errors)),
        );
    }
    mappings(&status.mappings, &mut screen);
    connections(status, &mut screen);
    screen.0
}

fn uplinks(status: &Status, screen: &mut Screen) {
    if status.uplink.is_none() {
        screen.line("uplink", "none");
    }
    let both = ["IPv4", "IPv6"];
    let first = if status.uplink_v6.is_some() {
        &both[..1]
    } else {
        &both
    };
    let uplinks: [(&Option<UplinkStatus>, &[&str]); 2] =
        [(&status.uplink, first), (&status.uplink_v6, &both[1..])];
    for (uplink, families) in uplinks {
        let Some(uplink) = uplink else {
            continue;
        };
        screen.line(
            "uplink",
            format!("{} ({})", uplink.interface, uplink.reason),
        );
        for family in families {
            let gateway = match *family {
                "IPv4" => &uplink.gateway_v4,
                _ => &uplink.gateway_v6,
            };
            // A family that the policy does not have is not mentioned.
            let media = status.media.get(&family.to_lowercase());
            match (gateway, media) {
                (Some(gateway), Some(media)) if media.egress == "direct" => {
                    screen.line("", format!("{family} via {gateway}"));
                }
                (_, Some(media)) if media.egress == "tunnel" => {
                    screen.line("", format!("{family} is in the VPN"));
                }
                _ => {}
            }
        }
    }
}

/// Describes the TUN and its rules, if they differ from the defaults.
fn describe_tun(status: &Status) -> Option<String> {
    let default = RoutingIds::default().priority.0;
    let priority = status.rule_priority.filter(|it| *it != default);
    let is_prefix = status.capture_mode == "prefix";
    let name = &status.tun;
    if priority.is_none() && !is_prefix && name == Config::default().tun().name.as_str() {
        return None;
    }
    let rules = priority.map(|it| format!(", rules at priority {it}"));
    let capture = if is_prefix {
        ", whole prefixes are captured"
    } else {
        ""
    };
    Some(format!("{name}{}{capture}", rules.unwrap_or_default()))
}

/// Describes how the packet thread is scheduled. None if the service does not report it.
fn describe_scheduling(scheduling: &SchedulingStatus) -> Option<String> {
    let class = match scheduling.class.as_str() {
        "" => return None,
        "realtime" if scheduling.budget_exhausted == 0 => return None,
        "realtime" => "real-time scheduling",
        "budget_exhausted" => "normal scheduling: the real-time budget is used up for the moment",
        "not_permitted" => {
            "normal scheduling: real time is not permitted (LimitRTPRIO=1 permits it)"
        }
        _ => "normal scheduling, as configured",
    };
    Some(match scheduling.budget_exhausted {
        0 => class.to_owned(),
        times => format!("{class}; budget used up {}", count(times, "time")),
    })
}

fn traffic(traffic: &TrafficStatus) -> String {
    let (packets, bytes) = (
        count(traffic.packets, "packet"),
        count(traffic.bytes, "byte"),
    );
    if traffic.drops.is_empty() {
        return format!("{packets}, {bytes}");
    }
    format!("{packets}, {bytes}; dropped: {}", counts(&traffic.drops))
}

fn failover(failover: &FailoverStatus, screen: &mut Screen) {
    for family in &failover.failed_uplinks {
        screen.line(
            "failover",
            format!("{family}: the uplink failed; calls continue in the VPN"),
        );
    }
    if !failover.failovers.is_empty() {
        let moved = counts(&failover.failovers);
        screen.line("failover", format!("calls moved to the VPN: {moved}"));
    }
    if !failover.failbacks.is_empty() {
        let moved = counts(&failover.failbacks);
        screen.line("failback", format!("calls moved back: {moved}"));
    }
}

fn mappings(mappings: &[MappingStatus], screen: &mut Screen) {
    match mappings.len() {
        0 => screen.line("mappings", "none: there is no call"),
        number => screen.line("mappings", number.to_string()),
    }
    for mapping in mappings.iter().take(MOST_ROWS) {
        let (inside, outside) = (mapping.inside, outside(mapping));
        let (remotes, idle) = (count(mapping.remotes, "remote"), mapping.idle_seconds);
        let cause = mapping.failover_cause.as_deref();
        let cause = cause.map_or_else(String::new, |cause| format!(", in the VPN ({cause})"));
        screen.line(
            "",
            format!("{inside} -> {outside}, {remotes}, idle {idle} s{cause}"),
        );
    }
    if let Some(more @ 1..) = mappings.len().checked_sub(MOST_ROWS) {
        screen.line("", format!("and {more} more: voicelane mappings"));
    }
}

/// TCP is off by default, so its lines appear only once there was a connection.
fn connections(status: &Status, screen: &mut Screen) {
    let totals = status.tcp.iter().filter(|(_, number)| **number > 0);
    let totals: Vec<_> = totals
        .map(|(name, number)| format!("{name} {number}"))
        .collect();
    if totals.is_empty() {
        return;
    }
    let open = count(status.connections.len(), "open connection");
    screen.line("tcp", format!("{open}; {}", totals.join(", ")));
    for connection in status.connections.iter().take(MOST_ROWS) {
        let (inside, remote, state) = (&connection.inside, &connection.remote, &connection.state);
        let (sent, received) = (connection.bytes_out, connection.bytes_in);
        screen.line(
            "",
            format!("{inside} -> {remote}, {state}, {sent} bytes sent, {received} received"),
        );
    }
}

fn counts(by_reason: &BTreeMap<String, u64>) -> String {
    let counts = by_reason.iter();
    let counts: Vec<_> = counts
        .map(|(reason, number)| format!("{reason} {number}"))
        .collect();
    counts.join(", ")
}

fn describe_vpn(vpn: &VpnStatus) -> String {
    let kind = vpn.kind.as_deref().unwrap_or("tunnel");
    let takes = match (vpn.full_tunnel_v4, vpn.full_tunnel_v6) {
        (true, true) => "takes all of IPv4 and IPv6",
        (true, false) => "takes all of IPv4",
        (false, true) => "takes all of IPv6",
        (false, false) => "takes some networks",
    };
    format!("{} ({kind}), {takes}", vpn.interface)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ConnectionStatus, MediaStatus};

    fn mapping() -> MappingStatus {
        MappingStatus {
            id: "0.0".to_owned(),
            is_call: true,
            remote: "168.86.128.1:20000".parse().ok(),
            service: Some("media".to_owned()),
            last_answer_seconds: None,
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
    fn the_first_line_is_the_verdict_and_zeros_are_left_out() {
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
            media: [("ipv4", "direct"), ("ipv6", "none")]
                .map(|(family, egress)| {
                    let media = MediaStatus {
                        egress: egress.into(),
                        reason: None,
                    };
                    (family.to_owned(), media)
                })
                .into(),
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
            failover: FailoverStatus {
                failed_uplinks: vec!["IPv6".to_owned()],
                failovers: [("no_traffic".to_owned(), 2)].into(),
                failbacks: [("probes_answered".to_owned(), 1)].into(),
                ..FailoverStatus::default()
            },
            errors_returned: 2,
            errors_suppressed: 1,
            kernel_errors: [("open_emfile".to_owned(), 1), ("send_eperm".to_owned(), 2)].into(),
            ..Status::default()
        }
        .with_state();
        let expected = "\
state      degraded: media leaves through the uplink, with a warning
reason     mind the gap
voicelane  0.1.0, up 1 h 2 min
uplink     wlan0 (the default route)
           IPv4 via 192.168.1.1
vpn        tun0 (tun), takes all of IPv4
tun        voicelane0, rules at priority 97, whole prefixes are captured
sent       3 packets, 516 bytes; dropped: not_in_policy 1
failover   IPv6: the uplink failed; calls continue in the VPN
failover   calls moved to the VPN: no_traffic 2
failback   calls moved back: probes_answered 1
errors     2 ICMP errors sent to applications, 1 more suppressed by the rate limit
kernel     refused open_emfile 1, send_eperm 2
mappings   1
           10.8.0.2:50000 -> 192.168.1.10:50000, 2 remotes, idle 0 s, in the VPN (no_traffic)
tcp        1 open connection; accepted 1
           10.8.0.2:40000 -> 168.86.128.1:443, established, 517 bytes sent, 4096 received
";
        assert_eq!(text(&status), expected);
    }

    #[test]
    fn a_hundred_mappings_fit_on_one_screen() {
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
