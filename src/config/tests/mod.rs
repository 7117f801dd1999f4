//! Valid files, and the collection and presentation of errors.

mod consequences;
mod layers;
mod schema;
mod service;
mod settings;

use jiff::civil::date;

use super::*;
use crate::net::{Dscp, Protocol, Role, RouteTable, RulePriority};

const GOOD: &str = "\
[[service]]
name = 'lab'
role = 'media'
protocol = 'udp'
prefixes = ['198.18.0.0/15', '2001:db8::/32']
ports = [3478, '10000-60000']
dscp = 'EF'
allow_special_purpose = true
";

fn diagnostics(text: &str) -> Vec<Diagnostic> {
    let diagnostics = Config::parse("it.toml", text).expect_err("the file has a diagnostic");
    diagnostics.list().to_vec()
}

/// Returns the only error of a text: line, column, key, value, kind, expected value.
fn only(text: &str) -> (usize, usize, String, Option<String>, &'static str, String) {
    let diagnostics = diagnostics(text);
    let [diagnostic] = diagnostics.as_slice() else {
        panic!("expected one diagnostic, got {diagnostics:#?}");
    };
    let (line, column) = diagnostic.span.line_and_column();
    let Diagnostic {
        span, key, kind, ..
    } = diagnostic;
    assert_eq!(span.file(), "it.toml");
    assert!(!kind.advice().is_empty());
    let value = diagnostic.value().map(str::to_owned);
    (
        line,
        column,
        key.clone(),
        value,
        kind.name(),
        kind.expected(),
    )
}

#[test]
fn a_valid_file_sets_every_value() {
    let text = format!(
        "version = 1\ninclude = []\n[uplink]\ninterface = 'wlan0'\n[tun]\nname = 'voice1'\n\
         [route]\ntable = 40000\npriority = 90\nmark = 0x01000000\ncapture = 'prefix'\n\
         [failover]\nto = 'none'\nsilence_seconds = 3\nretry_seconds = 60\n\
         [nat]\nmapping_lifetime_seconds = 120\nfiltering = 'endpoint-independent'\n\
         inbound_refresh = true\n[control]\ngroup = 'staff'\n\
         [gateway]\ninterfaces = ['lan0']\nmappings_per_client = 64\nremark = 'AF41'\n{GOOD}\
         valid_from = 2023-09-26\nvalid_until = 2024-01-23\nsource = 'https://example.com'\ndescription = 'Lab'\n"
    );
    let config = Config::parse("it.toml", &text).expect("a good file");
    assert_eq!(
        config
            .uplink()
            .interface
            .as_ref()
            .map(InterfaceName::as_str),
        Some("wlan0")
    );
    assert_eq!(config.tun().name.as_str(), "voice1");
    assert_eq!(config.route().table, RouteTable(40_000));
    assert_eq!(config.route().priority, RulePriority(90));
    assert_eq!(config.route().mark.0, 0x0100_0000);
    assert_eq!(config.route().capture, crate::net::CaptureMode::Prefix);
    let failover = config.failover();
    assert!(!failover.to_tunnel);
    assert_eq!(
        (failover.silence.as_secs(), failover.retry.as_secs()),
        (3, 60)
    );
    assert_eq!(config.nat().mapping_lifetime.as_secs(), 120);
    assert_eq!(
        config.nat().filtering,
        crate::net::Filtering::EndpointIndependent
    );
    assert!(config.nat().inbound_refresh);
    assert_eq!(config.control().group.as_deref(), Some("staff"));
    let gateway = config.gateway();
    assert_eq!(gateway.interfaces[0].as_str(), "lan0");
    assert_eq!(
        (gateway.mappings_per_client, gateway.connections_per_client),
        (64, 256)
    );
    assert_eq!(gateway.remark.map(Dscp::value), Some(34));
    let [lab] = config.services() else {
        panic!("one service")
    };
    assert_eq!(
        (lab.role, lab.protocol, lab.dscp),
        (Role::Media, Protocol::Udp, Dscp::EF)
    );
    assert_eq!(lab.prefixes.len(), 2);
    assert_eq!(
        lab.ports
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["3478", "10000-60000"]
    );
    assert_eq!(
        (lab.valid_from, lab.valid_until),
        (Some(date(2023, 9, 26)), Some(date(2024, 1, 23)))
    );
    assert!(lab.enabled);
}

#[test]
fn the_example_shows_the_defaults() {
    let example = include_str!("../../../config/voicelane.toml");
    assert_eq!(
        Config::parse("voicelane.toml", example).expect("valid"),
        Config::default()
    );
    let uncommented: Vec<_> = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(code) if code.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => code,
            _ => line,
        })
        .collect();
    let config =
        Config::parse("voicelane.toml", &uncommented.join("\n")).expect("every example is valid");
    assert_eq!(
        config.services().last().expect("an example").name,
        "lab-media"
    );
    assert!(
        config.uplink().interface.is_some()
            && config.control().group.is_some()
            && config.control().admin_group.is_some()
            && config.metrics().listen.is_some()
    );
}

