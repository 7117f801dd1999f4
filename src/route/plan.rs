//! The plan: a pure function from desired and observed state to ordered changes.
//!
//! # Theory of operation
//!
//! **Capture.** Each pair of protocol and port range has one table. Its routes are the prefixes of that pair, through
//! the TUN. One rule looks it up: `iif lo ipproto udp dport 10000-60000 lookup 30317`. So the number of rules grows
//! with port ranges, not with prefixes, and only traffic of the policy enters the TUN. No capture rule matches a packet
//! with one of voicelane's marks, because the relay sends into the VPN too.
//!
//! If other programs cause lookups without ports ([`crate::nftables`]), one more rule for each table matches the mark
//! that media has then, and one the mark of answers to direct packets.
//!
//! **Direct path.** The base table holds only the uplink's default route. Packets with the mark of direct sockets that
//! are bound to the uplink look it up. A VPN that replaces the default route of the main table does not change it.
//!
//! **Priority.** The kernel puts a rule without a priority just ahead of the second rule, so a VPN that starts later
//! gets ahead of voicelane. The plan therefore computes the priority from the observed rules: one below the lowest
//! foreign one. Priority 0 would end the race, but then the two rules of wg-quick land in the wrong order and the LAN
//! enters the tunnel.
//!
//! **Ownership.** An object belongs to voicelane if it has its protocol number and one of its tables. The plan deletes
//! no other object. A deletion names all selectors: one without selectors would delete the `local` rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::desired::{Desired, RoutingIds, TABLES, UplinkGateway};
use super::observed::{LOCAL, Nexthop, Observed, Route, RoutingRule, RuleSelector};
use crate::net::{Family, Fwmark, PortRange, Prefix, Protocol, RouteTable, RulePriority};

/// Metric of voicelane's routes. Each table is voicelane's alone, so any constant does.
const METRIC: u32 = 1;
/// Mask of a mark that is compared as a whole.
const EVERY_BIT: Fwmark = Fwmark(u32::MAX);

/// One change of routes or rules. Adding an existing object and deleting a missing one have no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutingChange {
    /// Adds a route.
    AddRoute(Route),
    /// Replaces the route with the same table, prefix and metric, without a gap.
    ReplaceRoute(Route),
    /// Adds a rule.
    AddRule(RoutingRule),
    /// Deletes the rule with exactly these selectors.
    DeleteRule(RoutingRule),
    /// Deletes a route.
    DeleteRoute(Route),
}

impl fmt::Display for RoutingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddRoute(route) => write!(f, "add {route}"),
            Self::ReplaceRoute(route) => write!(f, "replace {route}"),
            Self::AddRule(rule) => write!(f, "add {rule}"),
            Self::DeleteRule(rule) => write!(f, "delete {rule}"),
            Self::DeleteRoute(route) => write!(f, "delete {route}"),
        }
    }
}

/// A part of the desired state that the plan cannot reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A foreign rule has priority 0. No rule can precede it.
    Outranked(RoutingRule),
    /// A foreign route has the key of one of voicelane's routes.
    RouteConflict(Route),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outranked(rule) => write!(
                f,
                "no rule can precede the {rule}: it may capture media first"
            ),
            Self::RouteConflict(route) => write!(
                f,
                "another program has a route that conflicts with the {route}: choose another [route] table"
            ),
        }
    }
}

/// Changes in order, and warnings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingPlan {
    /// Changes in the order of application.
    pub changes: Vec<RoutingChange>,
    /// Parts of the desired state that cannot be reached.
    pub warnings: Vec<Warning>,
    /// Priority of voicelane's rules, if there are any: the larger number if the families differ.
    pub priority: Option<RulePriority>,
}

/// The policy has more distinct port ranges than voicelane has tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy has {0} distinct port ranges: at most {max} can be captured", max = TABLES - 1)]
pub struct TooManyPortRanges(usize);

