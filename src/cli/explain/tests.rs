//! The path of a packet in every situation of the kernel and of the service.

use std::path::PathBuf;

use super::*;
use crate::control::{FailoverStatus, MappingStatus};
use crate::net::RouteTable;
use crate::route::lookup::RouteKind;
use crate::route::observed::Link;
use path::PathVerdict::{Direct, Elsewhere, InVpn, Unknown};

/// What one situation has, besides the default: full tunnel, running service, direct media.
struct Situation {
    protocol: Protocol,
    to: &'static str,
    from: &'static str,
    /// The link of the application's packet; none for no route.
    link: Option<&'static str>,
    kind: RouteKind,
    has_gateway: bool,
    /// The link of the direct path and the link of the path into the VPN.
    direct: &'static str,
    tunnel: &'static str,
    status: Result<Box<Status>, AskError>,
    has_ipsec: Option<bool>,
}

const LINKS: [(u32, &str, Option<&str>); 4] = [
    (2, "wlan0", None),
    (3, "tun0", Some("tun")),
    (4, "voicelane0", Some("tun")),
    (1, "lo", None),
];

fn status() -> Status {
    let media = |egress: &'static str| MediaStatus {
        egress: egress.into(),
        reason: None,
    };
    Status {
        tun: "voicelane0".to_owned(),
        uplink: Some(UplinkStatus {
            interface: "wlan0".to_owned(),
            ..UplinkStatus::default()
        }),
        media: [("ipv4".to_owned(), media("direct"))].into(),
        ..Status::default()
    }
}

fn in_vpn(code: &'static str, text: &str) -> Status {
    let reason = StateReason {
        code: code.into(),
        text: text.to_owned(),
        remedy: "Mend it.".to_owned(),
    };
    let media = MediaStatus {
        egress: "tunnel".into(),
        reason: Some(reason),
    };
    Status {
        media: [("ipv4".to_owned(), media)].into(),
        ..status()
    }
}

fn stopped() -> Result<Box<Status>, AskError> {
    Err(AskError::NotRunning(PathBuf::new()))
}

impl Default for Situation {
    fn default() -> Self {
        Self {
            protocol: Protocol::Udp,
            to: "168.86.128.10:20000",
            from: "0.0.0.0:0",
            link: Some("voicelane0"),
            kind: RouteKind::Unicast,
            has_gateway: false,
            direct: "wlan0",
            tunnel: "tun0",
            status: Ok(Box::new(status())),
            has_ipsec: Some(false),
        }
    }
}

/// Returns verdict, reason and text.
fn path(situation: &Situation) -> (PathVerdict, &'static str, String) {
    let policy = Policy::compile(&Config::default(), jiff::civil::date(2024, 6, 1));
    let to = situation.to.parse().expect("an endpoint");
    let policy = PolicyVerdict::of(
        &policy,
        situation.protocol,
        to,
        jiff::civil::date(2024, 6, 1),
    );
    let link = |&(index, name, kind): &(u32, &str, Option<&str>)| Link {
        index: IfIndex(index),
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        hardware: 1,
        up: true,
        carrier: true,
    };
    let observed = Observed {
        links: LINKS.iter().map(link).collect(),
        ..Observed::default()
    };
    let decision = |name: &str, kind, has_gateway| {
        let mut links = observed.links.iter();
        let link = links.find(|link| link.name == name).map(|link| link.index);
        RoutingDecision {
            link,
            table: RouteTable(254),
            kind,
            has_gateway,
        }
    };
    let route = situation
        .link
        .map(|it| decision(it, situation.kind, situation.has_gateway));
    let route = route.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENETUNREACH));
    let facts = PathFacts {
        from: situation.from.parse().expect("an endpoint"),
        route: &route,
        direct: Some(decision(situation.direct, RouteKind::Unicast, true)),
        tunnel: Some(decision(situation.tunnel, RouteKind::Unicast, true)),
        policy: &policy,
        status: situation.status.as_ref().map(AsRef::as_ref),
        observed: &observed,
        vpns: &vpn::find(&observed, IfIndex(4)),
        tun: "voicelane0",
        failed_seconds: situation
            .status
            .as_ref()
            .ok()
            .and_then(|status| (!status.failover.failed_uplinks.is_empty()).then_some(12)),
        has_ipsec: situation.has_ipsec,
    };
    let path = facts.path();
    (path.verdict, path.reason, path.text)
}