#[test]
fn all_errors_are_reported_at_once() {
    let text = "\
version = 1
inclde = ['talkdesk']
enable = ['nobody']
[tun]
name = 'much-too-long-a-name'
[nat]
mapping_lifetime_seconds = 60
[[service]]
name = 'a'
role = 'media'
protocol = 'udp'
prefixes = ['10.0.0.1/8', '8.8.8.8/32', 'x']
ports = [0]
dscp = 99
colour = 'blue'
";
    let found: Vec<_> = diagnostics(text)
        .iter()
        .map(|diagnostic| {
            (
                diagnostic.span.line_and_column().0,
                diagnostic.key.clone(),
                diagnostic.kind.name(),
            )
        })
        .collect();
    let wanted = [
        (2, "inclde", "unknown-key"),
        (5, "tun.name", "interface-name"),
        (7, "nat.mapping_lifetime_seconds", "number"),
        (12, "service[0].prefixes[0]", "host-bits"),
        (12, "service[0].prefixes[2]", "prefix"),
        (13, "service[0].ports[0]", "ports"),
        (14, "service[0].dscp", "dscp"),
        (15, "service[0].colour", "unknown-key"),
    ];
    assert_eq!(
        found,
        wanted.map(|(line, key, kind)| (line, key.to_owned(), kind))
    );
}

#[test]
fn all_syntax_errors_are_reported_at_once() {
    let text = "version = 1\n[tun]\nname = voice\n[nat]\nmapping_lifetime_seconds = 60\n\
                filtering =\n[[service]\nname = 'a'\n";
    let found: Vec<_> = diagnostics(text)
        .iter()
        .map(|diagnostic| (diagnostic.span.line_and_column(), diagnostic.kind.name()))
        .collect();
    assert_eq!(
        found,
        [
            ((3, 8), "syntax"),
            ((5, 28), "number"),
            ((6, 12), "syntax"),
            ((7, 11), "syntax")
        ]
    );
    assert_eq!(diagnostics(text)[3].kind.expected(), "`]`");
}

#[test]
fn a_diagnostic_has_excerpt_caret_and_advice() {
    let text = format!(
        "version = 1\n{}",
        GOOD.replace("198.18.0.0/15", "198.18.7.0/15")
    );
    let diagnostics = Config::parse("it.toml", &text).expect_err("host bits");
    let wanted = "\
error: service[0].prefixes[0] (service \"lab\"): host bits are set: did you mean 198.18.0.0/15?
 --> it.toml:6:13
  |
6 | prefixes = ['198.18.7.0/15', '2001:db8::/32']
  |             ^^^^^^^^^^^^^^^ expected an address whose bits beyond the length are zero
  |
  = help: write \"198.18.0.0/15\", or a longer prefix for fewer addresses";
    assert_eq!(diagnostics.render(false), wanted);
    assert!(diagnostics.render(true).contains("\u{1b}["));
    assert_eq!(
        diagnostics.to_string(),
        "it.toml:6:13: service[0].prefixes[0] (service \"lab\"): host bits are set: did you mean 198.18.0.0/15?; \
         expected an address whose bits beyond the length are zero; \
         write \"198.18.0.0/15\", or a longer prefix for fewer addresses"
    );
}

#[test]
fn a_diagnostic_serializes_to_json() {
    let diagnostic =
        serde_json::to_value(&diagnostics("version = 1\n[nat]\nfiltering = 'adress-dependent'")[0])
            .expect("plain data");
    let wanted = serde_json::json!({
        "kind": "choice",
        "file": "it.toml",
        "line": 3,
        "column": 13,
        "key": "nat.filtering",
        "service": null,
        "value": "'adress-dependent'",
        "message": "unknown value",
        "expected": "one of \"endpoint-independent\", \"address-dependent\", \"address-and-port-dependent\"",
        "advice": "did you mean \"address-dependent\"?",
        "related": null,
    });
    assert_eq!(diagnostic, wanted);
}

#[test]
fn columns_count_characters() {
    let found = only(
        "version = 1\ntun = { é = 1 }"
            .replace('é', "\"é\"")
            .as_str(),
    );
    assert_eq!((found.0, found.1, found.4), (2, 9, "unknown-key"));
    let found = only("version = 1\ntun = { name = 'ok', \"é\" = 1 }");
    assert_eq!((found.0, found.1), (2, 22));
    let found = only("version = 1\ninclude = ['é', 'talkdesk']");
    assert_eq!((found.0, found.1), (2, 12));
}
