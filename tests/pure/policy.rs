//! The policy against a reference model, and the Talkdesk catalogue against the vendor's documents.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::ToSpan;
use jiff::civil::{Date, date};
use proptest::prelude::*;
use voicelane::config::Config;
use voicelane::net::PolicyService;
use voicelane::net::{Dscp, Endpoint, Prefix, Protocol, RuleId, Treatment};
use voicelane::policy::{Action, InactiveReason, MissReason, Policy, RuleState, Verdict};

const TODAY: Date = date(2024, 6, 1);

fn at(destination: &str) -> Endpoint {
    let destination: std::net::SocketAddr = destination.parse().expect("an endpoint");
    destination.into()
}

fn talkdesk(lines: &str, today: Date) -> Policy {
    let config = Config::parse("it.toml", &format!("version = 1\n{lines}")).expect("a valid file");
    Policy::compile(&config, today)
}

fn rule_for(policy: &Policy, protocol: Protocol, destination: &str) -> Option<String> {
    let verdict = policy.evaluate(protocol, at(destination));
    assert_eq!(verdict.action == Action::Relay, verdict.rule.is_some());
    verdict
        .rule
        .map(|id| policy.rule(id).expect("its own id").service.name.clone())
}

/// Returns the expected verdict. Reads every service.
fn golden(services: &[PolicyService], today: Date, protocol: Protocol, to: Endpoint) -> Verdict {
    let mut best: Option<(u8, Verdict)> = None;
    for (service, id) in services.iter().zip(0..) {
        let valid = service.enabled
            && service.valid_from.is_none_or(|from| from <= today)
            && service.valid_until.is_none_or(|until| today < until);
        if !valid
            || service.protocol != protocol
            || !service.ports.iter().any(|ports| ports.contains(to.port))
        {
            continue;
        }
        for prefix in service
            .prefixes
            .iter()
            .filter(|prefix| prefix.contains(to.addr))
        {
            if best.is_none_or(|(len, _)| len < prefix.len()) {
                let verdict = Verdict {
                    action: Action::Relay,
                    rule: Some(RuleId(id)),
                    prefix: Some(*prefix),
                    treatment: Treatment::of(service.dscp),
                };
                best = Some((prefix.len(), verdict));
            }
        }
    }
    let tunnel = Verdict {
        action: Action::Tunnel,
        rule: None,
        prefix: None,
        treatment: Treatment::of(Dscp::DF),
    };
    best.map_or(tunnel, |(_, verdict)| verdict)
}

fn captured(policy: &Policy, protocol: Protocol, to: Endpoint) -> bool {
    policy.captures().iter().any(|capture| {
        capture.protocol == protocol
            && capture.ports.contains(to.port)
            && capture
                .prefixes
                .iter()
                .any(|prefix| prefix.contains(to.addr))
    })
}

/// Returns the addresses where a verdict may change: the bounds of a prefix and their outside neighbours.
fn edges(prefix: Prefix) -> Vec<IpAddr> {
    let beside = |addr: IpAddr, up: bool| match addr {
        IpAddr::V4(v4) => {
            let bits = u32::from(v4);
            IpAddr::V4(
                (if up {
                    bits.wrapping_add(1)
                } else {
                    bits.wrapping_sub(1)
                })
                .into(),
            )
        }
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            IpAddr::V6(
                (if up {
                    bits.wrapping_add(1)
                } else {
                    bits.wrapping_sub(1)
                })
                .into(),
            )
        }
    };
    let (first, last) = (prefix.first(), prefix.last());
    vec![first, last, beside(first, false), beside(last, true)]
}

