//! The outcome: two tables for people, one JSON document for programs, and whether all of it is as it should be.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width};
use comfy_table::{LineStyle, TableStyle};
use serde::Serialize;

use super::checks::Check;
use super::measure::{BothWays, Measure, Quantiles, Setting, as_text};
use crate::net::{Dscp, Family};

/// The version of the JSON document.
const VERSION: u8 = 1;
/// The tables' columns: 100 with what is between them.
const WIDTHS: [u16; 3] = [32, 33, 33];
/// The most packets of a hundred that a call may lose.
const LOSS_LIMIT: u64 = 1;

const RIGHT: &str = "✓";
const WRONG: &str = "✗";
// Colours of a terminal (ECMA-48, SGR).
const GREEN: &str = "32";
const RED: &str = "1;31";

/// All that the demo found out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: u8,
    passed: bool,
    seconds: f64,
    /// Whether the routers translated addresses; false when this kernel cannot.
    nat: bool,
    calls: Vec<Measure>,
    checks: Vec<Check>,
    faults: Vec<Fault>,
}

/// A measure of a call that is not as it should be.
#[derive(Debug, Serialize)]
struct Fault {
    setting: Setting,
    #[serde(serialize_with = "as_text")]
    family: Family,
    row: &'static str,
    expected: String,
    measured: String,
}

/// A row of the first table.
struct Row {
    name: &'static str,
    text: fn(&Measure) -> String,
    /// What was expected instead; `None` when the measure is as it should be.
    fault: fn(&Measure, &Report) -> Option<String>,
}

const ROWS: &[Row] = &[
    Row {
        name: "path",
        text: |m| m.path.clone(),
        fault: |m, _| {
            let path = match m.setting {
                Setting::VpnOnly => "wg0 ⇒ home ⇒ gateway → cloud",
                Setting::WithVoicelane => "voicelane0 → home → cloud",
            };
            (m.path != path).then(|| path.to_owned())
        },
    },
    Row {
        name: "in clear on home link",
        text: |m| match m.in_clear {
            BothWays { up: 0, down: 0 } => format!("none; {} WireGuard packets", m.wireguard),
            BothWays { up, down } => format!("{up}/{} up, {down}/{} down", m.sent.up, m.sent.down),
        },
        fault: |m, _| {
            let none = BothWays { up: 0, down: 0 };
            let carried = m.received.up + m.received.down;
            let right = match m.setting {
                Setting::VpnOnly => m.in_clear == none && m.wireguard as u64 >= carried,
                Setting::WithVoicelane => {
                    m.at_gateway == none
                        && m.in_clear.up as u64 >= m.received.up
                        && m.in_clear.down as u64 >= m.received.down
                }
            };
            (!right).then(|| match m.setting {
                Setting::VpnOnly => "none, and WireGuard instead".to_owned(),
                Setting::WithVoicelane => "all, and none by the gateway".to_owned(),
            })
        },
    },
    Row {
        name: "DSCP at home router",
        text: |m| {
            let named = |value| {
                Dscp::new(value).map_or_else(|_| "?".to_owned(), |dscp| format!("{dscp} ({value})"))
            };
            m.dscp
                .iter()
                .copied()
                .map(named)
                .collect::<Vec<_>>()
                .join(", ")
        },
        fault: |m, _| {
            let right = m.setting == Setting::VpnOnly || m.dscp == [Dscp::EF.value()];
            (!right).then(|| "EF (46) and nothing else".to_owned())
        },
    },
    Row {
        name: "cloud sees the caller at",
        text: |m| match m.seen_from {
            Some(addr) => format!("{addr}, {}", m.seen_from_whom()),
            None => "nowhere".to_owned(),
        },
        fault: |m, report| {
            let from = match (m.setting, report.nat && m.family == Family::V4) {
                (Setting::VpnOnly, true) => "VPN gateway",
                (Setting::VpnOnly, false) => "in the VPN",
                (Setting::WithVoicelane, true) => "home router",
                (Setting::WithVoicelane, false) => "at home",
            };
            (m.seen_from_whom() != from).then(|| from.to_owned())
        },
    },
    Row {
        name: "round trip p50 / p99",
        text: |m| match m.round_trip_ms {
            Some(Quantiles { p50, p99 }) => format!("{p50:.2} / {p99:.2} ms"),
            None => "nothing came back".to_owned(),
        },
        fault: |m, report| {
            let vpn = report.call(m.family, Setting::VpnOnly)?.round_trip_ms;
            let shorter = |own: Quantiles| vpn.is_some_and(|vpn| own.p50 < vpn.p50);
            match m.setting {
                Setting::VpnOnly => m.round_trip_ms.is_none().then(|| "any".to_owned()),
                Setting::WithVoicelane => (!m.round_trip_ms.is_some_and(shorter))
                    .then(|| "a shorter one than by the VPN".to_owned()),
            }
        },
    },
    Row {
        name: "jitter (RFC 3550)",
        text: |m| {
            format!(
                "{:.2} ms up, {:.2} ms down",
                m.jitter_ms.up, m.jitter_ms.down
            )
        },
        fault: |_, _| None,
    },
    Row {
        name: "lost",
        text: |m| {
            format!(
                "{}/{} up, {}/{} down",
                m.lost().up,
                m.sent.up,
                m.lost().down,
                m.sent.down
            )
        },
        fault: |m, _| {
            let bearable = |lost, sent| sent > 0 && lost * 100 <= sent * LOSS_LIMIT;
            let right = bearable(m.lost().up, m.sent.up) && bearable(m.lost().down, m.sent.down);
            (!right).then(|| format!("at most {LOSS_LIMIT} %"))
        },
    },
    Row {
        name: "STUN consent checks",
        text: |m| format!("{} of {} answered", m.consent_answered, m.consent_asked),
        fault: |m, _| {
            (m.consent_asked == 0 || m.consent_answered < m.consent_asked).then(|| "all".to_owned())
        },
    },
    Row {
        name: "cloud link saw",
        text: |m| format!("{} up, {} down", m.on_cloud_link.up, m.on_cloud_link.down),
        fault: |m, _| {
            let right = m.on_cloud_link.up as u64 == m.received.up
                && m.on_cloud_link.down as u64 == m.sent.down;
            (!right).then(|| {
                format!(
                    "what the cloud heard and sent: {} up, {} down",
                    m.received.up, m.sent.down
                )
            })
        },
    },
];

