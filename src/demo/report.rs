//! The results of the demo: tables for people, one JSON document for programs, and the verdict.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width};
use comfy_table::{LineStyle, TableStyle};
use serde::Serialize;

use super::checks::DemoCheck;
use super::measure::{BothWays, CallMeasurement, CallSetting, Quantiles, as_text};
use super::wireguard::{DELAY, DELAY_VARIATION};
use crate::net::{Dscp, Family};

/// The version of the JSON document.
const VERSION: u8 = 1;
/// The widths of the columns, 100 with the space between them.
const WIDTHS: [u16; 3] = [32, 33, 33];
/// The largest loss of a call, in percent.
const LOSS_LIMIT: u64 = 1;

const GOOD: &str = "✓";
const BAD: &str = "✗";
const FAIL: &str = "FAIL";
// Colours of a terminal (ECMA-48, SGR).
const GREEN: &str = "32";
const RED: &str = "1;31";

/// The results of the demo.
#[derive(Debug, Serialize)]
pub(super) struct DemoReport {
    version: u8,
    passed: bool,
    seconds: f64,
    /// Whether the routers translated addresses; false when this kernel cannot.
    nat: bool,
    /// The smallest and the largest one-way delay that the demo adds to the VPN, in milliseconds.
    vpn_delay_set_ms: [u128; 2],
    calls: Vec<CallMeasurement>,
    checks: Vec<DemoCheck>,
    deviations: Vec<Deviation>,
}

/// A measurement of a call that differs from the expected value.
#[derive(Debug, Serialize)]
struct Deviation {
    setting: CallSetting,
    #[serde(serialize_with = "as_text")]
    family: Family,
    row: &'static str,
    expected: String,
    measured: String,
}

/// Whether a value is good for a call. Values that are neither have no mark.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quality {
    Good,
    Bad,
    Neutral,
}