/// Compares policy, reference model and captures at every edge of prefixes and ports, and at one random point.
fn agree(config: &Config, today: Date, probe: Endpoint) -> Result<(), TestCaseError> {
    let policy = Policy::compile(config, today);
    let services = config.services();
    let mut addrs: BTreeSet<_> = services
        .iter()
        .flat_map(|service| &service.prefixes)
        .flat_map(|p| edges(*p))
        .collect();
    let ports = services.iter().flat_map(|service| &service.ports);
    let mut ports: BTreeSet<_> = ports
        .flat_map(|ports| {
            [
                ports.first() - 1,
                ports.first(),
                ports.last(),
                ports.last().saturating_add(1),
            ]
        })
        .collect();
    addrs.insert(probe.addr);
    ports.insert(probe.port);
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for &addr in &addrs {
            for &port in &ports {
                let to = Endpoint::new(addr, port);
                let verdict = policy.evaluate(protocol, to);
                prop_assert_eq!(
                    verdict,
                    golden(services, today, protocol, to),
                    "{} {}",
                    protocol,
                    to
                );
                prop_assert_eq!(
                    verdict.action == Action::Relay,
                    captured(&policy, protocol, to),
                    "{} {}",
                    protocol,
                    to
                );
                let named = policy
                    .rules()
                    .iter()
                    .any(|rule| rule.prefix_of(addr).is_some());
                prop_assert_eq!(
                    named,
                    policy.near_miss(protocol, to).is_some(),
                    "a reason is missing"
                );
            }
        }
    }
    for capture in policy.captures() {
        prop_assert!(!capture.prefixes.is_empty() && capture.prefixes.is_sorted());
        for (index, prefix) in capture.prefixes.iter().enumerate() {
            prop_assert!(
                !capture.prefixes[..index]
                    .iter()
                    .any(|other| other.overlaps(*prefix))
            );
        }
    }
    Ok(())
}

/// A prefix in a small space, so that prefixes nest, coincide and touch.
fn prefix() -> impl Strategy<Value = String> {
    (any::<bool>(), 0u8..16, 0u8..=4).prop_map(|(v6, bits, len)| {
        let bits = u16::from(bits) & !(0xf >> len) & 0xf;
        if v6 {
            format!("2001:db8:{:x}::/{}", bits << 12, 32 + len)
        } else {
            format!("198.51.100.{}/{}", bits << 4, 24 + len)
        }
    })
}

fn ports() -> impl Strategy<Value = String> {
    (1u16..12, 0u16..6).prop_map(|(first, more)| format!("{first}-{}", first + more))
}

prop_compose! {
    fn service()(
        tcp: bool,
        enabled in prop::bool::weighted(0.8),
        from in prop::option::weighted(0.2, 1i8..28),
        until in prop::option::weighted(0.2, 1i8..28),
        prefixes in prop::collection::vec(prefix(), 1..4),
        ports in prop::collection::vec(ports(), 1..3),
    ) -> String {
        let date = |key: &str, month: u8, day: Option<i8>| {
            day.map_or_else(String::new, |day| format!("{key} = 2024-{month:02}-{day:02}\n"))
        };
        format!(
            "role = 'media'\nprotocol = '{}'\nprefixes = {prefixes:?}\nports = {ports:?}\nenabled = {enabled}\n\
             allow_special_purpose = true\n{}{}",
            if tcp { "tcp" } else { "udp" },
            date("valid_from", 6, from),
            date("valid_until", 7, until),
        )
    }
}

proptest! {
    #[test]
    fn evaluation_golden_model_and_captures_agree(
        services in prop::collection::vec(service(), 0..7),
        day in -5i64..65,
        v6: bool,
        low: u8,
        port in 0u16..20,
    ) {
        let numbered = services.iter().enumerate();
        let services: Vec<_> =
            numbered.map(|(index, service)| format!("[[service]]\nname = 's{index}'\n{service}")).collect();
        let text = format!("version = 1\ninclude = []\n{}", services.concat());
        let config = Config::parse("generated.toml", &text).map_err(|faults| TestCaseError::fail(faults.to_string()))?;
        let addr = if v6 { format!("2001:db8:{low:x}00::1") } else { format!("198.51.100.{low}") };
        let today = TODAY.checked_add(day.days()).expect("within the calendar");
        agree(&config, today, Endpoint::new(addr.parse().expect("an address"), port))?;
    }
}

