//! Exports equal the golden files and the policy.
//!
//! `tests/golden/export/policy.toml` describes how to renew the golden files. `tests/lab/export_judges.rs` loads the
//! exports into real programs.

mod reader;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::civil::{Date, date};
use proptest::prelude::*;
use reader::{Direction, Read};
use voicelane::config::Config;
use voicelane::net::{Dscp, Endpoint, PortRange, Prefix, Protocol};
use voicelane::policy::export::{Export, ExportFormat, FORMATS, Selection, SelectionError};
use voicelane::policy::{Action, InactiveReason, Policy};

const TODAY: Date = date(2026, 3, 1);
const SAMPLE: &str = include_str!("../../golden/export/policy.toml");
const RENEW: &str = "VOICELANE_RENEW_GOLDEN";

fn compile(text: &str) -> Policy {
    Policy::compile(&Config::parse("it.toml", text).expect("valid"), TODAY)
}

fn select<'a>(policy: &'a Policy, names: &[&str]) -> Selection<'a> {
    Selection::new(policy, TODAY, names).expect("something is selected")
}

fn export(format: &str, selection: &Selection<'_>) -> Export {
    ExportFormat::find(format)
        .expect("a format")
        .export(selection)
}

/// Replaces the version, which changes with each release.
fn timeless(text: &str) -> String {
    text.replace(
        concat!("voicelane ", env!("CARGO_PKG_VERSION")),
        "voicelane VERSION",
    )
}

#[test]
fn exports_match_the_golden_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/export");
    let policy = compile(SAMPLE);
    let selection = select(&policy, &[]);
    let mut made: Vec<(PathBuf, String)> = Vec::new();
    let mut notes = Vec::new();
    for format in FORMATS {
        let export = format.export(&selection);
        made.push((dir.join(format.name), timeless(&export.text)));
        let lines = export.notes.iter();
        notes.extend(lines.map(|note| format!("{}: {note}\n", format.name)));
    }
    made.push((dir.join("notes"), notes.concat()));
    if std::env::var_os(RENEW).is_some() {
        for (path, text) in &made {
            fs::write(path, text).expect("the golden files are writable");
        }
    }
    for (path, text) in &made {
        let golden = fs::read_to_string(path).unwrap_or_default();
        assert!(
            golden == *text,
            "{} differs. If it should: {RENEW}=1 cargo test --test pure golden_files\n{text}",
            path.display()
        );
    }
    let known: BTreeSet<_> = made.iter().map(|(path, _)| path.clone()).collect();
    for entry in fs::read_dir(&dir).expect("the directory is there") {
        let path = entry.expect("a file").path();
        assert!(
            known.contains(&path) || path.ends_with("policy.toml"),
            "{} belongs to no format",
            path.display()
        );
    }
}

#[test]
fn equal_policies_have_equal_exports() {
    let (one, other) = (compile(SAMPLE), compile(SAMPLE));
    for format in FORMATS {
        let answers = [&one, &other].map(|policy| format.export(&select(policy, &[])));
        assert_eq!(answers[0], answers[1], "{}", format.name);
    }
}

#[test]
fn disabled_services_are_exported_by_name_and_expired_ones_never() {
    let policy = compile(SAMPLE);
    let names = |selection: &Selection<'_>| -> Vec<_> {
        let rules = selection.rules().iter();
        rules.map(|rule| rule.service.name.clone()).collect()
    };
    assert_eq!(
        names(&select(&policy, &[])),
        ["voice", "voice-test", "control"]
    );
    assert_eq!(
        names(&select(&policy, &["switched-off", "control"])),
        ["control", "switched-off"]
    );
    assert_eq!(
        Selection::new(&policy, TODAY, &["voice", "expired"]).map(|_| ()),
        Err(SelectionError::NotInForce {
            name: "expired".into(),
            date: TODAY,
            reason: InactiveReason::Expired { until: TODAY },
        })
    );
    assert_eq!(
        Selection::new(&policy, TODAY, &["voices"]).map(|_| ()),
        Err(SelectionError::Unknown("voices".into()))
    );
    let nothing = compile("version = 1\ninclude = []");
    assert_eq!(
        Selection::new(&nothing, TODAY, &[""; 0]).map(|_| ()),
        Err(SelectionError::Nothing(TODAY))
    );
    let overlapping = SAMPLE.replace("\"192.0.2.0/25\"", "\"198.51.100.0/26\"");
    let overlapping = overlapping.replace(
        "ports = [5004]\nenabled",
        "ports = [3478]\ndscp = 34\nenabled",
    );
    let overlapping = compile(&overlapping);
    assert_eq!(
        Selection::new(&overlapping, TODAY, &["switched-off", "voice"]).map(|_| ()),
        Err(SelectionError::Contradiction {
            one: "voice".into(),
            other: "switched-off".into()
        })
    );
}

