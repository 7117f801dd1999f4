//! The plan against a model of the kernel, from random states.

use super::super::desired::{FirewallMarks, PortlessLookups, Uplink, UplinkEvidence, Uplinks};
use super::super::observed::Link;
use super::*;
use crate::net::{Capture, IfIndex, RouteProtocol, RulePriority};
use proptest::prelude::*;

const IDS: fn() -> RoutingIds = RoutingIds::default;

fn uplink(index: u32, via: &str) -> Uplink {
    Uplink {
        name: format!("eth{index}"),
        index: IfIndex(index),
        gateway: UplinkGateway::Via(via.parse().expect("an address")),
        why: UplinkEvidence::DefaultRoute,
    }
}

/// Uplinks with these interface indexes.
fn uplinks(v4: Option<u32>, v6: Option<u32>) -> Uplinks {
    Uplinks {
        v4: v4.map(|index| uplink(index, "192.0.2.1")),
        v6: v6.map(|index| uplink(index, "fe80::1")),
    }
}

fn capture(ports: &str, prefixes: &[&str]) -> Capture {
    Capture {
        protocol: Protocol::Udp,
        ports: ports.parse().expect("ports"),
        prefixes: prefixes
            .iter()
            .map(|text| text.parse().expect("a prefix"))
            .collect(),
    }
}

fn desired(captures: &[Capture]) -> Desired {
    Desired {
        tun: IfIndex(9),
        uplinks: uplinks(Some(2), Some(2)),
        captures: captures.to_vec(),
        blocked: Vec::new(),
        marks: FirewallMarks::default(),
        clients: BTreeSet::new(),
        lookups: PortlessLookups::default(),
    }
}

fn foreign_rule(priority: u32, table: u32) -> RoutingRule {
    RoutingRule {
        family: Family::V4,
        priority: RulePriority(priority),
        protocol: RouteProtocol(0),
        table: RouteTable(table),
        selector: RuleSelector::default(),
        opaque: false,
    }
}

/// Applies a change as the kernel does, and fails where the kernel would.
fn apply(state: &mut Observed, change: &RoutingChange) -> Result<(), TestCaseError> {
    let at = |state: &Observed, route: &Route| {
        state
            .routes
            .iter()
            .position(|there| there.key() == route.key())
    };
    match change {
        RoutingChange::AddRoute(route) => {
            prop_assert_eq!(at(state, route), None, "{} is there", route);
            state.routes.push(route.clone());
        }
        RoutingChange::ReplaceRoute(route) => {
            let at = at(state, route).ok_or_else(|| TestCaseError::fail("nothing to replace"))?;
            prop_assert!(
                state.routes[at].is_owned_by(&IDS()),
                "replaces a foreign route"
            );
            state.routes[at] = route.clone();
        }
        RoutingChange::AddRule(rule) => {
            prop_assert!(!state.rules.contains(rule), "{} is there", rule);
            state.rules.push(rule.clone());
        }
        RoutingChange::DeleteRule(rule) => {
            prop_assert!(rule.is_owned_by(&IDS()) && state.rules.contains(rule));
            state.rules.retain(|there| there != rule);
        }
        RoutingChange::DeleteRoute(route) => {
            prop_assert!(route.is_owned_by(&IDS()) && state.routes.contains(route));
            state.routes.retain(|there| there != route);
        }
    }
    Ok(())
}

type Captured = BTreeSet<(Protocol, PortRange, Prefix)>;

/// Returns the destinations that voicelane's rules lead into the TUN, from any socket.
fn captured(state: &Observed, tun: IfIndex) -> Captured {
    let rules = state.rules.iter().filter(|rule| rule.is_owned_by(&IDS()));
    rules
        .filter(|rule| rule.selector.oif.is_none())
        .filter_map(|rule| {
            let ports = rule.selector.ports.unwrap_or(PortRange::ALL);
            Some((rule, rule.selector.protocol?, ports))
        })
        .flat_map(|(rule, protocol, ports)| {
            let routes = state.routes.iter().filter(move |route| {
                route.table == rule.table
                    && route.family() == rule.family
                    && route.hops.iter().any(|hop| hop.link == Some(tun))
            });
            routes.map(move |route| (protocol, ports, route.prefix))
        })
        .collect()
}

