//! The rules of an export: the active ones, or the named ones.

use jiff::civil::Date;

use super::ExportWriter;
use crate::net::{Family, PortRange, Prefix, Protocol, Treatment};
use crate::policy::{InactiveReason, Policy, PolicyRule, RuleState};

/// The rules of an export; at least one.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    rules: Vec<&'a PolicyRule>,
    date: Date,
}

/// Destinations with the same protocol, ports and treatment: one rule of a format that has address sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficSelector {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The destination ports, sorted, without adjacent or overlapping ranges; never empty.
    pub ports: Vec<PortRange>,
    /// How the packets are treated.
    pub treatment: Treatment,
    /// The destinations, in as few prefixes as possible; never empty.
    pub prefixes: Vec<Prefix>,
    /// The names of the services.
    pub services: Vec<String>,
}

/// The reason why a selection cannot be exported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// No service has this name.
    #[error("there is no service {0:?}; `voicelane policy show` lists all services")]
    Unknown(String),
    /// The dates of the service exclude this day. Naming the service does not override dates.
    #[error("service {name:?} is not active on {date}: {reason}")]
    NotInForce {
        /// The service.
        name: String,
        /// The day of the export.
        date: Date,
        /// The reason.
        reason: InactiveReason,
    },
    /// Two services set different DSCPs on the same packets.
    #[error("services {one:?} and {other:?} overlap and differ in DSCP; export one of them")]
    Contradiction {
        /// A service.
        one: String,
        /// A service that overlaps it.
        other: String,
    },
    /// No service is active.
    #[error("no service is active on {0}; name one with --service to export it")]
    Nothing(Date),
}

impl<'a> Selection<'a> {
    /// Selects from a policy compiled for `date`: the named services, even if switched off; without names, the active
    /// ones.
    ///
    /// # Errors
    /// [`SelectionError`].
    pub fn new(
        policy: &'a Policy,
        date: Date,
        names: &[impl AsRef<str>],
    ) -> Result<Self, SelectionError> {
        let known = |name: &str| policy.rules().iter().any(|rule| rule.service.name == name);
        if let Some(name) = names.iter().find(|name| !known(name.as_ref())) {
            return Err(SelectionError::Unknown(name.as_ref().to_owned()));
        }
        let named = |rule: &PolicyRule| names.iter().any(|name| name.as_ref() == rule.service.name);
        let mut rules = Vec::new();
        for rule in policy.rules() {
            match rule.state {
                RuleState::Active if names.is_empty() || named(rule) => rules.push(rule),
                RuleState::Inactive(InactiveReason::SwitchedOff) if named(rule) => rules.push(rule),
                RuleState::Inactive(reason) if named(rule) => {
                    return Err(SelectionError::NotInForce {
                        name: rule.service.name.clone(),
                        date,
                        reason,
                    });
                }
                _ => {}
            }
        }
        for (index, rule) in rules.iter().enumerate() {
            if let Some(other) = rules[..index].iter().find(|other| contradict(rule, other)) {
                return Err(SelectionError::Contradiction {
                    one: other.service.name.clone(),
                    other: rule.service.name.clone(),
                });
            }
        }
        if rules.is_empty() {
            return Err(SelectionError::Nothing(date));
        }
        Ok(Self { rules, date })
    }

    /// Returns the rules, in the order of the configuration.
    #[must_use]
    pub fn rules(&self) -> &[&'a PolicyRule] {
        &self.rules
    }

    /// Returns the day of the selection.
    #[must_use]
    pub const fn date(&self) -> Date {
        self.date
    }

    /// Groups the rules by protocol, ports and treatment, in the order of the configuration.
    #[must_use]
    pub fn selectors(&self) -> Vec<TrafficSelector> {
        gather(
            self.rules
                .iter()
                .map(|rule| (*rule, merge(&rule.service.ports))),
        )
    }

    /// Groups the rules for formats whose rules have one port or range: each selector has one range.
    #[must_use]
    pub fn selectors_by_range(&self) -> Vec<TrafficSelector> {
        gather(self.rules.iter().flat_map(|rule| {
            let ranges = merge(&rule.service.ports).into_iter();
            ranges.map(|ports| (*rule, vec![ports]))
        }))
    }

