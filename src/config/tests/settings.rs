//! Errors of settings.

use super::*;
use crate::net::Fwmark;

/// Checks the only error of the lines after `version = 1`.
#[track_caller]
fn assert_setting_error(
    lines: &str,
    at: (usize, usize),
    key: &str,
    value: &str,
    kind: &str,
    expected: &str,
) {
    let found = only(&format!("version = 1\n{lines}"));
    assert_eq!(
        (found.0, found.1, found.2.as_str(), found.3.as_deref()),
        (at.0, at.1, key, Some(value))
    );
    assert_eq!(found.4, kind);
    assert!(
        found.5.contains(expected),
        "{:?} does not contain {expected:?}",
        found.5
    );
}

#[test]
fn unknown_names_are_rejected() {
    assert_setting_error(
        "include = ['talkdsek']",
        (2, 12),
        "include[0]",
        "'talkdsek'",
        "unknown-name",
        "\"talkdesk\"",
    );
    assert_setting_error(
        "enable = ['talkdesk-signaling']",
        (2, 11),
        "enable[0]",
        "'talkdesk-signaling'",
        "unknown-name",
        "\"talkdesk-signalling\"",
    );
    let advice = diagnostics("version = 1\ndisable = ['talkdesk-medai']")[0]
        .kind
        .advice();
    assert_eq!(advice, "did you mean \"talkdesk-media\"?");
    assert_setting_error(
        "enable = ['talkdesk-media']\ndisable = ['talkdesk-media']",
        (3, 12),
        "disable[0]",
        "'talkdesk-media'",
        "enabled-and-disabled",
        "one of the two lists",
    );
}

#[test]
fn invalid_settings_are_rejected() {
    let long = "'a234567890123456'";
    assert_setting_error(
        &format!("[tun]\nname = {long}"),
        (3, 8),
        "tun.name",
        long,
        "interface-name",
        "1 to 15",
    );
    for bad in ["''", "'a b'", "'a/b'", "'..'", "'tun%d'", "'é'"] {
        assert_setting_error(
            &format!("[tun]\nname = {bad}"),
            (3, 8),
            "tun.name",
            bad,
            "interface-name",
            "1 to 15",
        );
    }
    let same = "[uplink]\ninterface = 'voicelane0'";
    assert_setting_error(
        same,
        (3, 13),
        "uplink.interface",
        "'voicelane0'",
        "uplink-is-tun",
        "two different",
    );
    assert_setting_error(
        "[uplink]\nprefer = ['eth*', 'w lan']",
        (3, 19),
        "uplink.prefer[1]",
        "'w lan'",
        "interface-pattern",
        "any number of '*'",
    );
    let lifetime = |bad: &str| {
        let (lines, key) = (
            format!("[nat]\nmapping_lifetime_seconds = {bad}"),
            "nat.mapping_lifetime_seconds",
        );
        assert_setting_error(&lines, (3, 28), key, bad, "number", "120 to 86400");
    };
    lifetime("119");
    lifetime("86401");
    lifetime("-300");
    assert_setting_error(
        "[nat]\nfiltering = 'none'",
        (3, 13),
        "nat.filtering",
        "'none'",
        "choice",
        "address-dependent",
    );
    assert_setting_error(
        "[route]\ncapture = 'all'",
        (3, 11),
        "route.capture",
        "'all'",
        "choice",
        "prefix",
    );
    assert_setting_error(
        "[failover]\nto = 'direct'",
        (3, 6),
        "failover.to",
        "'direct'",
        "choice",
        "tunnel",
    );
    for (key, value, expected) in [
        ("silence_seconds", "0", "1 to 30"),
        ("silence_seconds", "31", "1 to 30"),
        ("retry_seconds", "3601", "1 to 3600"),
    ] {
        let (lines, key) = (
            format!("[failover]\n{key} = {value}"),
            format!("failover.{key}"),
        );
        let column = lines.lines().next_back().map_or(0, str::len) + 1 - value.len();
        assert_setting_error(&lines, (3, column), &key, value, "number", expected);
    }
    for (lines, column, key, value, kind, expected) in [
        (
            "interfaces = ['lan0', 'a b']",
            23,
            "interfaces[1]",
            "'a b'",
            "interface-name",
            "1 to 15",
        ),
        (
            "interfaces = ['voicelane0']",
            15,
            "interfaces[0]",
            "'voicelane0'",
            "clients-at-uplink",
            "clients are behind",
        ),
        (
            "mappings_per_client = 0",
            23,
            "mappings_per_client",
            "0",
            "number",
            "1 to 32768",
        ),
        (
            "connections_per_client = 4097",
            26,
            "connections_per_client",
            "4097",
            "number",
            "1 to 4096",
        ),
        ("remark = 'best'", 10, "remark", "'best'", "dscp", "0 to 63"),
    ] {
        assert_setting_error(
            &format!("[gateway]\n{lines}"),
            (3, column),
            &format!("gateway.{key}"),
            value,
            kind,
            expected,
        );
    }
    assert_setting_error(
        "[control]\ngroup = '-x'",
        (3, 9),
        "control.group",
        "'-x'",
        "group-name",
        "1 to 32",
    );
    for bad in [
        "'0.0.0.0:9764'",
        "'192.0.2.1:9764'",
        "'127.0.0.1:0'",
        "'[::]:9764'",
        "'/run/x.sock'",
    ] {
        assert_setting_error(
            &format!("[metrics]\nlisten = {bad}"),
            (3, 10),
            "metrics.listen",
            bad,
            "metrics-span",
            "a loopback address",
        );
    }
    assert_setting_error(
        "[route]\npriority = 0",
        (3, 12),
        "route.priority",
        "0",
        "number",
        "1 to 32765",
    );
    for bad in ["0", "1", "0x76000001"] {
        assert_setting_error(
            &format!("[route]\nmark = {bad}"),
            (3, 8),
            "route.mark",
            bad,
            "mark",
            "0xff000000",
        );
    }
    assert_setting_error(
        "[route]\nmark = '1'",
        (3, 8),
        "route.mark",
        "'1'",
        "type",
        "a whole number",
    );
    for (key, column) in [("vpn_mark", 12), ("conntrack_mark", 18)] {
        assert_setting_error(
            &format!("[uplink]\n{key} = 0"),
            (3, column),
            &format!("uplink.{key}"),
            "0",
            "number",
            "1 to 4294967295",
        );
    }
    assert_setting_error(
        "[uplink]\nvpn_mark = 'wg0'",
        (3, 12),
        "uplink.vpn_mark",
        "'wg0'",
        "choice",
        "auto",
    );
    assert_setting_error("nat = 5", (2, 7), "nat", "5", "type", "a table");
    assert_setting_error("[turn]", (2, 2), "turn", "turn", "unknown-key", "tun");
}