fn desired_captures(desired: &Desired) -> Captured {
    let pairs = desired.captures.iter().flat_map(|capture| {
        let prefixes = capture.prefixes.iter();
        prefixes.map(move |prefix| (capture.protocol, capture.ports, *prefix))
    });
    pairs
        .filter(|(.., prefix)| desired.uplinks[prefix.family()].is_some())
        .filter(|(.., prefix)| !desired.blocked.contains(&prefix.family()))
        .collect()
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    prop::sample::select(vec![
        "10.0.0.0/8",
        "10.1.0.0/16",
        "2001:db8::/32",
        "2001:db8:1::/48",
    ])
    .prop_map(|text| text.parse().expect("a prefix"))
}

fn port_ranges() -> impl Strategy<Value = PortRange> {
    prop::sample::select(vec!["3478", "10000-60000", "53", "1-65535"])
        .prop_map(|text| text.parse().expect("ports"))
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::Udp, Protocol::Tcp])
}

fn protocol_numbers() -> impl Strategy<Value = RouteProtocol> {
    prop::sample::select(vec![
        RouteProtocol(118),
        RouteProtocol(118),
        RouteProtocol(3),
    ])
}

fn table_numbers() -> impl Strategy<Value = RouteTable> {
    prop_oneof![6 => 30316u32..30321, 1 => 253u32..256].prop_map(RouteTable)
}

fn routes() -> impl Strategy<Value = Route> {
    let defaults = prop::sample::select(vec![
        all_destinations(Family::V4),
        all_destinations(Family::V6),
    ]);
    let prefixes = prop_oneof![2 => prefixes(), 1 => defaults];
    (
        table_numbers(),
        prefixes,
        0u32..3,
        protocol_numbers(),
        2u32..10,
    )
        .prop_map(|(table, prefix, metric, protocol, link)| Route {
            table,
            prefix,
            metric,
            protocol,
            unicast: true,
            hops: vec![Nexthop {
                link: Some(IfIndex(link)),
                via: None,
            }],
        })
}

fn rules() -> impl Strategy<Value = RoutingRule> {
    let group = prop::option::of((protocols(), port_ranges()));
    let priorities = prop::sample::select(vec![0u32, 1, 2, 60, 99, 100, 32766]);
    (
        any::<bool>(),
        priorities,
        protocol_numbers(),
        table_numbers(),
        group,
        any::<bool>(),
    )
        .prop_map(
            |(v6, priority, protocol, table, group, opaque)| RoutingRule {
                family: if v6 { Family::V6 } else { Family::V4 },
                priority: RulePriority(priority),
                protocol,
                table,
                selector: RuleSelector {
                    iif: Some("lo".to_owned()),
                    protocol: group.map(|(protocol, _)| protocol),
                    ports: group.map(|(_, ports)| ports),
                    ..RuleSelector::default()
                },
                opaque,
            },
        )
}

fn states() -> impl Strategy<Value = Observed> {
    let routes = prop::collection::vec(routes(), 0..12);
    let rules = prop::collection::btree_set(rules(), 0..12);
    (routes, rules).prop_map(|(routes, rules)| {
        let by_key: BTreeMap<_, _> = routes
            .into_iter()
            .map(|route| (route.key(), route))
            .collect();
        Observed {
            links: (7..10).map(tun).collect(),
            routes: by_key.into_values().collect(),
            rules: rules.into_iter().collect(),
            ..Observed::default()
        }
    })
}

fn tun(index: u32) -> Link {
    Link {
        index: IfIndex(index),
        name: format!("voicelane{index}"),
        kind: Some("tun".to_owned()),
        hardware: 0xfffe,
        up: true,
        carrier: true,
    }
}

fn desired_states() -> impl Strategy<Value = Desired> {
    let capture = (
        protocols(),
        port_ranges(),
        prop::collection::vec(prefixes(), 0..4),
    )
        .prop_map(|(protocol, ports, prefixes)| Capture {
            protocol,
            ports,
            prefixes,
        });
    let link = || prop::option::weighted(0.8, 2u32..4);
    let blocked = prop::sample::subsequence(vec![Family::V4, Family::V6], 0..=2);
    let captures = prop::collection::vec(capture, 0..5);
    let mark = prop::option::of(Just(Fwmark(0xca6c)));
    let clients = [
        (Family::V4, "lan0".to_owned()),
        (Family::V6, "lan0".to_owned()),
        (Family::V4, "lan1".to_owned()),
    ];
    let clients = prop::sample::subsequence(clients.to_vec(), 0..=3);
    let lookups = any::<(bool, bool)>();
    let others = (blocked, mark, clients, lookups);
    (7u32..10, (link(), link()), captures, others).prop_map(
        |(tun, (v4, v6), captures, (blocked, mark, clients, (outgoing, incoming)))| Desired {
            tun: IfIndex(tun),
            uplinks: uplinks(v4, v6),
            captures,
            blocked,
            marks: FirewallMarks {
                mark,
                conntrack_mark: None,
            },
            clients: clients.into_iter().collect(),
            lookups: PortlessLookups { outgoing, incoming },
        },
    )
}

