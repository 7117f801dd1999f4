//! From a configuration and a day to a policy. The only file of the policy that knows the configuration.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::service_block::{ServiceBlock, ServiceRange};
use super::{Action, BlockIndex, Policy, PolicyRule, RuleState, Verdict};
use crate::config::{Config, PolicyService};
use crate::lpm::{LookupTable, PrefixTable};
use crate::net::{Capture, CaptureMode, Family, PortRange, Prefix, Protocol, RuleId, Treatment};

impl Policy {
    /// Compiles what is in force on a day.
    #[must_use]
    pub fn compile(config: &Config, today: Date) -> Self {
        let services = config.services().iter().zip(0..=u16::MAX);
        let rules: Vec<_> = services
            .map(|(service, id)| rule(service, RuleId(id), today))
            .collect();
        let capture = config.route().capture;
        let (table, rows, captures) = match capture {
            CaptureMode::Exact => {
                let (table, rows) = classify(&rules, Action::Tunnel);
                (table, rows, captures(&rules))
            }
            CaptureMode::Prefix => {
                let (table, rows) = classify(&rules, Action::Return);
                (table, rows, whole(&rules))
            }
        };
        Self {
            rules,
            table,
            rows,
            captures,
            capture,
        }
    }
}

fn rule(service: &PolicyService, id: RuleId, today: Date) -> PolicyRule {
    let service = service.clone();
    PolicyRule {
        id,
        state: RuleState::on(
            today,
            service.enabled,
            service.valid_from,
            service.valid_until,
        ),
        treatment: Treatment::of(service.dscp),
        name: service.name,
        description: service.description,
        role: service.role,
        protocol: service.protocol,
        prefixes: service.prefixes,
        ports: service.ports,
        enabled: service.enabled,
        valid_from: service.valid_from,
        valid_until: service.valid_until,
        source: service.source,
    }
}

/// Gives each prefix of the active rules its class: the entries of every rule that covers it, the longest prefix
/// first, then in the order of the rules. A lookup of the longest prefix thus finds all that can match; what happens to
/// the rest of a prefix is `otherwise`.
fn classify(
    rules: &[PolicyRule],
    otherwise: Action,
) -> (LookupTable<BlockIndex>, Vec<ServiceBlock>) {
    let mut holders: BTreeMap<Prefix, Vec<&PolicyRule>> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.is_active()) {
        for prefix in &rule.prefixes {
            holders.entry(*prefix).or_default().push(rule);
        }
    }
    let everything = [Family::V4, Family::V6]
        .map(|family| Prefix::new(family.unspecified(), 0).expect("no bits are set"));
    let mut table = PrefixTable::from_iter(everything.map(|prefix| (prefix, BlockIndex(0))));
    let mut rows = vec![ServiceBlock::NOTHING];
    // In this order each prefix follows the ones that cover it, which form a stack.
    let mut covering: Vec<Prefix> = Vec::new();
    for &prefix in holders.keys() {
        while covering.pop_if(|outer| !outer.covers(prefix)).is_some() {}
        covering.push(prefix);
        let entries = covering.iter().rev().flat_map(|outer| {
            holders[outer].iter().flat_map(|rule| {
                let verdict = Verdict {
                    action: Action::Relay,
                    rule: Some(rule.id),
                    prefix: Some(*outer),
                    treatment: rule.treatment,
                };
                let ports = rule.ports.iter();
                ports.map(move |ports| (ServiceRange::new(rule.protocol, *ports), verdict))
            })
        });
        let class = u32::try_from(rows.len()).expect("fewer rows than a file has bytes");
        table.insert(prefix, BlockIndex(class));
        rows.extend(ServiceBlock::of_class(
            &entries.collect::<Vec<_>>(),
            otherwise,
        ));
    }
    (LookupTable::new(&table), rows)
}

/// Gathers the prefixes of the active rules by protocol and port range, without those that another covers.
fn captures(rules: &[PolicyRule]) -> Vec<Capture> {
    let mut gathered: BTreeMap<(Protocol, PortRange), Vec<Prefix>> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.is_active()) {
        for ports in &rule.ports {
            gathered
                .entry((rule.protocol, *ports))
                .or_default()
                .extend(&rule.prefixes);
        }
    }
    let capture = |((protocol, ports), prefixes)| Capture {
        protocol,
        ports,
        prefixes: outermost(prefixes),
    };
    gathered.into_iter().map(capture).collect()
}

/// All UDP and TCP to the prefixes of the active rules.
fn whole(rules: &[PolicyRule]) -> Vec<Capture> {
    let active = rules.iter().filter(|rule| rule.is_active());
    let prefixes = outermost(active.flat_map(|rule| &rule.prefixes).copied().collect());
    let capture = |protocol| Capture {
        protocol,
        ports: PortRange::ALL,
        prefixes: prefixes.clone(),
    };
    let protocols = [Protocol::Udp, Protocol::Tcp].into_iter();
    let protocols = protocols.filter(|_| !prefixes.is_empty());
    protocols.map(capture).collect()
}

/// Sorts prefixes, without those that another covers.
fn outermost(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
    prefixes.sort_unstable();
    prefixes.dedup_by(|next, kept| kept.covers(*next));
    prefixes
}