/// Plans the changes from the observed to the desired state.
///
/// Applying the plan in order never interrupts an existing capture and never captures extra traffic. Routes precede the
/// rules that look them up, new rules precede the deletion of old ones, and routes are deleted last.
///
/// The rules of a blocked family are deleted first, with the routes that only probes used: no capture is in force
/// there. Foreign objects stay. After a plan was applied, the next one is empty.
///
/// # Errors
/// [`TooManyPortRanges`].
pub fn plan(
    desired: &Desired,
    ids: &RoutingIds,
    observed: &Observed,
) -> Result<RoutingPlan, TooManyPortRanges> {
    let (mut routes, mut rules) = desired_of(Family::V4, desired, ids, observed)?;
    let v6 = desired_of(Family::V6, desired, ids, observed)?;
    routes.extend(v6.0);
    rules.extend(v6.1);
    let (own, foreign): (Vec<_>, Vec<_>) = observed
        .routes
        .iter()
        .partition(|route| route.is_owned_by(ids));
    let foreign_keys: BTreeSet<_> = foreign.iter().map(|route| route.key()).collect();
    let present: BTreeMap<_, _> = own.iter().map(|route| (route.key(), *route)).collect();
    let own_rules: BTreeSet<_> = observed
        .rules
        .iter()
        .filter(|rule| rule.is_owned_by(ids))
        .collect();

    let mut plan = RoutingPlan {
        changes: Vec::new(),
        warnings: if rules.is_empty() {
            Vec::new()
        } else {
            rules_ahead(observed, ids)
        },
        priority: rules.iter().map(|rule| rule.priority).max(),
    };
    routes.retain(|route| {
        let is_free =
            !foreign_keys.contains(&route.key()) || present.get(&route.key()) == Some(&route);
        if !is_free {
            plan.warnings.push(Warning::RouteConflict(route.clone()));
        }
        is_free
    });
    let (blocked, obsolete): (Vec<_>, Vec<_>) = own_rules
        .iter()
        .filter(|rule| !rules.contains(rule))
        .partition(|rule| desired.blocked.contains(&rule.family));
    let delete = |rule: &&RoutingRule| RoutingChange::DeleteRule((*rule).clone());
    plan.changes.extend(blocked.into_iter().map(delete));
    let in_force: BTreeSet<_> = own_rules
        .iter()
        .filter(|rule| rule.table == ids.table || rule.selector.oif.is_none())
        .map(|rule| (rule.family, rule.table))
        .collect();
    let kept: BTreeSet<_> = routes.iter().map(Route::key).collect();
    let (in_use, unused): (Vec<_>, Vec<_>) = own
        .iter()
        .filter(|route| !kept.contains(&route.key()))
        .partition(|route| in_force.contains(&(route.family(), route.table)));
    let drop = |route: &&&Route| RoutingChange::DeleteRoute((**route).clone());
    plan.changes.extend(unused.iter().map(drop));
    for route in &routes {
        match present.get(&route.key()) {
            None => plan.changes.push(RoutingChange::AddRoute(route.clone())),
            Some(other) if *other != route => {
                plan.changes
                    .push(RoutingChange::ReplaceRoute(route.clone()));
            }
            Some(_) => {}
        }
    }
    let added = rules.iter().filter(|rule| !own_rules.contains(rule));
    plan.changes
        .extend(added.cloned().map(RoutingChange::AddRule));
    plan.changes.extend(obsolete.into_iter().map(delete));
    plan.changes.extend(in_use.iter().map(drop));
    Ok(plan)
}

/// Plans the deletion of all routes and rules that belong to voicelane.
#[must_use]
pub fn removal(ids: &RoutingIds, observed: &Observed) -> Vec<RoutingChange> {
    let rules = observed.rules.iter().filter(|rule| rule.is_owned_by(ids));
    let routes = observed
        .routes
        .iter()
        .filter(|route| route.is_owned_by(ids));
    let rules = rules.cloned().map(RoutingChange::DeleteRule);
    rules
        .chain(routes.cloned().map(RoutingChange::DeleteRoute))
        .collect()
}

/// Prefixes of one family by transport selector: one table each.
type PrefixGroups = BTreeMap<TransportSelector, BTreeSet<Prefix>>;
type TransportSelector = (Protocol, PortRange);

/// Returns the desired routes and rules of one family.
fn desired_of(
    family: Family,
    desired: &Desired,
    ids: &RoutingIds,
    observed: &Observed,
) -> Result<(Vec<Route>, Vec<RoutingRule>), TooManyPortRanges> {
    let (mut routes, mut rules) = (Vec::new(), Vec::new());
    let mut prefixes_of = PrefixGroups::new();
    for capture in &desired.captures {
        let prefixes = capture.prefixes.iter().copied();
        for prefix in prefixes.filter(|prefix| prefix.family() == family) {
            let transport = (capture.protocol, capture.ports);
            prefixes_of.entry(transport).or_default().insert(prefix);
        }
    }
    let (Some(uplink), false) = (&desired.uplinks[family], prefixes_of.is_empty()) else {
        return Ok((routes, rules));
    };
    let route = |table, prefix, link, via| Route {
        table,
        prefix,
        metric: METRIC,
        protocol: ids.protocol,
        unicast: true,
        hops: vec![Nexthop {
            link: Some(link),
            via,
        }],
    };
    let priority = priority(family, ids, observed);
    let rule = |table, selector| RoutingRule {
        family,
        priority,
        protocol: ids.protocol,
        table,
        selector,
        opaque: false,
    };

    let via = match uplink.gateway {
        UplinkGateway::Via(router) => Some(router),
        UplinkGateway::OnLink => None,
    };
    routes.push(route(
        ids.table,
        all_destinations(family),
        uplink.index,
        via,
    ));
    let direct = RuleSelector {
        oif: Some(uplink.name.clone()),
        mark: Some(
            desired
                .marks
                .mark
                .map_or((ids.mark, ids.mask), |mark| (mark, EVERY_BIT)),
        ),
        ..RuleSelector::default()
    };
    rules.push(rule(ids.table, direct));
    if desired.lookups.incoming {
        let answers = RuleSelector {
            iif: Some("lo".to_owned()),
            mark: Some((ids.mark, ids.mask)),
            ..RuleSelector::default()
        };
        rules.push(rule(ids.table, answers));
    }
    let tables = tables(family, &prefixes_of, ids, observed)?;
    let probe_interface = desired
        .blocked
        .contains(&family)
        .then(|| observed.link(desired.tun).map(|tun| tun.name.clone()));
    for (transport, prefixes) in prefixes_of {
        let table = tables[&transport];
        let capture = RuleSelector {
            iif: Some("lo".to_owned()),
            oif: probe_interface.clone().flatten(),
            // A packet with one of voicelane's marks is the relay's own.
            mark: Some((Fwmark(0), ids.mask)),
            protocol: Some(transport.0),
            // The kernel rejects a range up to 65535; without a range all ports match.
            ports: Some(transport.1).filter(|ports| *ports != PortRange::ALL),
        };
        let clients = desired.captured_clients();
        let clients = clients.iter().filter(|it| it.0 == family);
        rules.extend(clients.map(|(_, interface)| {
            let of_client = RuleSelector {
                iif: Some(interface.clone()),
                oif: None,
                mark: Some((ids.client_mark(), ids.mask)),
                ..capture.clone()
            };
            rule(table, of_client)
        }));
        if probe_interface != Some(None) {
            if desired.lookups.any() {
                let of_media = RuleSelector {
                    mark: Some((ids.client_mark(), ids.mask)),
                    protocol: None,
                    ports: None,
                    ..capture.clone()
                };
                rules.push(rule(table, of_media));
            }
            rules.push(rule(table, capture));
        }
        routes.extend(
            prefixes
                .into_iter()
                .map(|prefix| route(table, prefix, desired.tun, None)),
        );
    }
    Ok((routes, rules))
}

