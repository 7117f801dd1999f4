//! Selection of the uplink.

use super::*;
use crate::net::{Prefix, RouteTable};

const OWN: RouteProtocol = RouteProtocol(118);

fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
    Link {
        index: IfIndex(index),
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        hardware: 1,
        up: true,
        carrier: true,
    }
}

fn route(table: RouteTable, prefix: &str, metric: u32, link: u32, via: Option<&str>) -> Route {
    Route {
        table,
        prefix: prefix.parse::<Prefix>().expect("a prefix"),
        metric,
        protocol: RouteProtocol(3),
        unicast: true,
        hops: vec![Nexthop {
            link: Some(IfIndex(link)),
            via: via.map(|via| via.parse().expect("an address")),
        }],
    }
}

fn address(link: u32, addr: &str) -> InterfaceAddress {
    InterfaceAddress {
        link: IfIndex(link),
        addr: addr.parse().expect("an address"),
    }
}

fn laptop(routes: &[Route]) -> Observed {
    Observed {
        links: vec![
            link(2, "eth0", None),
            link(3, "wlan0", None),
            link(4, "tun0", Some("tun")),
        ],
        addresses: [2, 3]
            .into_iter()
            .flat_map(|link| ["2001:db8::5", "192.0.2.5"].map(|addr| address(link, addr)))
            .collect(),
        routes: routes.to_vec(),
        ..Observed::default()
    }
}

/// Returns the uplinks without preferences.
#[track_caller]
fn chosen(observed: &Observed) -> [Option<(&str, UplinkEvidence, UplinkGateway)>; 2] {
    let uplinks = choose(observed, OWN, &UplinkPreferences::default()).expect("an uplink");
    Family::BOTH.map(|family| {
        let uplink = uplinks[family].as_ref()?;
        let link = observed.link(uplink.index).expect("it is there");
        Some((link.name.as_str(), uplink.why, uplink.gateway))
    })
}

fn via(addr: &str) -> UplinkGateway {
    UplinkGateway::Via(addr.parse().expect("an address"))
}

#[test]
fn the_lowest_metric_wins_and_a_link_without_carrier_does_not() {
    let mut observed = laptop(&[
        route(MAIN, "0.0.0.0/0", 600, 3, Some("192.0.2.1")),
        route(MAIN, "0.0.0.0/0", 100, 2, Some("198.51.100.1")),
        route(MAIN, "0.0.0.0/0", 50, 4, Some("10.8.0.1")),
    ]);
    let eth0 = ("eth0", UplinkEvidence::DefaultRoute, via("198.51.100.1"));
    assert_eq!(chosen(&observed), [Some(eth0), None]);
    observed.links[0].carrier = false;
    let wlan0 = ("wlan0", UplinkEvidence::DefaultRoute, via("192.0.2.1"));
    assert_eq!(chosen(&observed), [Some(wlan0), None]);
}

#[test]
fn links_are_preferred_and_excluded_by_configuration() {
    let observed = laptop(&[
        route(MAIN, "0.0.0.0/0", 100, 2, Some("198.51.100.1")),
        route(MAIN, "0.0.0.0/0", 600, 3, Some("192.0.2.1")),
    ]);
    let patterns = |texts: &[&str]| {
        let patterns = texts.iter().map(|text| text.parse().expect("a pattern"));
        patterns.collect::<Vec<_>>()
    };
    let names = |prefer: &[&str], exclude: &[&str]| {
        let preferences = UplinkPreferences {
            pinned: None,
            prefer: patterns(prefer),
            exclude: patterns(exclude),
        };
        let ranked = rank(&observed, OWN, &preferences)?;
        let uplinks = ranked.v4.into_iter();
        Ok::<Vec<_>, UplinkError>(uplinks.map(|uplink| uplink.name).collect())
    };
    assert_eq!(names(&[], &[]).expect("two"), ["eth0", "wlan0"]);
    assert_eq!(
        names(&["usb*", "wl*"], &[]).expect("two"),
        ["wlan0", "eth0"]
    );
    assert_eq!(names(&["wl*", "e*"], &["wlan0"]).expect("one"), ["eth0"]);
    let error = names(&[], &["*"]).expect_err("none");
    assert_eq!(
        error.to_string(),
        "no network connection found (Wi-Fi or cable): eth0 (IPv4) is excluded by [uplink], wlan0 (IPv4) is excluded by [uplink]; name \
         one with --uplink IFACE"
    );
}

#[test]
fn the_host_route_to_the_server_has_the_gateway_that_the_vpn_replaced() {
    let observed = laptop(&[
        route(MAIN, "0.0.0.0/0", 0, 4, None),
        route(MAIN, "203.0.113.9/32", 0, 3, Some("192.0.2.1")),
        route(MAIN, "::/0", 0, 4, None),
    ]);
    let wlan0 = ("wlan0", UplinkEvidence::HostRoute, via("192.0.2.1"));
    assert_eq!(chosen(&observed), [Some(wlan0), None]);
}

#[test]
fn another_table_is_used_without_a_default_route_in_main() {
    let table = RouteTable(100);
    let own = Route {
        protocol: OWN,
        ..route(RouteTable(30316), "0.0.0.0/0", 0, 2, Some("198.51.100.1"))
    };
    let observed = laptop(&[own, route(table, "::/0", 0, 3, Some("fe80::1"))]);
    let wlan0 = ("wlan0", UplinkEvidence::OtherTable(table), via("fe80::1"));
    assert_eq!(chosen(&observed), [None, Some(wlan0)]);
}