impl Report {
    /// Judges what was measured.
    pub(super) fn new(nat: bool, calls: Vec<Measure>, checks: Vec<Check>, took: Duration) -> Self {
        let mut report = Self {
            version: VERSION,
            passed: false,
            seconds: (took.as_secs_f64() * 10.0).round() / 10.0,
            nat,
            calls,
            checks,
            faults: Vec::new(),
        };
        report.faults = report
            .calls
            .iter()
            .flat_map(|call| ROWS.iter().filter_map(|row| report.fault(row, call)))
            .collect();
        report.passed = report.faults.is_empty() && report.checks.iter().all(|check| check.passed);
        report
    }

    /// Whether everything is as it should be.
    pub(super) fn passed(&self) -> bool {
        self.passed
    }

    /// The JSON document.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The tables, and what is wrong.
    pub(super) fn text(&self) -> String {
        let (right, wrong) = (painted(RIGHT, GREEN), painted(WRONG, RED));
        let [calls, checks] = [self.call_table(), self.check_table()].map(|table| {
            table
                .trim_fmt()
                .replace(RIGHT, &right)
                .replace(WRONG, &wrong)
        });
        let mut text = format!("\n{calls}\n\n{checks}\n");
        text += " ⇒ inside WireGuard   → in the clear   up: from the caller   gap: longest silence, up/down\n";
        if !self.nat {
            text += " This kernel has no nftables: the routers of this world do not translate addresses.\n";
        }
        text += "\n";
        let faults = self.faults.iter().map(|fault| {
            let Fault {
                setting,
                family,
                row,
                expected,
                measured,
            } = fault;
            format!("{family} call {setting}, {row}: {measured}; expected: {expected}")
        });
        let checks = self
            .checks
            .iter()
            .filter(|check| !check.passed)
            .map(|check| {
                let Check {
                    name,
                    family,
                    expected,
                    measured,
                    ..
                } = check;
                format!("{family}, {name}: {measured}; expected: {expected}")
            });
        for line in faults.chain(checks) {
            let _ = writeln!(text, "{} {line}", painted("FAIL", RED));
        }
        let verdict = if self.passed {
            painted("All as it should be", GREEN)
        } else {
            painted("Not as it should be", RED)
        };
        let _ = write!(
            text,
            "{verdict}, after {:.0} s. Nothing of it stays on this machine.",
            self.seconds
        );
        text
    }

    fn fault(&self, row: &Row, call: &Measure) -> Option<Fault> {
        (row.fault)(call, self).map(|expected| Fault {
            setting: call.setting,
            family: call.family,
            row: row.name,
            expected,
            measured: (row.text)(call),
        })
    }

    fn call(&self, family: Family, setting: Setting) -> Option<&Measure> {
        let mut calls = self.calls.iter();
        calls.find(|call| call.family == family && call.setting == setting)
    }

    fn call_table(&self) -> Table {
        let mut table = table([
            "Two-way voice call".to_owned(),
            Setting::VpnOnly.to_string(),
            Setting::WithVoicelane.to_string(),
        ]);
        for family in [Family::V4, Family::V6] {
            let (Some(vpn), Some(voicelane)) = (
                self.call(family, Setting::VpnOnly),
                self.call(family, Setting::WithVoicelane),
            ) else {
                continue;
            };
            table.add_row([family.to_string()]);
            for row in ROWS {
                let cell = |m| mark((row.fault)(m, self).is_none(), &(row.text)(m));
                table.add_row([format!("  {}", row.name), cell(vpn), cell(voicelane)]);
            }
        }
        table
    }

    fn check_table(&self) -> Table {
        let mut table = table([
            "Everything else".to_owned(),
            Family::V4.to_string(),
            Family::V6.to_string(),
        ]);
        let of = |name, family| {
            self.checks
                .iter()
                .find(move |check| check.name == name && check.family == family)
        };
        for v4 in self
            .checks
            .iter()
            .filter(|check| check.family == Family::V4)
        {
            let cell = |check: &Check| mark(check.passed, &check.measured);
            let v6 = of(v4.name, Family::V6).map_or_else(|| "  –".to_owned(), cell);
            table.add_row([v4.name.to_owned(), cell(v4), v6]);
        }
        table
    }
}

fn table(header: [String; 3]) -> Table {
    let line = |fill| LineStyle::none().fill(fill).junction(fill);
    let mut table = Table::new();
    table
        .load_style(
            TableStyle::new()
                .top_border(line('─'))
                .header_separator(line('─'))
                .bottom_border(line('─')),
        )
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header)
        .set_constraints(WIDTHS.map(|width| ColumnConstraint::Absolute(Width::Fixed(width))));
    table
}

fn mark(passed: bool, text: &str) -> String {
    format!("{} {text}", if passed { RIGHT } else { WRONG })
}

fn painted(text: &str, colour: &str) -> String {
    if io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none() {
        format!("\u{1b}[{colour}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}