#[test]
fn uplinks_can_be_preferred_pinned_and_excluded() {
    let text =
        "version = 1\n[uplink]\ninterface = 'wlan0'\nprefer = ['eth*', 'wl*']\nexclude = ['wwan*']";
    let config = Config::parse("it.toml", text).expect("valid");
    let uplink = config.uplink();
    assert_eq!(
        uplink.interface.as_ref().map(InterfaceName::as_str),
        Some("wlan0")
    );
    assert!(uplink.prefer[0].matches("eth1") && uplink.prefer[1].matches("wlp3s0"));
    assert!(uplink.exclude[0].matches("wwan0") && uplink.exclude.len() == 1);
}

#[test]
fn the_vpn_mark_is_a_number_or_auto() {
    let uplink = |lines: &str| {
        let text = format!("version = 1\n[uplink]\n{lines}");
        let config = Config::parse("it.toml", &text).expect("valid");
        let uplink = config.uplink();
        (uplink.vpn_mark, uplink.conntrack_mark)
    };
    assert_eq!(uplink(""), (None, None));
    assert_eq!(uplink("vpn_mark = 'auto'"), (Some(VpnMark::Auto), None));
    let given = uplink("vpn_mark = 0xca6c\nconntrack_mark = 0xf41");
    let marks = (Some(VpnMark::Is(Fwmark(51_820))), Some(Fwmark(0xf41)));
    assert_eq!(given, marks);
}

#[test]
fn the_table_leaves_room_for_every_port_range() {
    // The catalogue has three port ranges (one of them retired), so the base and three tables above it are needed.
    for (base, kind) in [
        ("0", "number"),
        ("250", "reserved-table"),
        ("255", "reserved-table"),
        ("4294967294", "tables-exhausted"),
        ("4294967296", "number"),
    ] {
        let lines = format!("[route]\ntable = {base}");
        let expected = match kind {
            "number" => "1 to 4294967295",
            "reserved-table" => "without 0, 253, 254 and 255",
            _ => "at most 4294967292",
        };
        assert_setting_error(&lines, (3, 9), "route.table", base, kind, expected);
    }
    for base in ["249", "256", "4294967292"] {
        assert!(
            Config::parse("it.toml", &format!("version = 1\n[route]\ntable = {base}")).is_ok(),
            "{base}"
        );
    }
}

#[test]
fn a_missing_or_unknown_version_is_rejected() {
    let (line, column, key, value, kind, expected) = only("include = []");
    assert_eq!(
        (line, column, key.as_str(), value, kind),
        (1, 1, "version", None, "missing-key")
    );
    assert!(expected.contains("version = 1"));
    let (_, _, _, value, kind, expected) = only("version = 2");
    assert_eq!(
        (value.as_deref(), kind, expected.as_str()),
        (Some("2"), "version", "1")
    );
}