#[test]
fn each_family_leaves_by_its_own_best_link() {
    let mut observed = laptop(&[
        route(MAIN, "0.0.0.0/0", 0, 2, Some("198.51.100.1")),
        route(MAIN, "::/0", 0, 3, Some("fe80::1")),
        route(MAIN, "::/0", 1024, 2, Some("fe80::2")),
    ]);
    let eth0 = Some(("eth0", UplinkEvidence::DefaultRoute, via("198.51.100.1")));
    let wlan0 = Some(("wlan0", UplinkEvidence::DefaultRoute, via("fe80::1")));
    assert_eq!(chosen(&observed), [eth0, wlan0]);

    // A pinned interface serves both families.
    let by = |text: &str| UplinkPreferences {
        prefer: vec![text.parse().expect("a pattern")],
        ..UplinkPreferences::default()
    };
    for (preferences, [v4, v6]) in [
        (by("eth*"), ["eth0", "eth0"]),
        (by("wlan*"), ["eth0", "wlan0"]),
    ] {
        let uplinks = choose(&observed, OWN, &preferences).expect("an uplink");
        let names = uplinks.present().map(|(_, uplink)| uplink.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), [v4, v6], "{preferences:?}");
    }
    let pinned = UplinkPreferences {
        pinned: Some("wlan0".to_owned()),
        ..UplinkPreferences::default()
    };
    let uplinks = choose(&observed, OWN, &pinned).expect("an uplink");
    assert_eq!(uplinks.v4, None, "the pinned link has no IPv4");
    assert_eq!(uplinks.v6.map(|it| it.name).as_deref(), Some("wlan0"));

    // Each family loses its uplink alone.
    observed.links[1].carrier = false;
    let eth0_v6 = Some(("eth0", UplinkEvidence::DefaultRoute, via("fe80::2")));
    assert_eq!(chosen(&observed), [eth0, eth0_v6]);
}

#[test]
fn a_route_without_an_address_of_its_family_is_no_uplink() {
    let mut observed = laptop(&[
        route(MAIN, "0.0.0.0/0", 0, 2, Some("198.51.100.1")),
        route(MAIN, "::/0", 0, 2, Some("fe80::1")),
    ]);
    observed.addresses = vec![
        address(2, "192.0.2.5"),
        address(2, "fe80::5"),
        address(4, "fd08::2"),
    ];
    let eth0 = ("eth0", UplinkEvidence::DefaultRoute, via("198.51.100.1"));
    assert_eq!(chosen(&observed), [Some(eth0), None]);
}

#[test]
fn the_error_names_rejected_links_and_the_remedy() {
    let mut observed = laptop(&[
        route(MAIN, "0.0.0.0/0", 0, 4, None),
        route(MAIN, "0.0.0.0/0", 5, 2, Some("198.51.100.1")),
    ]);
    observed.links[0].up = false;
    let error = choose(&observed, OWN, &UplinkPreferences::default()).expect_err("no uplink");
    assert_eq!(
        error.to_string(),
        "no network connection found (Wi-Fi or cable): tun0 (IPv4) is a tunnel, eth0 (IPv4) is down; name one with --uplink IFACE"
    );
    assert!(choose(&laptop(&[]), OWN, &UplinkPreferences::default()).is_err());
}

#[test]
fn a_pinned_link_may_be_one_that_is_never_selected() {
    let mut observed = laptop(&[
        route(MAIN, "0.0.0.0/0", 0, 2, Some("198.51.100.1")),
        route(MAIN, "0.0.0.0/0", 9, 4, None),
    ]);
    observed.addresses = vec![address(4, "10.8.0.2")];
    let pinned = |observed: &Observed, name: &str| {
        let preferences = UplinkPreferences {
            pinned: Some(name.to_owned()),
            ..UplinkPreferences::default()
        };
        choose(observed, OWN, &preferences)
    };
    let gateways = |uplinks: Uplinks| {
        let uplinks = [uplinks.v4, uplinks.v6];
        uplinks.map(|uplink| uplink.map(|it| (it.why, it.gateway)))
    };
    let on_link = Some((UplinkEvidence::Pinned, UplinkGateway::OnLink));
    let tunnel = pinned(&observed, "tun0").expect("an uplink");
    assert_eq!(gateways(tunnel), [on_link, None]);
    assert_eq!(
        pinned(&observed, "ppp9"),
        Err(UplinkError::Missing("ppp9".to_owned()))
    );
    assert_eq!(
        pinned(&observed, "wlan0"),
        Err(UplinkError::NoRoute("wlan0".to_owned()))
    );
    observed.addresses.push(address(3, "2001:db8::2"));
    let attached = pinned(&observed, "wlan0").expect("an uplink");
    assert_eq!(gateways(attached), [None, on_link]);
}

#[test]
fn a_tunnel_is_known_by_its_kind_and_otherwise_by_its_hardware() {
    let of = |kind, hardware| Link {
        hardware,
        ..link(9, "x", kind)
    };
    assert!(of(Some("wireguard"), 0xfffe).is_tunnel() && of(None, 512).is_tunnel());
    assert!(
        of(Some("tun"), 1).is_tunnel(),
        "a TAP is a tunnel that looks like Ethernet"
    );
    assert!(!of(Some("wwan"), 0xfffe).is_tunnel() && !of(Some("veth"), 1).is_tunnel());
    assert!(!of(None, 1).is_tunnel());
}