    /// Returns all destinations, in as few prefixes as possible.
    #[must_use]
    pub fn prefixes(&self) -> Vec<Prefix> {
        let rules = self.rules.iter();
        Prefix::aggregate(rules.flat_map(|rule| rule.service.prefixes.iter().copied()))
    }

    /// Adds the notes of a format that has addresses only.
    pub(super) fn note_addresses_only(&self, out: &mut ExportWriter) {
        let ranges = self.selectors_by_range();
        let ranges = ranges
            .iter()
            .map(|selector| format!("{} {}", selector.protocol, selector.ports[0]));
        out.note(format!(
            "This format has addresses only. All traffic to them leaves the VPN, not only {}. That includes TCP 443: if \
             the vendor accepts logins only from the VPN's address, agents cannot log in.",
            ranges.collect::<Vec<_>>().join(", ")
        ));
        out.note("No DSCP is set.");
    }

    /// Returns an identifier of the content, independent of the day: 64-bit FNV-1a of the rules, in hexadecimal.
    #[must_use]
    pub fn identity(&self) -> String {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for rule in &self.rules {
            let content = format!(
                "{} {} {:?} {:?} {}\n",
                rule.service.name,
                rule.service.protocol,
                rule.service.prefixes,
                rule.service.ports,
                rule.treatment.dscp
            );
            for byte in content.bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }
}

impl TrafficSelector {
    /// Returns the destinations of a family.
    #[must_use]
    pub fn of(&self, family: Family) -> Vec<Prefix> {
        let prefixes = self.prefixes.iter().copied();
        prefixes
            .filter(|prefix| prefix.family() == family)
            .collect()
    }

    /// Returns the ports as a list, with the given separators of entries and of range ends: `3478,10000-60000`.
    #[must_use]
    pub fn ports(&self, between: &str, within: &str) -> String {
        let ports = self.ports.iter();
        let written = ports.map(|ports| ports.to_string().replace('-', within));
        written.collect::<Vec<_>>().join(between)
    }
}

fn gather<'a>(
    parts: impl Iterator<Item = (&'a PolicyRule, Vec<PortRange>)>,
) -> Vec<TrafficSelector> {
    let mut selectors: Vec<TrafficSelector> = Vec::new();
    for (rule, ports) in parts {
        let same = |selector: &&mut TrafficSelector| {
            (selector.protocol, selector.treatment) == (rule.service.protocol, rule.treatment)
                && selector.ports == ports
        };
        if let Some(selector) = selectors.iter_mut().find(same) {
            selector.prefixes.extend(&rule.service.prefixes);
            selector.services.push(rule.service.name.clone());
        } else {
            selectors.push(TrafficSelector {
                protocol: rule.service.protocol,
                ports,
                treatment: rule.treatment,
                prefixes: rule.service.prefixes.clone(),
                services: vec![rule.service.name.clone()],
            });
        }
    }
    for selector in &mut selectors {
        selector.prefixes = Prefix::aggregate(selector.prefixes.drain(..));
    }
    selectors
}

/// Sorts port ranges, and merges adjacent and overlapping ones.
fn merge(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::new();
    for next in ranges {
        match merged.last_mut() {
            Some(last) if next.first() <= last.last().saturating_add(1) => {
                *last = PortRange::new(last.first(), last.last().max(next.last()))
                    .expect("a merged range is valid");
            }
            _ => merged.push(next),
        }
    }
    merged
}

fn contradict(one: &PolicyRule, other: &PolicyRule) -> bool {
    let same_packets = one.service.protocol == other.service.protocol
        && one.service.ports.iter().any(|ports| {
            let mut others = other.service.ports.iter();
            others.any(|its| its.overlaps(*ports))
        })
        && one.service.prefixes.iter().any(|prefix| {
            let mut others = other.service.prefixes.iter();
            others.any(|its| its.overlaps(*prefix))
        });
    same_packets && one.treatment != other.treatment
}