#[test]
fn the_living_state_decides() {
    let not_policy = "192.0.2.1:20000";
    let failed_over = MappingStatus {
        id: "1.0".to_owned(),
        is_call: true,
        remote: Some("168.86.128.1:20000".parse().expect("an endpoint")),
        service: Some("talkdesk-media".to_owned()),
        last_answer_seconds: Some(1),
        inside: "10.8.0.2:50000".parse().expect("an endpoint"),
        outside: None,
        egress: "tunnel".into(),
        failover_cause: Some("no_responses".into()),
        remotes: 1,
        age_seconds: 1,
        idle_seconds: 1,
    };
    let failed = Status {
        failover: FailoverStatus {
            failed_uplinks: vec!["IPv4".to_owned()],
            ..FailoverStatus::default()
        },
        ..in_vpn("uplink_failed", "IPv4 media is in the VPN.")
    };
    let cases = [
        (
            Situation::default(),
            Direct,
            "captured",
            "leaves directly by wlan0, marked EF",
        ),
        (
            Situation {
                status: Ok(Box::new(failed)),
                ..Situation::default()
            },
            InVpn,
            "uplink_failed",
            "in the VPN (tun0): the direct path failed 12 s ago",
        ),
        (
            Situation {
                status: Ok(Box::new(Status {
                    mappings: vec![failed_over],
                    ..status()
                })),
                from: "10.8.0.2:50000",
                ..Situation::default()
            },
            InVpn,
            "call_failed_over",
            "in the VPN (tun0): the direct path of this call failed (no_responses)",
        ),
        (
            Situation {
                direct: "tun0",
                ..Situation::default()
            },
            InVpn,
            "uplink_is_vpn",
            "in the VPN (tun0): the service's uplink is the VPN itself",
        ),
        (
            Situation {
                link: Some("tun0"),
                status: stopped(),
                ..Situation::default()
            },
            InVpn,
            "not_running",
            "in the VPN (tun0): voicelane is not running",
        ),
        (
            Situation {
                link: Some("wlan0"),
                has_gateway: true,
                status: stopped(),
                ..Situation::default()
            },
            Elsewhere,
            "not_running",
            "not in any VPN: goes by wlan0, not marked: voicelane is not running",
        ),
        (
            Situation {
                status: stopped(),
                ..Situation::default()
            },
            Elsewhere,
            "leftover",
            "goes nowhere: voicelane0 is left over, and no service reads it",
        ),
        (
            Situation {
                link: Some("tun0"),
                status: Ok(Box::new(in_vpn("no_uplink", "no cable"))),
                ..Situation::default()
            },
            InVpn,
            "no_uplink",
            "in the VPN (tun0): no cable",
        ),
        (
            Situation {
                link: Some("tun0"),
                status: Ok(Box::new(in_vpn("firewall_blocked", "a firewall blocks"))),
                ..Situation::default()
            },
            InVpn,
            "firewall_blocked",
            "in the VPN (tun0): a firewall blocks",
        ),
        (
            Situation {
                link: Some("tun0"),
                ..Situation::default()
            },
            InVpn,
            "foreign_rule",
            "in the VPN (tun0): another rule decides",
        ),
        (
            Situation {
                link: Some("tun0"),
                to: not_policy,
                ..Situation::default()
            },
            InVpn,
            "not_in_policy",
            "in the VPN (tun0)",
        ),
        (
            Situation {
                to: not_policy,
                ..Situation::default()
            },
            Direct,
            "other_policy",
            "leaves directly by wlan0: the running service has another policy than these files",
        ),
        (
            Situation {
                status: Err(AskError::Busy),
                ..Situation::default()
            },
            Unknown,
            "not_measured",
            "captured by voicelane; not measured: whether it leaves directly",
        ),
        (
            Situation {
                link: Some("wlan0"),
                to: "192.168.1.1:53",
                ..Situation::default()
            },
            Elsewhere,
            "not_in_policy",
            "not in any VPN: local network (wlan0)",
        ),
        (
            Situation {
                link: Some("wlan0"),
                to: "224.0.0.251:5353",
                kind: RouteKind::Multicast,
                ..Situation::default()
            },
            Elsewhere,
            "not_in_policy",
            "not in any VPN: multicast or broadcast on wlan0",
        ),
        (
            Situation {
                link: Some("lo"),
                to: "127.0.0.1:53",
                kind: RouteKind::Local,
                ..Situation::default()
            },
            Elsewhere,
            "this_machine",
            "not in any VPN: an address of this machine",
        ),
        (
            Situation {
                link: None,
                to: not_policy,
                ..Situation::default()
            },
            Elsewhere,
            "no_route",
            "goes nowhere: the kernel has no route (Network is unreachable (os error 101))",
        ),
    ];
    for (situation, verdict, reason, text) in cases {
        assert_eq!(path(&situation), (verdict, reason, text.to_owned()));
    }
}

#[test]
fn several_addresses_have_the_code_of_the_worst() {
    let of = |verdicts: &[PathVerdict]| {
        let path = |verdict: &PathVerdict| Path {
            verdict: *verdict,
            interface: None,
            reason: "",
            text: String::new(),
            remedy: None,
            not_measured: None,
        };
        code(&verdicts.iter().map(path).collect::<Vec<_>>())
    };
    assert_eq!(of(&[Direct, Direct]), ExitCode::SUCCESS);
    assert_eq!(of(&[Direct, Elsewhere, InVpn]), ExitCode::from(1));
    assert_eq!(of(&[Direct, Elsewhere]), ExitCode::from(3));
    assert_eq!(of(&[Unknown, InVpn]), ExitCode::from(2));
}
