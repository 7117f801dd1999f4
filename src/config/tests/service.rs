//! Errors of services.

use super::*;

/// Checks the only error of `GOOD` with one line replaced.
#[track_caller]
fn assert_service_error(
    was: &str,
    now: &str,
    at: (usize, usize),
    key: &str,
    value: &str,
    kind: &str,
    expected: &str,
) {
    assert!(GOOD.contains(was), "{was}");
    let found = only(&format!("version = 1\n{}", GOOD.replacen(was, now, 1)));
    let value = (!value.is_empty()).then(|| value.to_owned());
    let wanted = (at.0, at.1, format!("service[0].{key}"), value);
    assert_eq!((found.0, found.1, found.2, found.3), wanted);
    assert_eq!(found.4, kind);
    assert!(
        found.5.contains(expected),
        "{:?} does not contain {expected:?}",
        found.5
    );
}

#[test]
fn the_role_determines_the_default_dscp() {
    for (role, dscp) in [("media", Dscp::EF), ("signalling", Dscp::CS5)] {
        let service = GOOD
            .replace("dscp = 'EF'\n", "")
            .replace("'media'", &format!("'{role}'"));
        let config = Config::parse("it.toml", &format!("version = 1\ninclude = []\n{service}"))
            .expect("valid");
        assert_eq!(config.services()[0].dscp, dscp);
    }
}

#[test]
fn invalid_prefixes_are_rejected() {
    let change = |now, value, kind, expected| {
        assert_service_error(
            "198.18.0.0/15",
            now,
            (6, 13),
            "prefixes[0]",
            value,
            kind,
            expected,
        );
    };
    change(
        "198.18.0.1/15",
        "'198.18.0.1/15'",
        "host-bits",
        "bits beyond the length are zero",
    );
    change("198.18.0.0", "'198.18.0.0'", "prefix", "ADDRESS/LENGTH");
    change("198.18.0.0/33", "'198.18.0.0/33'", "prefix", "at most 32");
    change("0.0.0.0/0", "'0.0.0.0/0'", "too-wide", "/12 or longer");
    change("::/0", "'::/0'", "too-wide", "/32 or longer");
    change(
        "224.0.0.0/24",
        "'224.0.0.0/24'",
        "special-purpose",
        "globally reachable",
    );
    change(
        "127.0.0.1/32",
        "'127.0.0.1/32'",
        "special-purpose",
        "globally reachable",
    );
    change(
        "fe80::/64",
        "'fe80::/64'",
        "special-purpose",
        "globally reachable",
    );
    assert_service_error(
        "'198.18.0.0/15'",
        "7",
        (6, 13),
        "prefixes[0]",
        "7",
        "type",
        "a prefix",
    );
    assert_service_error(
        "['198.18.0.0/15', '2001:db8::/32']",
        "'198.18.0.0/15'",
        (6, 12),
        "prefixes",
        "'198.18.0.0/15'",
        "type",
        "a list of prefixes",
    );
    assert_service_error(
        "['198.18.0.0/15', '2001:db8::/32']",
        "[]",
        (6, 12),
        "prefixes",
        "[]",
        "empty-list",
        "a list",
    );
}

#[test]
fn special_purpose_prefixes_need_permission() {
    let text = format!(
        "version = 1\n{}",
        GOOD.replace("allow_special_purpose = true\n", "")
    );
    let diagnostics = diagnostics(&text);
    let keys: Vec<_> = diagnostics
        .iter()
        .map(|diagnostic| (diagnostic.key.as_str(), diagnostic.kind.name()))
        .collect();
    let kind = "special-purpose";
    assert_eq!(
        keys,
        [
            ("service[0].prefixes[0]", kind),
            ("service[0].prefixes[1]", kind)
        ]
    );
    assert!(
        diagnostics[0]
            .to_string()
            .contains("benchmarking, RFC 2544"),
        "{}",
        diagnostics[0]
    );
    assert!(
        diagnostics[1]
            .kind
            .advice()
            .contains("allow_special_purpose = true")
    );
}

#[test]
fn the_right_prefix_is_suggested() {
    let text = format!(
        "version = 1\n{}",
        GOOD.replace("198.18.0.0/15", "168.86.129.0/18")
    );
    assert!(
        diagnostics(&text)[0]
            .kind
            .advice()
            .contains("\"168.86.128.0/18\"")
    );
}

#[test]
fn invalid_ports_are_rejected() {
    let change = |now, value, kind, expected| {
        assert_service_error("3478", now, (7, 10), "ports[0]", value, kind, expected);
    };
    change(
        "'60000-10000'",
        "'60000-10000'",
        "ports",
        "the lower port first",
    );
    change("0", "0", "ports", "1 to 65534");
    change("'0-5'", "'0-5'", "ports", "1 to 65534");
    change("'1024-65535'", "'1024-65535'", "ports", "ports up to 65534");
    change("65536", "65536", "number", "1 to 65534");
    change("-1", "-1", "ports", "a port such as");
    change("'http'", "'http'", "ports", "a port such as");
    change("true", "true", "type", "a port such as");
    assert_service_error(
        "[3478, '10000-60000']",
        "[]",
        (7, 9),
        "ports",
        "[]",
        "empty-list",
        "a list of ports",
    );
}

#[test]
fn invalid_dscps_are_rejected() {
    for bad in ["64", "'FF'", "-1", "'AF44'"] {
        assert_service_error("'EF'", bad, (8, 8), "dscp", bad, "dscp", "0 to 63");
    }
    assert_service_error("'EF'", "1.5", (8, 8), "dscp", "1.5", "type", "0 to 63");
}

