//! One service of the policy: what it is, where its servers are, how its packets are treated.

use jiff::civil::Date;
use toml::de::DeValue;

use super::Spans;
use super::diagnostic::Diagnostic;
use super::diagnostic_kind::DiagnosticKind;
use super::raw::{Collector, RawTable, Spanned, boolean, choice, date, text};
use super::span::Span;
use super::special_purpose;
use crate::net::{Dscp, PortRange, PortRangeError, Prefix, Protocol, Role};

/// A service, valid by construction: prefixes and ports are never empty, `valid_from` lies before `valid_until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyService {
    /// Its name, unique in the configuration.
    pub name: String,
    /// What it is, in a sentence.
    pub description: String,
    /// The part that it plays in a call.
    pub role: Role,
    /// Its transport.
    pub protocol: Protocol,
    /// Where its servers are.
    pub prefixes: Vec<Prefix>,
    /// The ports that its servers listen on.
    pub ports: Vec<PortRange>,
    /// The code point of its packets.
    pub dscp: Dscp,
    /// Whether it is switched on.
    pub enabled: bool,
    /// The first day on which it is active.
    pub valid_from: Option<Date>,
    /// The first day on which it is no longer active.
    pub valid_until: Option<Date>,
    /// Where the vendor publishes these figures.
    pub source: Option<String>,
}

impl PolicyService {
    /// Whether there is a day on which both services are active.
    fn meets(&self, other: &Self) -> bool {
        let before = |end: Option<Date>, start: Option<Date>| {
            end.zip(start).is_some_and(|(end, start)| end <= start)
        };
        !before(self.valid_until, other.valid_from) && !before(other.valid_until, self.valid_from)
    }