proptest! {
    #[test]
    fn applying_a_plan_is_safe_and_converges(mut state in states(), desires in prop::collection::vec(desired_states(), 1..4)) {
        let foreign = |state: &Observed| {
            let routes = state.routes.iter().filter(|route| !route.is_owned_by(&IDS()));
            let rules = state.rules.iter().filter(|rule| !rule.is_owned_by(&IDS()));
            (routes.cloned().collect::<BTreeSet<_>>(), rules.cloned().collect::<BTreeSet<_>>())
        };
        let others = foreign(&state);
        for desired in desires {
            let (before, wanted) = (captured(&state, desired.tun), desired_captures(&desired));
            let steps = plan(&desired, &IDS(), &state).expect("few port ranges");
            for change in &steps.changes {
                apply(&mut state, change)?;
                let now = captured(&state, desired.tun);
                prop_assert!(before.intersection(&wanted).all(|kept| now.contains(kept)), "let go: {change}");
                prop_assert!(now.iter().all(|one| before.contains(one) || wanted.contains(one)), "leaked: {change}");
            }
            prop_assert_eq!(captured(&state, desired.tun), wanted);
            prop_assert_eq!(foreign(&state), others.clone());
            let again = plan(&desired, &IDS(), &state).expect("few port ranges");
            prop_assert_eq!(again.changes, vec![]);
            prop_assert_eq!(again.warnings, steps.warnings);
        }
        for change in removal(&IDS(), &state) {
            apply(&mut state, &change)?;
        }
        prop_assert!(!state.routes.iter().any(|route| route.is_owned_by(&IDS())));
        prop_assert!(!state.rules.iter().any(|rule| rule.is_owned_by(&IDS())));
        prop_assert_eq!(foreign(&state), others);
    }
}

#[test]
fn our_rules_stay_ahead_of_the_first_foreign_one() {
    let mut state = Observed::default();
    let priorities = |state: &Observed| {
        let changes = plan(&desired(&[capture("3478", &["10.0.0.0/8"])]), &IDS(), state);
        let changes = changes.expect("one port range").changes.into_iter();
        let found: BTreeSet<_> = changes
            .filter_map(|change| match change {
                RoutingChange::AddRule(rule) => Some(rule.priority.0),
                _ => None,
            })
            .collect();
        found.into_iter().collect::<Vec<_>>()
    };
    for (priority, table) in [(0, LOCAL.0), (32766, 254), (32767, 253)] {
        state.rules.push(foreign_rule(priority, table));
    }
    assert_eq!(priorities(&state), [100]);
    state
        .rules
        .extend([foreign_rule(98, 254), foreign_rule(99, 51820)]);
    assert_eq!(priorities(&state), [97]);
    state.rules.push(foreign_rule(50, LOCAL.0));
    state.rules.push(RoutingRule {
        protocol: IDS().protocol,
        ..foreign_rule(40, 7)
    });
    assert_eq!(
        priorities(&state),
        [97],
        "the local table and another voicelane are no rivals"
    );
    state.rules.push(foreign_rule(1, 52));
    assert_eq!(priorities(&state), [0]);
}

#[test]
fn a_foreign_rule_at_priority_zero_is_a_warning() {
    let top = foreign_rule(0, 52);
    let state = Observed {
        rules: vec![foreign_rule(0, LOCAL.0), top.clone()],
        ..Observed::default()
    };
    let plan = plan(
        &desired(&[capture("3478", &["10.0.0.0/8"])]),
        &IDS(),
        &state,
    );
    assert_eq!(
        plan.expect("one port range").warnings,
        [Warning::Outranked(top)]
    );
}

