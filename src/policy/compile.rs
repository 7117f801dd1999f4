//! Compiles the policy from the configuration. Only this file of the policy depends on the configuration.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::service_block::{ServiceBlock, ServiceRange};
use super::{Action, BlockIndex, Policy, PolicyRule, RuleState, Verdict};
use crate::config::Config;
use crate::lpm::{LookupTable, PrefixTable};
use crate::net::{
    Capture, CaptureMode, Family, PolicyService, PortRange, Prefix, Protocol, RuleId, Treatment,
};

impl Policy {
    /// Compiles the policy of a day.
    #[must_use]
    pub fn compile(config: &Config, today: Date) -> Self {
        let services = config.services().iter().zip(0..=u16::MAX);
        let rules: Vec<_> = services
            .map(|(service, id)| rule(service, RuleId(id), today))
            .collect();
        let capture_mode = config.route().capture;
        let (table, blocks, captures) = match capture_mode {
            CaptureMode::Exact => {
                let (table, blocks) = build_table(&rules, Action::Tunnel);
                (table, blocks, captures(&rules))
            }
            CaptureMode::Prefix => {
                let (table, blocks) = build_table(&rules, Action::Return);
                (table, blocks, whole_prefixes(&rules))
            }
        };
        Self {
            rules,
            table,
            blocks,
            captures,
            capture_mode,
        }
    }
}

fn rule(service: &PolicyService, id: RuleId, today: Date) -> PolicyRule {
    PolicyRule {
        id,
        treatment: Treatment::of(service.dscp),
        state: RuleState::on(
            today,
            service.enabled,
            service.valid_from,
            service.valid_until,
        ),
        service: service.clone(),
    }
}

/// Builds the lookup table. The blocks of a prefix have the entries of every rule that covers it, the longest prefix
/// first, then in the order of the rules. So a lookup of the longest prefix finds every rule that can match. Packets
/// without a match get the action `otherwise`.
fn build_table(
    rules: &[PolicyRule],
    otherwise: Action,
) -> (LookupTable<BlockIndex>, Vec<ServiceBlock>) {
    let mut rules_by_prefix: BTreeMap<Prefix, Vec<&PolicyRule>> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.is_active()) {
        for prefix in &rule.service.prefixes {
            rules_by_prefix.entry(*prefix).or_default().push(rule);
        }
    }
    let defaults = [Family::V4, Family::V6]
        .map(|family| Prefix::new(family.unspecified(), 0).expect("no bits are set"));
    let mut table = PrefixTable::from_iter(defaults.map(|prefix| (prefix, BlockIndex(0))));
    let mut blocks = vec![ServiceBlock::NOTHING];
    // In this order a prefix follows the prefixes that cover it, so these form a stack.
    let mut covering: Vec<Prefix> = Vec::new();
    for &prefix in rules_by_prefix.keys() {
        while covering.pop_if(|outer| !outer.covers(prefix)).is_some() {}
        covering.push(prefix);
        let entries = covering.iter().rev().flat_map(|outer| {
            rules_by_prefix[outer].iter().flat_map(|rule| {
                let verdict = Verdict {
                    action: Action::Relay,
                    rule: Some(rule.id),
                    prefix: Some(*outer),
                    treatment: rule.treatment,
                };
                let ports = rule.service.ports.iter();
                ports.map(move |ports| (ServiceRange::new(rule.service.protocol, *ports), verdict))
            })
        });
        let index = u32::try_from(blocks.len()).expect("a configuration has fewer entries");
        table.insert(prefix, BlockIndex(index));
        blocks.extend(ServiceBlock::chain(&entries.collect::<Vec<_>>(), otherwise));
    }
    (LookupTable::new(&table), blocks)
}

/// Groups the prefixes of the active rules by protocol and port range, without prefixes that another one covers.
fn captures(rules: &[PolicyRule]) -> Vec<Capture> {
    let mut gathered: BTreeMap<(Protocol, PortRange), Vec<Prefix>> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.is_active()) {
        for ports in &rule.service.ports {
            gathered
                .entry((rule.service.protocol, *ports))
                .or_default()
                .extend(&rule.service.prefixes);
        }
    }
    let capture = |((protocol, ports), prefixes)| Capture {
        protocol,
        ports,
        prefixes: outermost(prefixes),
    };
    gathered.into_iter().map(capture).collect()
}

/// Captures all UDP and TCP to the prefixes of the active rules.
fn whole_prefixes(rules: &[PolicyRule]) -> Vec<Capture> {
    let active = rules.iter().filter(|rule| rule.is_active());
    let prefixes = outermost(
        active
            .flat_map(|rule| &rule.service.prefixes)
            .copied()
            .collect(),
    );
    let capture = |protocol| Capture {
        protocol,
        ports: PortRange::ALL,
        prefixes: prefixes.clone(),
    };
    let protocols = [Protocol::Udp, Protocol::Tcp].into_iter();
    let protocols = protocols.filter(|_| !prefixes.is_empty());
    protocols.map(capture).collect()
}

/// Sorts prefixes and removes those that another one covers.
fn outermost(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
    prefixes.sort_unstable();
    prefixes.dedup_by(|next, kept| kept.covers(*next));
    prefixes
}
