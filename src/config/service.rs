//! A service of the policy: its addresses, ports and DSCP, and the keys of `[[service]]`.

use jiff::civil::Date;
use serde_json::json;
use toml::de::DeValue;

use super::diagnostic::Diagnostic;
use super::diagnostic_kind::DiagnosticKind;
use super::raw::{Collector, RawTable, Spanned, Spans};
use super::setting::{SettingSpec, SettingsTable};
use super::span::Span;
use super::special_purpose;
use super::value_type::{BOOLEAN, Choice, List, Scalar, text, wrong_type};
use super::values::DSCP;
use crate::net::{Dscp, PolicyService, PortRange, PortRangeError, Prefix, Protocol, Role};

/// The keys of a service.
pub(super) const TABLE: SettingsTable = SettingsTable {
    name: "service",
    about: &["A service of your own. Overlapping services need the same `dscp`."],
    settings: &[
        &NAME,
        &DESCRIPTION,
        &ROLE,
        &PROTOCOL,
        &PREFIXES,
        &PORTS,
        &DSCP_KEY,
        &ENABLED,
        &ALLOW_SPECIAL_PURPOSE,
        &VALID_FROM,
        &VALID_UNTIL,
        &SOURCE,
    ],
};

const fn required<V>(
    key: &'static str,
    about: &'static [&'static str],
    example: &'static str,
    value: V,
) -> SettingSpec<V> {
    SettingSpec {
        key,
        about,
        default: None,
        reason: "",
        example: Some(example),
        required: true,
        reload: true,
        value,
    }
}

/// `default` and `reason` stand together: without a default, the reason describes the meaning of a missing key.
const fn optional<V>(
    key: &'static str,
    about: &'static [&'static str],
    (default, reason): (Option<&'static str>, &'static str),
    example: &'static str,
    value: V,
) -> SettingSpec<V> {
    SettingSpec {
        key,
        about,
        default,
        reason,
        example: Some(example),
        required: false,
        reload: true,
        value,
    }
}

const SENTENCE: Scalar<String> = Scalar {
    convert: |value| text(value, "a string"),
    schema: || json!({ "type": "string" }),
    syntax: "a string",
};

const DATE: Scalar<Date> = Scalar {
    convert: date,
    schema: || json!({ "type": "string", "format": "date" }),
    syntax: "a date without quotes, such as 2023-09-26",
};

const NAME: SettingSpec<Scalar<String>> = required(
    "name",
    &["Name of the service, unique in its file."],
    "\"lab-media\"",
    Scalar {
        convert: service_name,
        schema: || json!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9_.-]{0,63}$" }),
        syntax: "1 to 64 of a-z, 0-9, '-', '_' and '.', a letter or digit first",
    },
);

const DESCRIPTION: SettingSpec<Scalar<String>> = optional(
    "description",
    &["Description of the service in one sentence."],
    (None, "optional"),
    "\"Media servers of the lab\"",
    SENTENCE,
);

const ROLE: SettingSpec<Choice<Role>> = required(
    "role",
    &["Role of the service in a call; media-fallback is media over TCP."],
    "\"media\"",
    Choice {
        words: &[
            ("media", Role::Media),
            ("test", Role::Test),
            ("media-fallback", Role::MediaFallback),
            ("signalling", Role::Signalling),
        ],
        expected: "a role, such as \"media\"",
    },
);

const PROTOCOL: SettingSpec<Choice<Protocol>> = required(
    "protocol",
    &["Transport protocol."],
    "\"udp\"",
    Choice {
        words: &[("udp", Protocol::Udp), ("tcp", Protocol::Tcp)],
        expected: "\"udp\" or \"tcp\"",
    },
);

const PREFIXES: SettingSpec<List<Scalar<Prefix>>> = required(
    "prefixes",
    &["Prefixes of the servers: no wider than /12 (IPv6: /32), without host bits."],
    "[\"198.18.0.0/15\", \"2001:db8::/32\"]",
    List {
        entry: Scalar {
            convert: |value| {
                let prefix = text(value, "a prefix, such as \"168.86.128.0/18\"")?;
                prefix.parse().map_err(DiagnosticKind::Prefix)
            },
            schema: || json!({ "type": "string", "pattern": "^[0-9A-Fa-f.:]+/[0-9]{1,3}$" }),
            syntax: "a prefix",
        },
        expected: "a list of prefixes, such as [\"168.86.128.0/18\"]",
        non_empty: true,
    },
);

const PORTS: SettingSpec<List<Scalar<PortRange>>> = required(
    "ports",
    &["Ports of the servers: single ports or ranges."],
    "[3478, \"10000-60000\"]",
    List {
        entry: Scalar {
            convert: ports,
            schema: || {
                let number = json!({ "type": "integer", "minimum": 1, "maximum": u16::MAX - 1 });
                let pattern = "^ *[0-9]{1,5} *(- *[0-9]{1,5} *)?$";
                json!({ "anyOf": [number, { "type": "string", "pattern": pattern }] })
            },
            syntax: "a port or a range",
        },
        expected: "a list of ports, such as [3478, \"10000-60000\"]",
        non_empty: true,
    },
);