/// Assigns a table to each transport selector: its current table, or else an unused one.
///
/// A table that stays while the policy changes lets a reload add and remove prefixes, and packets of one port range
/// never match the prefixes of another.
fn tables(
    family: Family,
    prefixes_of: &PrefixGroups,
    ids: &RoutingIds,
    observed: &Observed,
) -> Result<BTreeMap<TransportSelector, RouteTable>, TooManyPortRanges> {
    // The transport selector whose rule looks up each table; none if foreign or different rules do.
    let mut users = BTreeMap::from([(ids.table, None)]);
    let is_by_mark_alone =
        |rule: &&RoutingRule| rule.is_owned_by(ids) && rule.selector.protocol.is_none();
    let rules = observed.rules.iter();
    let rules = rules.filter(|rule| rule.family == family && !is_by_mark_alone(rule));
    for rule in rules {
        let transport = match rule.selector {
            RuleSelector {
                protocol: Some(protocol),
                ports,
                ..
            } if rule.is_owned_by(ids) => Some((protocol, ports.unwrap_or(PortRange::ALL))),
            _ => None,
        };
        let user = users.entry(rule.table).or_insert(transport);
        *user = user.filter(|user| Some(*user) == transport);
    }
    let routes = observed
        .routes
        .iter()
        .filter(|route| route.family() == family);
    let foreign = routes.clone().filter(|route| !route.is_owned_by(ids));
    users.extend(foreign.map(|route| (route.table, None)));

    let mut tables = BTreeMap::new();
    for (&table, transport) in &users {
        if let Some(transport) = transport.filter(|transport| prefixes_of.contains_key(transport)) {
            tables.entry(transport).or_insert(table);
        }
    }
    let filled: BTreeSet<_> = routes.map(|route| route.table).collect();
    let mut free = (1..TABLES)
        .map(|above| RouteTable(ids.table.0.saturating_add(above)))
        .filter(|table| !users.contains_key(table) && !filled.contains(table));
    for transport in prefixes_of.keys() {
        if !tables.contains_key(transport) {
            tables.insert(
                *transport,
                free.next().ok_or(TooManyPortRanges(prefixes_of.len()))?,
            );
        }
    }
    Ok(tables)
}

/// Returns the priority of voicelane's rules: the configured one, or one below the lowest foreign priority.
///
/// A rule that looks up the table of local addresses is no competitor. Moving ahead of another voicelane would start a
/// race to priority 0.
fn priority(family: Family, ids: &RoutingIds, observed: &Observed) -> RulePriority {
    observed
        .rules
        .iter()
        .filter(|rule| rule.family == family && rule.protocol != ids.protocol)
        .filter(|rule| rule.priority.0 > 0 && (rule.table != LOCAL || rule.opaque))
        .map(|rule| RulePriority(rule.priority.0 - 1))
        .fold(ids.priority, RulePriority::min)
}

fn rules_ahead(observed: &Observed, ids: &RoutingIds) -> Vec<Warning> {
    observed
        .rules
        .iter()
        .filter(|rule| rule.priority.0 == 0 && rule.table != LOCAL)
        .filter(|rule| rule.protocol != ids.protocol)
        .cloned()
        .map(Warning::Outranked)
        .collect()
}

fn all_destinations(family: Family) -> Prefix {
    let unspecified = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    Prefix::new(unspecified, 0).expect("the unspecified address has no host bits")
}

#[cfg(test)]
mod tests;