#[test]
fn the_identity_depends_on_the_content() {
    let policy = compile(SAMPLE);
    let identity = |names: &[&str]| select(&policy, names).identity();
    assert_eq!(identity(&[]), identity(&["voice", "voice-test", "control"]));
    assert_ne!(identity(&[]), identity(&["voice"]));
    let wider = compile(&SAMPLE.replace("203.0.113.7/32", "203.0.113.6/31"));
    assert_ne!(identity(&[]), select(&wider, &[]).identity());
}

#[test]
fn every_format_with_addresses_only_warns_of_tcp_443() {
    let policy = compile(SAMPLE);
    let selection = select(&policy, &[]);
    let mut found = 0;
    for format in FORMATS {
        let export = format.export(&selection);
        let lines = export.text.lines();
        let commands = lines.filter(|line| !line.trim_start().starts_with(['#', '!']));
        let commands = commands.collect::<Vec<_>>().join("\n");
        if commands.contains("198.") && !commands.contains("10000") {
            let notes = export.notes.join("\n");
            assert!(notes.contains("TCP 443"), "{}: {notes}", format.name);
            found += 1;
        }
    }
    assert!(found >= 8, "{found} formats have addresses only");
}

#[test]
fn windows_exports_are_powershell_and_the_others_json() {
    let policy = compile(SAMPLE);
    let selection = select(&policy, &[]);
    let mut parser = tree_sitter::Parser::new();
    parser
        .set_language(&tree_sitter_powershell::LANGUAGE.into())
        .expect("the grammar has this version");
    let mut faulty = |script: &str| {
        let tree = parser.parse(script, None).expect("a language is set");
        tree.root_node().has_error()
    };
    assert!(
        faulty("foreach ($x in @(1) { $x }"),
        "the parser rejects an error"
    );
    for format in ["windows-qos", "windows-routes"] {
        let script = export(format, &selection).text;
        assert!(!faulty(&script), "{format}:\n{script}");
    }
    let exports = FORMATS.iter().map(|format| format.export(&selection).text);
    let documents: Vec<_> = exports
        .filter(|text| text.starts_with(['{', '[']))
        .collect();
    assert!(documents.len() >= 5, "{documents:#?}");
    for text in documents {
        serde_json::from_str::<serde_json::Value>(&text)
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

#[test]
fn the_manual_lists_every_format() {
    let tables = [
        (
            "src/manual/exports.rs",
            include_str!("../../../src/manual/exports.rs"),
        ),
        ("README.md", include_str!("../../../README.md")),
    ];
    for (file, text) in tables {
        for format in FORMATS {
            let name = format.name;
            assert!(text.contains(&format!("`{name}`")), "{file} has no {name}");
        }
    }
}

/// Returns the first and the last address of a prefix, and their neighbours.
fn edges(prefix: Prefix) -> Vec<IpAddr> {
    let near = |addr: IpAddr, step: i128| match addr {
        IpAddr::V4(v4) => IpAddr::V4(
            (i128::from(v4.to_bits()) + step)
                .try_into()
                .map_or(v4, u32::into),
        ),
        IpAddr::V6(v6) => IpAddr::V6(v6.to_bits().wrapping_add_signed(step).into()),
    };
    vec![
        near(prefix.first(), -1),
        prefix.first(),
        prefix.last(),
        near(prefix.last(), 1),
    ]
}

/// Returns every code point that a line of the export sets for a packet.
fn treatments(
    lines: &[Read],
    direction: Direction,
    protocol: Protocol,
    server: Endpoint,
) -> BTreeSet<Option<Dscp>> {
    let lines = lines.iter().filter(|line| {
        (line.direction, line.protocol) == (direction, protocol)
            && line.prefix.contains(server.addr)
            && line.ports.contains(server.port)
    });
    lines.map(|line| line.dscp).collect()
}

/// Compares an export with the policy, at every edge of both.
fn covers(
    policy: &Policy,
    name: &str,
    lines: &[Read],
    ways: &[Direction],
    marks: bool,
) -> Result<(), TestCaseError> {
    let rules = policy.rules().iter();
    let prefixes = rules.flat_map(|rule| rule.service.prefixes.iter().copied());
    let prefixes: BTreeSet<_> = prefixes
        .chain(lines.iter().map(|line| line.prefix))
        .collect();
    let rules = policy.rules().iter();
    let ports = rules.flat_map(|rule| rule.service.ports.iter().copied());
    let ports: BTreeSet<PortRange> = ports.chain(lines.iter().map(|line| line.ports)).collect();
    let ports: BTreeSet<u16> = ports
        .iter()
        .flat_map(|range| {
            [
                range.first() - 1,
                range.first(),
                range.last(),
                range.last() + 1,
            ]
        })
        .collect();
    for addr in prefixes.into_iter().flat_map(edges) {
        for &port in &ports {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                let server = Endpoint::new(addr, port);
                let verdict = policy.evaluate(protocol, server);
                let wanted: BTreeSet<_> = (verdict.action == Action::Relay)
                    .then_some(marks.then_some(verdict.treatment.dscp))
                    .into_iter()
                    .collect();
                for direction in ways {
                    let got = treatments(lines, *direction, protocol, server);
                    prop_assert_eq!(
                        &got,
                        &wanted,
                        "{} {:?} {} {}",
                        name,
                        direction,
                        protocol,
                        server
                    );
                }
            }
        }
    }
    Ok(())
}

/// Compares every export that can express the whole policy.
fn exact(policy: &Policy) -> Result<(), TestCaseError> {
    let Ok(selection) = Selection::new(policy, TODAY, &[""; 0]) else {
        return Ok(());
    };
    let text = |format: &str| export(format, &selection).text;
    let both = &[Direction::ToServer, Direction::FromServer][..];
    let (mark, allow) = reader::nftables(&text("nftables"));
    covers(policy, "nftables", &mark, both, true)?;
    covers(policy, "nftables, firewall", &allow, both, false)?;
    let (mark, allow) = reader::nftables(&text("openwrt"));
    covers(policy, "openwrt", &mark, both, true)?;
    covers(policy, "openwrt, firewall", &allow, both, false)?;
    let (mark, allow) = reader::iptables(&text("iptables"));
    covers(policy, "iptables", &mark, both, true)?;
    covers(policy, "iptables, firewall", &allow, both, false)?;
    covers(
        policy,
        "cisco-ios",
        &reader::ios(&text("cisco-ios")),
        both,
        true,
    )?;
    let (mark, allow) = reader::mikrotik(&text("mikrotik"));
    covers(policy, "mikrotik", &mark, both, true)?;
    covers(policy, "mikrotik, firewall", &allow, both, false)?;
    covers(
        policy,
        "windows-qos",
        &reader::windows(&text("windows-qos")),
        &[Direction::ToServer],
        true,
    )?;
    covers(
        policy,
        "swanctl",
        &reader::swanctl(&text("swanctl")),
        &[Direction::ToServer],
        false,
    )?;

    let inside = reader::allowed_ips(&text("wireguard"));
    let outside = selection.prefixes();
    prop_assert!(
        !inside
            .iter()
            .any(|prefix| outside.iter().any(|hole| hole.overlaps(*prefix)))
    );
    let all: Vec<_> = Prefix::aggregate(inside.into_iter().chain(outside));
    prop_assert_eq!(
        all,
        ["0.0.0.0/0", "::/0"].map(|all| all.parse::<Prefix>().expect("a prefix"))
    );
    Ok(())
}

prop_compose! {
    fn service()(
        tcp: bool,
        enabled in prop::bool::weighted(0.8),
        prefixes in prop::collection::vec((any::<bool>(), 0u8..=255, 24u8..=32), 1..4),
        ports in prop::collection::vec((1u16..30, 0u16..6), 1..4),
    ) -> String {
        let prefixes: Vec<_> = prefixes
            .into_iter()
            .map(|(v6, low, len)| {
                let (addr, len): (IpAddr, _) = if v6 {
                    ([0x2001, 0xdb8, u16::from(low), 0, 0, 0, 0, 0].into(), len + 16)
                } else {
                    ([198, 51, 100, low].into(), len)
                };
                match Prefix::new(addr, len) {
                    Ok(prefix) | Err(voicelane::net::PrefixError::HostBits { meant: prefix }) => prefix.to_string(),
                    Err(error) => panic!("{error}"),
                }
            })
            .collect();
        let ports: Vec<_> = ports.into_iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
        let (role, protocol) = if tcp { ("signalling", "tcp") } else { ("media", "udp") };
        format!(
            "role = '{role}'\nprotocol = '{protocol}'\nprefixes = {prefixes:?}\nports = {ports:?}\n\
             enabled = {enabled}\nallow_special_purpose = true\n"
        )
    }
}

proptest! {
    #[test]
    fn exports_read_back_as_the_policy(services in prop::collection::vec(service(), 0..6)) {
        let services: Vec<_> = services
            .iter()
            .enumerate()
            .map(|(index, service)| format!("[[service]]\nname = 's{index}'\n{service}"))
            .collect();
        let text = format!("version = 1\ninclude = []\n{}", services.concat());
        let config = Config::parse("generated.toml", &text).map_err(|faults| TestCaseError::fail(faults.to_string()))?;
        exact(&Policy::compile(&config, TODAY))?;
    }
}

#[test]
fn the_catalogue_reads_back_unchanged() {
    exact(&compile("version = 1")).unwrap_or_else(|error| panic!("{error}"));
}
