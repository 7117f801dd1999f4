//! Who wins each packet of the policy: the kernel's own answer for every prefix, and whose rule gave it.

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
        let mut ways: BTreeMap<Option<RoutingDecision>, Vec<IpAddr>> = BTreeMap::new();
        for (to, way) in &route_lookups.ways {
            let way: Result<&RoutingDecision, &io::Error> = way.as_ref();
            ways.entry(way.ok().copied()).or_default().push(*to);
        }
        let judge = |(way, to): (_, Vec<_>)| judge(facts, route_lookups, way, &to);
        ways.into_iter().map(judge).collect::<Vec<_>>()
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return vec![Finding::ok("the policy names nothing to be won")];
    }
    found
}

fn judge(
    facts: &SystemFacts,
    route_lookups: &RouteLookups,
    way: Option<RoutingDecision>,
    to: &[IpAddr],
) -> Finding {
    let RouteLookups {
        family,
        protocol,
        ports,
        ..
    } = route_lookups;
    let what = match to {
        [only] => format!("{protocol} {ports} to {only}"),
        [first, ..] => format!("{protocol} {ports} to {first} and {} more", to.len() - 1),
        [] => format!("{protocol} {ports}"),
    };
    let Some(RoutingDecision { link, table }) = way else {
        return Finding::warning(
            format!("{what} has no way at all: neither rule nor route leads there"),
            "connect a network, or the VPN",
        );
    };
    let leaves = link.map_or_else(
        || "is thrown away".to_owned(),
        |link| format!("goes to {}", facts.link_name(link)),
    );
    let found = format!("{what} {leaves} by table {table}");
    if link.is_some() && link == facts.tun().map(|tun| tun.index) {
        return Finding::ok(found);
    }
    // Without a word of the service, a TUN that is there is there for a reason.
    let captured = |status: &Status| status.captured.contains(&family.to_string().to_lowercase());
    let is_due = match &facts.status {
        Ok(status) => captured(status),
        Err(_) => facts.is_running() && facts.uplink(*family).is_some(),
    };
    if !is_due {
        return Finding::ok(format!("{found}, for voicelane captures no {family} now"));
    }
    let asks = |rule: &&RoutingRule| rule.family == *family && rule.table == table;
    let rule = facts.observed.rules.iter().find(asks);
    let who = rule.map_or_else(
        || "a rule that has gone meanwhile".to_owned(),
        |rule| RuleOwner(rule).to_string(),
    );
    let remedy = match rule.map(|rule| rule.priority.0) {
        Some(0) => format!(
            "nothing gets ahead of priority 0: let whoever makes that rule give it a greater number (ip rule show table \
             {table})"
        ),
        _ => format!(
            "`voicelane events` says who takes our place; end that program, or let it leave rules of protocol 118 alone \
             (ip rule show table {table})"
        ),
    };
    Finding::fault(format!("{found} instead of the TUN: {who} wins"), remedy)
}
