//! Whether the kernel routes every prefix of the policy into the TUN, and which foreign rule decides otherwise.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use super::facts::RouteLookups;
use super::{Finding, SystemFacts};
use crate::control::Status;
use crate::route::lookup::RoutingDecision;
use crate::route::observed::RoutingRule;
use crate::route::rule_owner::RuleOwner;

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let found = facts.route_lookups.iter().flat_map(|route_lookups| {
        let mut by_decision: BTreeMap<Option<RoutingDecision>, Vec<IpAddr>> = BTreeMap::new();
        for (to, decision) in &route_lookups.decisions {
            let decision: Result<&RoutingDecision, &io::Error> = decision.as_ref();
            by_decision
                .entry(decision.ok().copied())
                .or_default()
                .push(*to);
        }
        let assess = |(decision, to): (_, Vec<_>)| assess(facts, route_lookups, decision, &to);
        by_decision.into_iter().map(assess).collect::<Vec<_>>()
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return vec![Finding::ok("The policy has no active prefix to route.")];
    }
    found
}

fn assess(
    facts: &SystemFacts,
    route_lookups: &RouteLookups,
    decision: Option<RoutingDecision>,
    to: &[IpAddr],
) -> Finding {
    let RouteLookups {
        family,
        protocol,
        ports,
        ..
    } = route_lookups;
    let traffic = match to {
        [only] => format!("{protocol} {ports} to {only}"),
        [first, ..] => format!("{protocol} {ports} to {first} and {} more", to.len() - 1),
        [] => format!("{protocol} {ports}"),
    };
    let Some(RoutingDecision { link, table, .. }) = decision else {
        return Finding::warning(
            format!("{traffic} has no route at all."),
            "Connect to a network, or connect the VPN.",
        )
        .because_of("uplink");
    };
    let result = link.map_or_else(
        || "is dropped".to_owned(),
        |link| format!("goes to {}", facts.link_name(link)),
    );
    let found = format!("{traffic} {result} (table {table})");
    if link.is_some() && link == facts.tun().map(|tun| tun.index) {
        return Finding::ok(format!("{found}."));
    }
    // If the service does not answer, an existing TUN means that it captures.
    let captures = |status: &Status| status.captured.contains(&family.to_string().to_lowercase());
    let is_captured = match &facts.status {
        Ok(status) => captures(status),
        Err(_) => facts.is_running() && facts.uplink(*family).is_some(),
    };
    if !is_captured {
        return Finding::ok(format!("{found}. voicelane captures no {family} now."));
    }
    let looks_up = |rule: &&RoutingRule| rule.family == *family && rule.table == table;
    let rule = facts.observed.rules.iter().find(looks_up);
    let owner = rule.map_or_else(
        || "a rule that no longer exists".to_owned(),
        |rule| RuleOwner(rule).to_string(),
    );
    let remedy = match rule.map(|rule| rule.priority.0) {
        Some(0) => format!(
            "No rule can precede priority 0. Configure the program that makes that rule to use a greater number (ip rule \
             show table {table})."
        ),
        _ => format!(
            "`voicelane events` names the program that changes the rules. Stop it, or configure it to keep rules of \
             protocol 118 (ip rule show table {table})."
        ),
    };
    Finding::fault(
        format!("{found} instead of the TUN. This rule decides: {owner}."),
        remedy,
    )
}