    /// A prefix and port range of this service that the other treats differently on some day.
    fn contradiction(&self, other: &Self) -> Option<DiagnosticKind> {
        let alike = self.dscp == other.dscp || self.protocol != other.protocol;
        if alike || !self.enabled || !other.enabled || !self.meets(other) {
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

/// A service as far as it could be read, with the spans that later diagnostics point to.
pub(super) struct ServiceSpec {
    /// Its name, if it has a usable one.
    pub(super) name: Option<Spanned<String>>,
    /// The service, if all of it could be read.
    pub(super) service: Option<PolicyService>,
    /// Where its values stand.
    pub(super) spans: Spans,
    /// Its DSCP, or its header when it names none.
    treatment: Spanned<()>,
}

impl ServiceSpec {
    /// Reads one `[[service]]`.
    pub(super) fn read(section: &mut RawTable<'_>, collector: &mut Collector) -> Self {
        let name = section.required(collector, "name", "name = \"lab-media\"", service_name);
        collector.service = name.as_ref().map(|name| name.value.clone());
        let header = Spanned {
            value: (),
            span: section.span().expect("a service stands in a file"),
            key: section.key("dscp"),
        };

        let sentence = text("a string");
        let description = section.optional(collector, "description", &sentence);
        let source = section.optional(collector, "source", &sentence);
        let role = section.required(
            collector,
            "role",
            "role = \"media\"",
            choice::<Role>(
                &["media", "test", "media-fallback", "signalling"],
                "a role, such as \"media\"",
            ),
        );
        let protocol = section.required(
            collector,
            "protocol",
            "protocol = \"udp\"",
            choice::<Protocol>(&["udp", "tcp"], "\"udp\" or \"tcp\""),
        );
        let allowed = section.optional(collector, "allow_special_purpose", boolean);
        let allowed = allowed.is_some_and(|allowed| allowed.value);
        let prefixes = section.filled(
            collector,
            "prefixes",
            (
                "prefixes = [\"168.86.128.0/18\"]",
                "a list of prefixes, such as [\"168.86.128.0/18\"]",
            ),
            |value| prefix(value, allowed),
        );
        let ports = section.filled(
            collector,
            "ports",
            (
                "ports = [\"10000-60000\"]",
                "a list of ports, such as [3478, \"10000-60000\"]",
            ),
            ports,
        );
        let dscp = section.optional(collector, "dscp", dscp);
        let enabled = section.optional(collector, "enabled", boolean);
        let valid_from = section.optional(collector, "valid_from", date);
        let valid_until = section.optional(collector, "valid_until", date);
        if let (Some(from), Some(until)) = (&valid_from, &valid_until)
            && from.value >= until.value
        {
            let kind = DiagnosticKind::NeverValid {
                from: from.value,
                until: until.value,
            };
            let diagnostic = until.diagnostic(collector.service.as_deref(), kind);
            collector.diagnostics.push(diagnostic);
        }
        collector.service = None;

        let treatment = match &dscp {
            Some(dscp) => Spanned {
                value: (),
                span: dscp.span.clone(),
                key: dscp.key.clone(),
            },
            None => header,
        };
        let service = match (&name, role, protocol, prefixes, ports) {
            (Some(name), Some(role), Some(protocol), Some(prefixes), Some(ports)) => {
                Some(PolicyService {
                    name: name.value.clone(),
                    description: description.map(|text| text.value).unwrap_or_default(),
                    role: role.value,
                    protocol: protocol.value,
                    prefixes,
                    ports,
                    dscp: dscp.map_or(role.value.dscp(), |dscp| dscp.value),
                    enabled: enabled.is_none_or(|enabled| enabled.value),
                    valid_from: valid_from.map(|date| date.value),
                    valid_until: valid_until.map(|date| date.value),
                    source: source.map(|text| text.value),
                })
            }
            _ => None,
        };
        Self {
            name,
            service,
            spans: section.spans(),
            treatment,
        }
    }

    /// Switches the service on or off if it is the one that is named.
    pub(super) fn switch(&mut self, named: &Spanned<String>, enabled: bool) {
        if let Some(service) = self.service.as_mut().filter(|it| it.name == named.value) {
            service.enabled = enabled;
            self.spans.retain(|(key, _)| *key != "enabled");
            self.spans.push(("enabled", named.span.clone()));
        }
    }

    /// Where the service begins to exist: its name.
    pub(super) fn span(&self) -> Span {
        self.name
            .as_ref()
            .map_or_else(|| self.treatment.span.clone(), |name| name.span.clone())
    }

    /// The diagnostic of this service that a contradiction with an earlier one is.
    pub(super) fn contradiction(&self, earlier: &Self) -> Option<Diagnostic> {
        let (mine, other) = (self.service.as_ref()?, earlier.service.as_ref()?);
        let kind = mine.contradiction(other)?;
        Some(Diagnostic {
            related: Some(earlier.treatment.span.clone()),
            ..self.treatment.diagnostic(Some(&mine.name), kind)
        })
    }
}

fn service_name(value: &DeValue<'_>) -> Result<String, DiagnosticKind> {
    let name = text("a string")(value)?;
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

fn prefix(value: &DeValue<'_>, allow_special_purpose: bool) -> Result<Prefix, DiagnosticKind> {
    let prefix = text("a prefix, such as \"168.86.128.0/18\"")(value)?;
    let prefix = prefix.parse().map_err(DiagnosticKind::Prefix)?;
    special_purpose::check(prefix, allow_special_purpose).map_err(DiagnosticKind::Rejected)?;
    Ok(prefix)
}

fn ports(value: &DeValue<'_>) -> Result<PortRange, DiagnosticKind> {
    let written = match value {
        DeValue::Integer(digits) if digits.radix() == 10 => digits.as_str().to_owned(),
        DeValue::String(range) => range.to_string(),
        other => {
            return Err(DiagnosticKind::Type {
                found: other.type_str(),
                expected: "a port such as 3478, or two such as \"10000-60000\"",
            });
        }
    };
    match written.parse::<PortRange>() {
        Err(PortRangeError::Syntax(_)) if written.bytes().all(|c| c.is_ascii_digit()) => {
            Err(DiagnosticKind::Number {
                least: 1,
                most: u32::from(u16::MAX - 1),
                reason: "take the ports from the vendor's list",
            })
        }
        // fib_rule_port_range_valid (net/core/fib_rules.c) admits no range that ends at 65535.
        Ok(range) if range.last() == u16::MAX => Err(DiagnosticKind::LastPort {
            first: range.first(),
        }),
        range => range.map_err(DiagnosticKind::Ports),
    }
}

pub(super) fn dscp(value: &DeValue<'_>) -> Result<Dscp, DiagnosticKind> {
    let written = match value {
        DeValue::Integer(number) => number.to_string(),
        DeValue::String(name) => name.to_string(),
        other => {
            return Err(DiagnosticKind::Type {
                found: other.type_str(),
                expected: "a DSCP, 0 to 63 or a name such as \"EF\"",
            });
        }
    };
    written.parse().map_err(DiagnosticKind::Dscp)
}