#[test]
fn unknown_roles_protocols_and_names_are_rejected() {
    assert_service_error(
        "'media'",
        "'medai'",
        (4, 8),
        "role",
        "'medai'",
        "choice",
        "\"media-fallback\"",
    );
    assert_service_error(
        "'udp'",
        "'sctp'",
        (5, 12),
        "protocol",
        "'sctp'",
        "choice",
        "\"udp\", \"tcp\"",
    );
    assert_service_error(
        "'lab'",
        "'Lab 1'",
        (3, 8),
        "name",
        "'Lab 1'",
        "service-name",
        "1 to 64",
    );
    assert_service_error(
        "dscp = 'EF'",
        "enabled = 'yes'",
        (8, 11),
        "enabled",
        "'yes'",
        "type",
        "true or false",
    );
    assert_service_error(
        "dscp =",
        "dcsp =",
        (8, 1),
        "dcsp",
        "dcsp",
        "unknown-key",
        "dscp, enabled",
    );
    assert_service_error(
        "role = 'media'\n",
        "",
        (2, 1),
        "role",
        "",
        "missing-key",
        "role = \"media\"",
    );
}

#[test]
fn invalid_dates_are_rejected() {
    let change = |lines: &str, at, key, value, kind, expected| {
        assert_service_error(
            "dscp = 'EF'\n",
            &format!("dscp = 'EF'\n{lines}\n"),
            at,
            key,
            value,
            kind,
            expected,
        );
    };
    let (key, never) = ("valid_until", "never-valid");
    change(
        "valid_from = 2024-01-23\nvalid_until = 2024-01-23",
        (10, 15),
        key,
        "2024-01-23",
        never,
        "before",
    );
    change(
        "valid_until = '2024-01-23'",
        (9, 15),
        key,
        "'2024-01-23'",
        "type",
        "without quotes",
    );
    change(
        "valid_until = 2024-01-23T10:00:00Z",
        (9, 15),
        key,
        "2024-01-23T10:00:00Z",
        "type",
        "without quotes",
    );
}

#[test]
fn duplicates_show_both_positions() {
    let text = format!("version = 1\n{GOOD}{GOOD}");
    let diagnostics = diagnostics(&text);
    assert_eq!(diagnostics.len(), 1);
    assert_eq!(
        (
            diagnostics[0].kind.name(),
            diagnostics[0].span.line_and_column()
        ),
        ("duplicate-service", (11, 8))
    );
    assert_eq!(
        diagnostics[0].related.as_ref().map(Span::line_and_column),
        Some((3, 8))
    );
}

#[test]
fn contradictions_show_both_positions() {
    let other = GOOD
        .replace("'lab'", "'lab2'")
        .replace("'EF'", "'AF41'")
        .replace("'198.18.0.0/15'", "'198.18.7.0/24'");
    let text = format!("version = 1\n{GOOD}{other}");
    let found = diagnostics(&text);
    assert_eq!(found.len(), 1, "{found:#?}");
    let diagnostic = &found[0];
    assert_eq!(
        (diagnostic.kind.name(), diagnostic.key.as_str()),
        ("contradiction", "service[1].dscp")
    );
    assert_eq!(
        (diagnostic.span.line_and_column(), diagnostic.value()),
        ((16, 8), Some("'AF41'"))
    );
    assert_eq!(
        diagnostic.related.as_ref().map(Span::line_and_column),
        Some((8, 8))
    );
    assert!(
        diagnostic.kind.to_string().contains("198.18.7.0/24 3478"),
        "{}",
        diagnostic.kind
    );

    let resolved = [
        ("'AF41'", "'EF'"),
        (
            "allow_special_purpose",
            "enabled = false\nallow_special_purpose",
        ),
        ("protocol = 'udp'", "protocol = 'tcp'"),
        ("[3478, '10000-60000']", "[5000]"),
        ("['198.18.7.0/24', '2001:db8::/32']", "['203.0.113.0/24']"),
    ];
    for (was, now) in resolved {
        assert!(other.contains(was), "{was}");
        let text = format!("version = 1\n{GOOD}{}", other.replace(was, now));
        Config::parse("it.toml", &text).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    }
    let windows = |first: &str, second: &str| {
        Config::parse(
            "it.toml",
            &format!("version = 1\n{GOOD}{first}\n{other}{second}\n"),
        )
        .is_ok()
    };
    assert!(windows(
        "valid_until = 2024-01-23",
        "valid_from = 2024-01-23"
    ));
    assert!(windows(
        "valid_from = 2024-01-23",
        "valid_until = 2024-01-23"
    ));
    assert!(!windows(
        "valid_until = 2024-01-24",
        "valid_from = 2024-01-23"
    ));
}

#[test]
fn a_service_may_contradict_a_catalogue() {
    let text = "version = 1\n[[service]]\nname = 'mine'\nrole = 'media'\nprotocol = 'udp'\n\
                prefixes = ['168.86.128.0/20']\nports = [20000]\ndscp = 0\n";
    let diagnostics = diagnostics(text);
    assert_eq!(diagnostics.len(), 1);
    assert!(
        diagnostics[0]
            .related
            .as_ref()
            .is_some_and(|span| span.file().starts_with("talkdesk.toml"))
    );
    let text = text.replacen(
        "version = 1",
        "version = 1\ndisable = ['talkdesk-media']",
        1,
    );
    assert!(Config::parse("it.toml", &text).is_ok());
}