impl Quality {
    fn good_if(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

/// A row of the table of calls.
struct CallRow {
    name: &'static str,
    text: fn(&CallMeasurement) -> String,
    quality: fn(&CallMeasurement, &DemoReport) -> Quality,
    /// The expected value; `None` when the measured one is as expected.
    deviation: fn(&CallMeasurement, &DemoReport) -> Option<String>,
}

const ROWS: &[CallRow] = &[
    CallRow {
        name: "path",
        text: |m| m.path.clone(),
        quality: |m, _| Quality::good_if(m.at_gateway.up == 0),
        deviation: |m, _| {
            let path = match m.setting {
                CallSetting::VpnOnly => "wg0 ⇒ home ⇒ gateway → cloud",
                CallSetting::WithVoicelane => "voicelane0 → home → cloud",
            };
            (m.path != path).then(|| path.to_owned())
        },
    },
    CallRow {
        name: "in clear on home link",
        text: |m| match m.in_clear {
            BothWays { up: 0, down: 0 } => format!("none; {} WireGuard packets", m.wireguard),
            BothWays { up, down } => format!("{up}/{} up, {down}/{} down", m.sent.up, m.sent.down),
        },
        quality: |_, _| Quality::Neutral,
        deviation: |m, _| {
            let none = BothWays { up: 0, down: 0 };
            let carried = m.received.up + m.received.down;
            let right = match m.setting {
                CallSetting::VpnOnly => m.in_clear == none && m.wireguard as u64 >= carried,
                CallSetting::WithVoicelane => {
                    m.at_gateway == none
                        && m.in_clear.up as u64 >= m.received.up
                        && m.in_clear.down as u64 >= m.received.down
                }
            };
            (!right).then(|| match m.setting {
                CallSetting::VpnOnly => "none, and WireGuard instead".to_owned(),
                CallSetting::WithVoicelane => "all, and none by the VPN gateway".to_owned(),
            })
        },
    },
    CallRow {
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
        quality: |m, _| Quality::good_if(m.dscp == [Dscp::EF.value()]),
        deviation: |m, _| {
            let right = m.setting == CallSetting::VpnOnly || m.dscp == [Dscp::EF.value()];
            (!right).then(|| "EF (46) and nothing else".to_owned())
        },
    },
    CallRow {
        name: "cloud sees the caller at",
        text: |m| match m.seen_from {
            Some(addr) => format!("{addr}, {}", m.owner_of_source()),
            None => "nowhere".to_owned(),
        },
        quality: |_, _| Quality::Neutral,
        deviation: |m, report| {
            let from = match (m.setting, report.nat && m.family == Family::V4) {
                (CallSetting::VpnOnly, true) => "VPN gateway",
                (CallSetting::VpnOnly, false) => "in the VPN",
                (CallSetting::WithVoicelane, true) => "home router",
                (CallSetting::WithVoicelane, false) => "at home",
            };
            (m.owner_of_source() != from).then(|| from.to_owned())
        },
    },
    CallRow {
        name: "delay set by the demo",
        text: |m| match (m.setting, DELAY, DELAY + DELAY_VARIATION) {
            (CallSetting::VpnOnly, least, most) => {
                format!("{} to {} ms each way", least.as_millis(), most.as_millis())
            }
            (CallSetting::WithVoicelane, ..) => "none".to_owned(),
        },
        quality: |_, _| Quality::Neutral,
        deviation: |_, _| None,
    },
    CallRow {
        name: "round trip p50 / p99",
        text: |m| match m.round_trip_ms {
            Some(Quantiles { p50, p99 }) => format!("{p50:.2} / {p99:.2} ms"),
            None => "no answer".to_owned(),
        },
        quality: |m, report| {
            let p50 = |m: &CallMeasurement| m.round_trip_ms.map(|it| it.p50);
            let others = report.calls.iter().filter(|it| it.family == m.family);
            let best = others.filter_map(p50).fold(f64::INFINITY, f64::min);
            Quality::good_if(p50(m).is_some_and(|own| own <= best))
        },
        deviation: |m, report| {
            let vpn = report.call(m.family, CallSetting::VpnOnly)?.round_trip_ms;
            let shorter = |own: Quantiles| vpn.is_some_and(|vpn| own.p50 < vpn.p50);
            match m.setting {
                CallSetting::VpnOnly => m.round_trip_ms.is_none().then(|| "any".to_owned()),
                CallSetting::WithVoicelane => (!m.round_trip_ms.is_some_and(shorter))
                    .then(|| "shorter than by the VPN".to_owned()),
            }
        },
    },
    CallRow {
        name: "jitter (RFC 3550)",
        text: |m| {
            format!(
                "{:.2} ms up, {:.2} ms down",
                m.jitter_ms.up, m.jitter_ms.down
            )
        },
        quality: |_, _| Quality::Neutral,
        deviation: |_, _| None,
    },
    CallRow {
        name: "lost packets",
        text: |m| {
            format!(
                "{}/{} up, {}/{} down",
                m.lost().up,
                m.sent.up,
                m.lost().down,
                m.sent.down
            )
        },
        quality: |m, _| Quality::good_if(m.loses_little()),
        deviation: |m, _| {
            let limit = || format!("at most {LOSS_LIMIT} %");
            (!m.loses_little()).then(limit)
        },
    },
    CallRow {
        name: "STUN consent checks",
        text: |m| format!("{} of {} answered", m.consent_answered, m.consent_asked),
        quality: |m, _| Quality::good_if(m.is_consent_answered()),
        deviation: |m, _| (!m.is_consent_answered()).then(|| "all".to_owned()),
    },
    CallRow {
        name: "packets on cloud link",
        text: |m| format!("{} up, {} down", m.on_cloud_link.up, m.on_cloud_link.down),
        quality: |_, _| Quality::Neutral,
        deviation: |m, _| {
            let right = m.on_cloud_link.up as u64 == m.received.up
                && m.on_cloud_link.down as u64 == m.sent.down;
            (!right).then(|| {
                format!(
                    "as many as the cloud received and sent: {} up, {} down",
                    m.received.up, m.sent.down
                )
            })
        },
    },
];

impl CallMeasurement {
    fn loses_little(&self) -> bool {
        let is_little = |lost, sent| sent > 0 && lost * 100 <= sent * LOSS_LIMIT;
        let lost = self.lost();
        is_little(lost.up, self.sent.up) && is_little(lost.down, self.sent.down)
    }

    fn is_consent_answered(&self) -> bool {
        self.consent_asked > 0 && self.consent_answered == self.consent_asked
    }
}

impl DemoReport {
    /// Compares the measurements with the expected values.
    pub(super) fn new(
        nat: bool,
        calls: Vec<CallMeasurement>,
        checks: Vec<DemoCheck>,
        took: Duration,
    ) -> Self {
        let mut report = Self {
            version: VERSION,
            passed: false,
            seconds: (took.as_secs_f64() * 10.0).round() / 10.0,
            nat,
            vpn_delay_set_ms: [DELAY, DELAY + DELAY_VARIATION].map(|it| it.as_millis()),
            calls,
            checks,
            deviations: Vec::new(),
        };
        report.deviations = report
            .calls
            .iter()
            .flat_map(|call| ROWS.iter().filter_map(|row| report.deviation(row, call)))
            .collect();
        report.passed =
            report.deviations.is_empty() && report.checks.iter().all(|check| check.passed);
        report
    }

    /// Returns whether all results are as expected.
    pub(super) fn passed(&self) -> bool {
        self.passed
    }

    /// Returns the JSON document.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// Returns the verdict, the deviations and the tables.
    pub(super) fn text(&self) -> String {
        let deviations = self.deviations.iter().map(|it| {
            let Deviation {
                setting,
                family,
                row,
                expected,
                measured,
            } = it;
            format!("{family} call {setting}, {row}: {measured}; expected: {expected}")
        });
        let checks = self.checks.iter().filter(|check| !check.passed).map(|it| {
            let DemoCheck {
                name,
                family,
                expected,
                measured,
                ..
            } = it;
            format!("{family}, {name}: {measured}; expected: {expected}")
        });
        let failures: Vec<_> = deviations.chain(checks).collect();
        let verdict = match failures.len() {
            0 => painted(
                "Passed: media left the VPN and was marked EF; other traffic stayed in the VPN.",
                GREEN,
            ),
            1 => painted("Failed: 1 result is not as expected.", RED),
            count => painted(
                &format!("Failed: {count} results are not as expected."),
                RED,
            ),
        };
        let mut text = format!(
            "\n{verdict} The demo took {:.0} s and left nothing on this machine.\n",
            self.seconds
        );
        for failure in failures {
            let _ = writeln!(text, "{} {failure}", painted(FAIL, RED));
        }
        let (good, bad, fail) = (painted(GOOD, GREEN), painted(BAD, RED), painted(FAIL, RED));
        for table in [self.call_table(), self.check_table()] {
            let table = table.trim_fmt().replace(GOOD, &good).replace(BAD, &bad);
            let _ = write!(text, "\n{}\n", table.replace(FAIL, &fail));
        }
        let _ = write!(
            text,
            " {GOOD} good   {BAD} bad   ⇒ inside WireGuard   → in clear   up: from the caller\n \
             The demo sets the delay of the VPN; everything else is measured. gap: longest silence, up/down"
        );
        if !self.nat {
            text += "\n This kernel has no nftables: the routers do not translate addresses.";
        }
        text
    }

    fn deviation(&self, row: &CallRow, call: &CallMeasurement) -> Option<Deviation> {
        (row.deviation)(call, self).map(|expected| Deviation {
            setting: call.setting,
            family: call.family,
            row: row.name,
            expected,
            measured: (row.text)(call),
        })
    }

    fn call(&self, family: Family, setting: CallSetting) -> Option<&CallMeasurement> {
        let mut calls = self.calls.iter();
        calls.find(|call| call.family == family && call.setting == setting)
    }

    fn call_table(&self) -> Table {
        let mut table = table([
            "Two-way voice call".to_owned(),
            CallSetting::VpnOnly.to_string(),
            CallSetting::WithVoicelane.to_string(),
        ]);
        for family in [Family::V4, Family::V6] {
            let (Some(vpn), Some(voicelane)) = (
                self.call(family, CallSetting::VpnOnly),
                self.call(family, CallSetting::WithVoicelane),
            ) else {
                continue;
            };
            table.add_row([family.to_string()]);
            for row in ROWS {
                let cell = |m| {
                    let mark = match (row.quality)(m, self) {
                        _ if (row.deviation)(m, self).is_some() => FAIL,
                        Quality::Good => GOOD,
                        Quality::Bad => BAD,
                        Quality::Neutral => " ",
                    };
                    format!("{mark} {}", (row.text)(m))
                };
                table.add_row([format!("  {}", row.name), cell(vpn), cell(voicelane)]);
            }
        }
        table
    }

    fn check_table(&self) -> Table {
        let mut table = table([
            "Other traffic".to_owned(),
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
            let cell = |check: &DemoCheck| {
                let mark = if check.passed { GOOD } else { FAIL };
                format!("{mark} {}", check.measured)
            };
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

fn painted(text: &str, colour: &str) -> String {
    if io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none() {
        format!("\u{1b}[{colour}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}