const DSCP_KEY: SettingSpec<Scalar<Dscp>> = optional(
    "dscp",
    &["DSCP of the service's packets."],
    (
        None,
        "\"EF\" for media, test and media-fallback, \"CS5\" for signalling",
    ),
    "\"EF\"",
    DSCP,
);

const ENABLED: SettingSpec<Scalar<bool>> = optional(
    "enabled",
    &["Whether the service is active."],
    (Some("true"), "the lists `enable` and `disable` override it"),
    "true",
    BOOLEAN,
);

const ALLOW_SPECIAL_PURPOSE: SettingSpec<Scalar<bool>> = optional(
    "allow_special_purpose",
    &[
        "Whether `prefixes` may contain RFC 1918 and other special-purpose addresses.",
        "",
        "Loopback, multicast and link-local addresses are never allowed.",
    ],
    (
        Some("false"),
        "traffic to private addresses belongs into the VPN",
    ),
    "true",
    BOOLEAN,
);

const VALID_FROM: SettingSpec<Scalar<Date>> = optional(
    "valid_from",
    &["First day on which the service is active."],
    (None, "always active"),
    "2023-09-26",
    DATE,
);

const VALID_UNTIL: SettingSpec<Scalar<Date>> = optional(
    "valid_until",
    &["First day on which the service is not active any more."],
    (None, "always active"),
    "2034-01-23",
    DATE,
);

const SOURCE: SettingSpec<Scalar<String>> = optional(
    "source",
    &["Address at which the vendor publishes these prefixes and ports."],
    (None, "optional"),
    "\"https://example.com/network-requirements\"",
    SENTENCE,
);

impl PolicyService {
    /// Whether both services are active on some day.
    fn is_concurrent_with(&self, other: &Self) -> bool {
        let before = |end: Option<Date>, start: Option<Date>| {
            end.zip(start).is_some_and(|(end, start)| end <= start)
        };
        !before(self.valid_until, other.valid_from) && !before(other.valid_until, self.valid_from)
    }

    /// Returns a prefix and a port range for which the other service has another DSCP on some day.
    fn contradiction(&self, other: &Self) -> Option<DiagnosticKind> {
        let alike = self.dscp == other.dscp || self.protocol != other.protocol;
        if alike || !self.enabled || !other.enabled || !self.is_concurrent_with(other) {
            return None;
        }
        let prefix = self
            .prefixes
            .iter()
            .find(|mine| other.prefixes.iter().any(|its| its.overlaps(**mine)))?;
        let ports = self
            .ports
            .iter()
            .find(|mine| other.ports.iter().any(|its| its.overlaps(**mine)))?;
        Some(DiagnosticKind::Contradiction {
            other: other.name.clone(),
            prefix: *prefix,
            ports: *ports,
            mine: self.dscp,
            theirs: other.dscp,
        })
    }
}

/// A service that is not yet valid as a whole, with the spans of its values.
pub(super) struct ServiceSpec {
    /// The name, if it is valid.
    pub(super) name: Option<Spanned<String>>,
    /// The service, if all of its values are valid.
    pub(super) service: Option<PolicyService>,
    /// The spans of its values.
    pub(super) spans: Spans,
    /// The position of the DSCP, or of the table if it has none.
    dscp: Spanned<()>,
}

impl ServiceSpec {
    /// Reads one `[[service]]`.
    pub(super) fn read(table: &mut RawTable<'_>, collector: &mut Collector) -> Self {
        let name = NAME.read_spanned(table, collector);
        collector.service = name.as_ref().map(|name| name.value.clone());
        let header = Spanned {
            value: (),
            span: table.span().expect("a file has the service"),
            key: table.key(DSCP_KEY.key),
        };

        let description = DESCRIPTION.read(table, collector);
        let role = ROLE.read(table, collector);
        let protocol = PROTOCOL.read(table, collector);
        let prefixes = PREFIXES.read(table, collector);
        let ports = PORTS.read(table, collector);
        let dscp = DSCP_KEY.read_spanned(table, collector);
        let enabled = ENABLED.read(table, collector);
        let allowed = ALLOW_SPECIAL_PURPOSE
            .read(table, collector)
            .unwrap_or(false);
        let valid_from = VALID_FROM.read(table, collector);
        let valid_until = VALID_UNTIL.read_spanned(table, collector);
        let source = SOURCE.read(table, collector);

        let prefixes = prefixes.map(|prefixes| {
            let entries = collector.spanned_entries(&table.key(PREFIXES.key), prefixes);
            accepted(entries, allowed, collector)
        });
        if let (Some(from), Some(until)) = (valid_from, &valid_until)
            && from >= until.value
        {
            let kind = DiagnosticKind::NeverValid {
                from,
                until: until.value,
            };
            let diagnostic = until.diagnostic(collector.service.as_deref(), kind);
            collector.diagnostics.push(diagnostic);
        }
        collector.service = None;
        let position = dscp.as_ref().map_or(header, |dscp| Spanned {
            value: (),
            span: dscp.span.clone(),
            key: dscp.key.clone(),
        });
        let service = match (&name, role, protocol, prefixes, ports) {
            (Some(name), Some(role), Some(protocol), Some(prefixes), Some(ports)) => {
                Some(PolicyService {
                    name: name.value.clone(),
                    description: description.unwrap_or_default(),
                    role,
                    protocol,
                    prefixes,
                    ports,
                    dscp: dscp.map_or(role.dscp(), |dscp| dscp.value),
                    enabled: enabled.unwrap_or(true),
                    valid_from,
                    valid_until: valid_until.map(|date| date.value),
                    source,
                })
            }
            _ => None,
        };
        Self {
            name,
            service,
            spans: table.spans(),
            dscp: position,
        }
    }