#[test]
fn the_catalogue_agrees_on_every_side_of_its_dates() {
    let config = Config::parse(
        "it.toml",
        "version = 1\nenable = ['talkdesk-turn-tcp', 'talkdesk-signalling']",
    )
    .expect("valid");
    for today in [
        date(2023, 9, 25),
        date(2023, 9, 26),
        date(2024, 1, 22),
        date(2024, 1, 23),
        TODAY,
    ] {
        agree(&config, today, at("8.8.8.8:53")).unwrap_or_else(|error| panic!("{today}: {error}"));
    }
}

#[test]
fn talkdesk_media_leave_and_other_traffic_stays() {
    let policy = talkdesk("", TODAY);
    for (destination, rule) in [
        ("168.86.128.0:10000", Some("talkdesk-media")),
        ("168.86.191.255:60000", Some("talkdesk-media")),
        ("168.86.150.1:3478", Some("talkdesk-media-3478")),
        ("3.126.75.106:3478", Some("talkdesk-network-test")),
        ("54.218.117.148:3478", Some("talkdesk-network-test")),
        ("3.235.111.200:3478", Some("talkdesk-turn-us1")),
        ("18.156.18.130:60000", Some("talkdesk-turn-de1")),
        ("168.86.127.255:10000", None),
        ("168.86.192.0:10000", None),
        ("168.86.128.0:9999", None),
        ("168.86.128.0:60001", None),
        ("168.86.128.0:443", None),
        ("3.126.75.106:10000", None),
        ("8.8.8.8:53", None),
        ("[2001:db8::1]:20000", None),
        ("[::ffff:168.86.128.1]:20000", None),
    ] {
        assert_eq!(
            rule_for(&policy, Protocol::Udp, destination).as_deref(),
            rule,
            "{destination}"
        );
        assert_eq!(
            rule_for(&policy, Protocol::Tcp, destination),
            None,
            "{destination}"
        );
    }
    let active = policy.rules().iter().filter(|rule| rule.is_active());
    assert!(active.clone().all(|rule| rule.treatment
        == Treatment {
            dscp: Dscp::EF,
            priority: 6
        }));
    assert!(
        active
            .clone()
            .all(|rule| rule.service.protocol == Protocol::Udp)
    );
    assert_eq!(active.count(), 12);
    let captures: Vec<_> = policy
        .captures()
        .iter()
        .map(|capture| (capture.ports.to_string(), capture.prefixes.len()))
        .collect();
    assert_eq!(
        captures,
        [("3478".to_owned(), 38), ("10000-60000".to_owned(), 30)]
    );
}

#[test]
fn every_entry_gives_its_source_and_description() {
    for service in Config::default().services() {
        assert!(service.name.starts_with("talkdesk-"));
        assert!(
            service
                .source
                .as_deref()
                .is_some_and(|source| source.starts_with("https://")),
            "{}",
            service.name
        );
        assert!(service.description.len() > 10, "{}", service.name);
        assert!(
            service.enabled || service.description.contains("Off: "),
            "{}",
            service.name
        );
    }
}

#[test]
fn retired_media_ranges_keep_their_turn_rules() {
    let before = talkdesk("", date(2024, 1, 22));
    let after = talkdesk("", date(2024, 1, 23));
    // Retired, without another rule.
    assert_eq!(
        rule_for(&before, Protocol::Udp, "3.122.181.9:15000").as_deref(),
        Some("talkdesk-retired-germany")
    );
    assert_eq!(rule_for(&after, Protocol::Udp, "3.122.181.9:15000"), None);
    // Retired as media, current as TURN: both rules have the prefix.
    for policy in [&before, &after] {
        assert_eq!(
            rule_for(policy, Protocol::Udp, "54.172.60.1:15000").as_deref(),
            Some("talkdesk-turn-us1")
        );
        assert_eq!(
            rule_for(policy, Protocol::Udp, "54.172.60.1:50000").as_deref(),
            Some("talkdesk-turn-us1")
        );
    }
    let germany = after
        .rules()
        .iter()
        .find(|rule| rule.service.name == "talkdesk-retired-germany")
        .expect("present");
    assert_eq!(
        germany.state,
        RuleState::Inactive(InactiveReason::Expired {
            until: date(2024, 1, 23)
        })
    );
    assert_eq!(before.captures().len(), 3);
}