#[test]
fn routes_precede_the_rules_that_look_them_up() {
    let both = desired(&[capture("3478", &["10.0.0.0/8", "2001:db8::/32"])]);
    let plan = plan(&both, &IDS(), &Observed::default()).expect("one port range");
    let shown: Vec<_> = plan.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "add IPv4 0.0.0.0/0 via 192.0.2.1 dev #2 table 30316 metric 1",
            "add IPv4 10.0.0.0/8 dev #9 table 30317 metric 1",
            "add IPv6 ::/0 via fe80::1 dev #2 table 30316 metric 1",
            "add IPv6 2001:db8::/32 dev #9 table 30317 metric 1",
            "add IPv4 rule 100: fwmark 0x76000000/0xff000000 oif eth2 lookup 30316",
            "add IPv4 rule 100: iif lo fwmark 0x0/0xff000000 ipproto udp dport 3478 lookup 30317",
            "add IPv6 rule 100: fwmark 0x76000000/0xff000000 oif eth2 lookup 30316",
            "add IPv6 rule 100: iif lo fwmark 0x0/0xff000000 ipproto udp dport 3478 lookup 30317",
        ]
    );
}

#[test]
fn a_blocked_family_is_for_probes_only_and_firewall_marks_replace_ours() {
    let mut both = desired(&[capture("3478", &["10.0.0.0/8", "2001:db8::/32"])]);
    both.blocked = vec![Family::V6];
    both.marks.mark = Some(Fwmark(0xca6c));
    let state = Observed {
        links: vec![tun(9)],
        ..Observed::default()
    };
    let plan = plan(&both, &IDS(), &state).expect("one port range");
    let shown: Vec<_> = plan.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown[4..],
        [
            "add IPv4 rule 100: fwmark 0xca6c/0xffffffff oif eth2 lookup 30316",
            "add IPv4 rule 100: iif lo fwmark 0x0/0xff000000 ipproto udp dport 3478 lookup 30317",
            "add IPv6 rule 100: fwmark 0xca6c/0xffffffff oif eth2 lookup 30316",
            "add IPv6 rule 100: iif lo fwmark 0x0/0xff000000 oif voicelane9 ipproto udp dport 3478 lookup 30317",
        ]
    );
}

#[test]
fn more_port_ranges_than_tables_are_an_error() {
    let captures: Vec<_> = (1..=TABLES)
        .map(|port| capture(&port.to_string(), &["10.0.0.0/8"]))
        .collect();
    let refused = plan(&desired(&captures), &IDS(), &Observed::default());
    assert_eq!(refused, Err(TooManyPortRanges(1024)));
}

#[test]
fn the_tunnel_mark_is_within_the_mask_and_differs() {
    for mark in [0x7600_0000, 0x0100_0000, 0xff00_0000, 0x8000_0000] {
        let ids = RoutingIds {
            mark: Fwmark(mark),
            ..IDS()
        };
        let Fwmark(tunnel) = ids.tunnel_mark();
        assert_ne!(tunnel, mark);
        assert_ne!(tunnel & ids.mask.0, 0, "captures ask for none");
        assert_eq!(tunnel & !ids.mask.0, 0);
    }
}

#[test]
fn clients_rules_match_their_mark_if_the_family_has_an_uplink() {
    let mut desired = desired(&[capture("3478", &["10.0.0.0/8", "2001:db8::/32"])]);
    let client = |family| (family, "lan0".to_owned());
    desired.clients = [client(Family::V4), client(Family::V6)].into();
    desired.blocked = vec![Family::V6];
    assert_eq!(desired.captured_clients(), [client(Family::V4)].into());
    let steps = plan(&desired, &IDS(), &Observed::default()).expect("few port ranges");
    let of_clients = steps.changes.iter().filter_map(|change| match change {
        RoutingChange::AddRule(rule) if rule.selector.iif.as_deref() == Some("lan0") => Some(rule),
        _ => None,
    });
    let [rule] = &of_clients.collect::<Vec<_>>()[..] else {
        panic!("one rule, for IPv4: {steps:?}")
    };
    let ids = IDS();
    assert_eq!(rule.family, Family::V4);
    assert_eq!(rule.selector.mark, Some((ids.client_mark(), ids.mask)));
    assert_eq!(
        rule.selector.ports,
        Some(PortRange::new(3478, 3478).expect("a port"))
    );
}

#[test]
fn the_three_marks_differ_and_are_within_the_mask() {
    for mark in 1..=255_u32 {
        let ids = RoutingIds {
            mark: Fwmark(mark << 24),
            ..RoutingIds::default()
        };
        let marks = [ids.mark, ids.tunnel_mark(), ids.client_mark()];
        let distinct: BTreeSet<_> = marks.iter().map(|it| it.0).collect();
        assert_eq!(distinct.len(), 3, "{marks:?}");
        assert!(distinct.iter().all(|it| *it != 0 && it & !ids.mask.0 == 0));
    }
}