    /// Enables or disables the service if it has this name.
    pub(super) fn switch(&mut self, named: &Spanned<String>, enabled: bool) {
        if let Some(service) = self.service.as_mut().filter(|it| it.name == named.value) {
            service.enabled = enabled;
            self.spans.retain(|(key, _)| *key != "enabled");
            self.spans.push(("enabled", named.span.clone()));
        }
    }

    /// Returns the span of the name, or of the table.
    pub(super) fn span(&self) -> Span {
        self.name
            .as_ref()
            .map_or_else(|| self.dscp.span.clone(), |name| name.span.clone())
    }

    /// Returns the diagnostic of a contradiction with an earlier service.
    pub(super) fn contradiction(&self, earlier: &Self) -> Option<Diagnostic> {
        let (mine, other) = (self.service.as_ref()?, earlier.service.as_ref()?);
        let kind = mine.contradiction(other)?;
        Some(Diagnostic {
            related: Some(earlier.dscp.span.clone()),
            ..self.dscp.diagnostic(Some(&mine.name), kind)
        })
    }
}

fn service_name(value: &DeValue<'_>) -> Result<String, DiagnosticKind> {
    let name = text(value, "a string")?;
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|c| plain(c) || b"-_.".contains(&c))
        && name.bytes().next().is_some_and(plain);
    if fits {
        Ok(name)
    } else {
        Err(DiagnosticKind::ServiceName)
    }
}

/// Returns the prefixes that a policy may name. Records a diagnostic for each other one.
fn accepted(
    prefixes: Vec<Spanned<Prefix>>,
    allow_special_purpose: bool,
    collector: &mut Collector,
) -> Vec<Prefix> {
    let mut accepted = Vec::with_capacity(prefixes.len());
    for Spanned { value, span, key } in prefixes {
        match special_purpose::check(value, allow_special_purpose) {
            Ok(()) => accepted.push(value),
            Err(rejection) => collector.push(span, key, DiagnosticKind::Rejected(rejection)),
        }
    }
    accepted
}

fn ports(value: &DeValue<'_>) -> Result<PortRange, DiagnosticKind> {
    let written = match value {
        DeValue::Integer(digits) if digits.radix() == 10 => digits.as_str().to_owned(),
        DeValue::String(range) => range.to_string(),
        other => {
            let expected = "a port such as 3478, or two such as \"10000-60000\"";
            return Err(wrong_type(other, expected));
        }
    };
    match written.parse::<PortRange>() {
        Err(PortRangeError::Syntax(_)) if written.bytes().all(|c| c.is_ascii_digit()) => {
            Err(DiagnosticKind::Number {
                min: 1,
                max: u32::from(u16::MAX - 1),
                advice: "use the ports that the vendor lists",
            })
        }
        // fib_rule_port_range_valid (net/core/fib_rules.c) rejects ranges that end at 65535.
        Ok(range) if range.last() == u16::MAX => Err(DiagnosticKind::LastPort {
            first: range.first(),
        }),
        range => range.map_err(DiagnosticKind::Ports),
    }
}

/// Converts a date without time and zone.
fn date(value: &DeValue<'_>) -> Result<Date, DiagnosticKind> {
    let wrong = || DiagnosticKind::Type {
        found: value.type_str(),
        expected: "a date without quotes and time, such as 2023-09-26",
    };
    let DeValue::Datetime(stamp) = value else {
        return Err(wrong());
    };
    match (stamp.date, stamp.time, stamp.offset) {
        (Some(day), None, None) => {
            let year = i16::try_from(day.year).map_err(|_| wrong())?;
            let month = i8::try_from(day.month).map_err(|_| wrong())?;
            let day = i8::try_from(day.day).map_err(|_| wrong())?;
            Date::new(year, month, day).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}