#[test]
fn one_line_switches_a_service() {
    let on = talkdesk("enable = ['talkdesk-signalling']", TODAY);
    assert_eq!(
        rule_for(&on, Protocol::Tcp, "168.86.128.1:443").as_deref(),
        Some("talkdesk-signalling")
    );
    assert_eq!(rule_for(&on, Protocol::Tcp, "168.86.128.1:3478"), None);
    let all = "enable = ['talkdesk-signalling', 'talkdesk-media-fallback', 'talkdesk-turn-tcp', 'talkdesk-network-test-tcp']";
    assert_eq!(talkdesk(all, TODAY).captures().len(), 5);
    let off = talkdesk("disable = ['talkdesk-media']", TODAY);
    assert_eq!(rule_for(&off, Protocol::Udp, "168.86.128.1:20000"), None);
}

#[test]
fn the_next_change_is_the_next_date_of_a_rule_that_is_on() {
    let policy = talkdesk("", TODAY);
    assert_eq!(
        policy.next_change(date(2023, 1, 1)),
        Some(date(2023, 9, 26))
    );
    assert_eq!(
        policy.next_change(date(2023, 9, 26)),
        Some(date(2024, 1, 23))
    );
    assert_eq!(policy.next_change(date(2024, 1, 23)), None);
    let without_media = talkdesk("disable = ['talkdesk-media', 'talkdesk-media-3478']", TODAY);
    assert_eq!(
        without_media.next_change(date(2023, 1, 1)),
        Some(date(2024, 1, 23))
    );
}

#[test]
fn the_nearest_rule_explains_a_miss() {
    let near = |today, protocol, destination| {
        let policy = talkdesk("", today);
        let miss = policy.near_miss(protocol, at(destination))?;
        Some((
            policy
                .rule(miss.rule)
                .expect("its own id")
                .service
                .name
                .clone(),
            miss.prefix.to_string(),
            miss.reason,
        ))
    };
    let wanted =
        |rule: &str, prefix: &str, reason| Some((rule.to_owned(), prefix.to_owned(), reason));
    let range = "168.86.128.0/18";
    assert_eq!(
        near(TODAY, Protocol::Tcp, "168.86.128.1:443"),
        wanted(
            "talkdesk-signalling",
            range,
            MissReason::Inactive(InactiveReason::SwitchedOff)
        )
    );
    assert_eq!(
        near(TODAY, Protocol::Udp, "168.86.128.1:443"),
        wanted("talkdesk-media", range, MissReason::Port)
    );
    assert_eq!(
        near(TODAY, Protocol::Tcp, "168.86.128.1:9"),
        wanted("talkdesk-media", range, MissReason::Protocol)
    );
    assert_eq!(
        near(TODAY, Protocol::Udp, "3.122.181.9:15000"),
        wanted(
            "talkdesk-retired-germany",
            "3.122.181.0/24",
            MissReason::Inactive(InactiveReason::Expired {
                until: date(2024, 1, 23)
            })
        )
    );
    assert_eq!(
        near(date(2023, 9, 25), Protocol::Udp, "168.86.128.1:20000"),
        wanted(
            "talkdesk-media",
            range,
            MissReason::Inactive(InactiveReason::NotYetValid {
                from: date(2023, 9, 26)
            })
        )
    );
    assert_eq!(
        near(TODAY, Protocol::Udp, "3.122.181.9:9"),
        wanted(
            "talkdesk-retired-germany",
            "3.122.181.0/24",
            MissReason::Port
        )
    );
    assert_eq!(near(TODAY, Protocol::Udp, "8.8.8.8:53"), None);
}
