//! From what is wanted and what is there to what must change: pure, so that every order of events can be tried.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::desired::{Desired, RoutingIds, TABLES, UplinkGateway};
use super::observed::{LOCAL, Nexthop, Observed, Route, RoutingRule, Selector};
use crate::net::{Family, Fwmark, PortRange, Prefix, Protocol, RouteTable, RulePriority};

/// The metric of our routes. Each table is ours alone, so that it only has to be the same everywhere.
const METRIC: u32 = 1;
/// The mask of a mark that is compared as a whole.
const EVERY_BIT: Fwmark = Fwmark(u32::MAX);

/// One step. Those that add or replace make sure, those that delete do not mind that it is done already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutingChange {
    /// Puts a route in.
    AddRoute(Route),
    /// Puts a route in the place of our route with the same table, prefix and metric, without a gap.
    ReplaceRoute(Route),
    /// Puts a rule in.
    AddRule(RoutingRule),
    /// Takes a rule out, named with all its selectors.
    DeleteRule(RoutingRule),
    /// Takes a route out.
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

/// What the plan cannot bring about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A foreign rule sits at priority 0, where nothing gets ahead of it.
    Behind(RoutingRule),
    /// A foreign route holds the place of one of ours.
    Taken(Route),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind(rule) => write!(
                f,
                "nothing gets ahead of the {rule}: it may take media first"
            ),
            Self::Taken(route) => write!(
                f,
                "the place of our {route} is taken: choose another [route] table"
            ),
        }
    }
}

/// Steps in order, and what they cannot achieve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do, in this order.
    pub changes: Vec<RoutingChange>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
    /// The place of our rules, when there are any: the one further back, should the families differ.
    pub priority: Option<RulePriority>,
}

/// More distinct port ranges than there are tables of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy has {0} distinct port ranges: at most {max} can be captured", max = TABLES - 1)]
pub struct TooManyPortRanges(usize);

/// Plans the way from what is observed to what is desired.
///
/// Routes come before the rules that ask them, new rules before the end of old ones, and the end of routes last: at no
/// moment is something captured that was and stays wanted let go, or something captured that neither was nor is
/// wanted. Where nothing is in force there is nothing to hold: the rules of a family that is blocked end first, and so do
/// the routes that nobody but probes was led to. Objects that are not ours are left alone, and a plan that was carried out
/// is followed by an empty one.
///
/// # Errors
/// [`TooManyPortRanges`].
pub fn plan(
    desired: &Desired,
    ids: &RoutingIds,
    observed: &Observed,
) -> Result<Plan, TooManyPortRanges> {
    let (mut routes, mut rules) = wanted(Family::V4, desired, ids, observed)?;
    let v6 = wanted(Family::V6, desired, ids, observed)?;
    routes.extend(v6.0);
    rules.extend(v6.1);
    let (own, foreign): (Vec<_>, Vec<_>) = observed
        .routes
        .iter()
        .partition(|route| route.is_owned_by(ids));
    let taken: BTreeSet<_> = foreign.iter().map(|route| route.key()).collect();
    let held: BTreeMap<_, _> = own.iter().map(|route| (route.key(), *route)).collect();
    let own_rules: BTreeSet<_> = observed
        .rules
        .iter()
        .filter(|rule| rule.is_owned_by(ids))
        .collect();

    let mut plan = Plan {
        changes: Vec::new(),
        warnings: if rules.is_empty() {
            Vec::new()
        } else {
            behind(observed, ids)
        },
        priority: rules.iter().map(|rule| rule.priority).max(),
    };
    routes.retain(|route| {
        let free = !taken.contains(&route.key()) || held.get(&route.key()) == Some(&route);
        if !free {
            plan.warnings.push(Warning::Taken(route.clone()));
        }
        free
    });
    let (blocked, ended): (Vec<_>, Vec<_>) = own_rules
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
    let (left, idle): (Vec<_>, Vec<_>) = own
        .iter()
        .filter(|route| !kept.contains(&route.key()))
        .partition(|route| in_force.contains(&(route.family(), route.table)));
    let drop = |route: &&&Route| RoutingChange::DeleteRoute((**route).clone());
    plan.changes.extend(idle.iter().map(drop));
    for route in &routes {
        match held.get(&route.key()) {
            None => plan.changes.push(RoutingChange::AddRoute(route.clone())),
            Some(there) if *there != route => {
                plan.changes
                    .push(RoutingChange::ReplaceRoute(route.clone()));
            }
            Some(_) => {}
        }
    }
    let added = rules.iter().filter(|rule| !own_rules.contains(rule));
    plan.changes
        .extend(added.cloned().map(RoutingChange::AddRule));
    plan.changes.extend(ended.into_iter().map(delete));
    plan.changes.extend(left.iter().map(drop));
    Ok(plan)
}

/// Plans the removal of everything that is ours.
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

/// Prefixes of one family by what their packets must be: one table each.
type PrefixGroups = BTreeMap<TransportSelector, BTreeSet<Prefix>>;
type TransportSelector = (Protocol, PortRange);

/// The routes and rules that one family is to have.
fn wanted(
    family: Family,
    desired: &Desired,
    ids: &RoutingIds,
    observed: &Observed,
) -> Result<(Vec<Route>, Vec<RoutingRule>), TooManyPortRanges> {
    let (mut routes, mut rules) = (Vec::new(), Vec::new());
    let mut groups = PrefixGroups::new();
    for capture in &desired.captures {
        let prefixes = capture.prefixes.iter().copied();
        for prefix in prefixes.filter(|prefix| prefix.family() == family) {
            let group = (capture.protocol, capture.ports);
            groups.entry(group).or_default().insert(prefix);
        }
    }
    let (Some(uplink), false) = (&desired.uplinks[family], groups.is_empty()) else {
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
    routes.push(route(ids.table, everywhere(family), uplink.index, via));
    let direct = Selector {
        oif: Some(uplink.name.clone()),
        mark: Some(
            desired
                .marks
                .mark
                .map_or((ids.mark, ids.mask), |mark| (mark, EVERY_BIT)),
        ),
        ..Selector::default()
    };
    rules.push(rule(ids.table, direct));
    let tables = tables(family, &groups, ids, observed)?;
    let only_bound_to = desired
        .blocked
        .contains(&family)
        .then(|| observed.link(desired.tun).map(|tun| tun.name.clone()));
    for (group, prefixes) in groups {
        let table = tables[&group];
        let capture = Selector {
            iif: Some("lo".to_owned()),
            oif: only_bound_to.clone().flatten(),
            // What carries our mark is never captured: it is the relay's own, on its way into the VPN.
            mark: Some((Fwmark(0), ids.mask)),
            protocol: Some(group.0),
            // The kernel takes no range up to 65535: all ports are none named.
            ports: Some(group.1).filter(|ports| *ports != PortRange::ALL),
        };
        let served = desired.captured_clients();
        let served = served.iter().filter(|it| it.0 == family);
        rules.extend(served.map(|(_, interface)| {
            let of_client = Selector {
                iif: Some(interface.clone()),
                oif: None,
                mark: Some((ids.client_mark(), ids.mask)),
                ..capture.clone()
            };
            rule(table, of_client)
        }));
        if only_bound_to != Some(None) {
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

/// Gives each group its table: the one that it has, or else one that nothing is in and nothing asks.
///
/// A number that stays while the policy around it changes is what lets a reload add and remove prefixes without
/// packets of one port range meeting the prefixes of another.
fn tables(
    family: Family,
    groups: &PrefixGroups,
    ids: &RoutingIds,
    observed: &Observed,
) -> Result<BTreeMap<TransportSelector, RouteTable>, TooManyPortRanges> {
    // Who asks each table: one group of ours and nobody else, or somebody else.
    let mut asked = BTreeMap::from([(ids.table, None)]);
    for rule in observed.rules.iter().filter(|rule| rule.family == family) {
        let group = match rule.selector {
            Selector {
                protocol: Some(protocol),
                ports,
                ..
            } if rule.is_owned_by(ids) => Some((protocol, ports.unwrap_or(PortRange::ALL))),
            _ => None,
        };
        let asker = asked.entry(rule.table).or_insert(group);
        *asker = asker.filter(|asker| Some(*asker) == group);
    }
    let routes = observed
        .routes
        .iter()
        .filter(|route| route.family() == family);
    let foreign = routes.clone().filter(|route| !route.is_owned_by(ids));
    asked.extend(foreign.map(|route| (route.table, None)));

    let mut tables = BTreeMap::new();
    for (&table, group) in &asked {
        if let Some(group) = group.filter(|group| groups.contains_key(group)) {
            tables.entry(group).or_insert(table);
        }
    }
    let filled: BTreeSet<_> = routes.map(|route| route.table).collect();
    let mut free = (1..TABLES)
        .map(|above| RouteTable(ids.table.0.saturating_add(above)))
        .filter(|table| !asked.contains_key(table) && !filled.contains(table));
    for group in groups.keys() {
        if !tables.contains_key(group) {
            tables.insert(*group, free.next().ok_or(TooManyPortRanges(groups.len()))?);
        }
    }
    Ok(tables)
}

/// The place of our rules: the configured one, or just ahead of the first foreign rule.
///
/// A rule that asks the table of local addresses takes nothing from us, wherever it is; one of another voicelane would
/// start a race to the top.
fn priority(family: Family, ids: &RoutingIds, observed: &Observed) -> RulePriority {
    observed
        .rules
        .iter()
        .filter(|rule| rule.family == family && rule.protocol != ids.protocol)
        .filter(|rule| rule.priority.0 > 0 && (rule.table != LOCAL || rule.opaque))
        .map(|rule| RulePriority(rule.priority.0 - 1))
        .fold(ids.priority, RulePriority::min)
}

fn behind(observed: &Observed, ids: &RoutingIds) -> Vec<Warning> {
    observed
        .rules
        .iter()
        .filter(|rule| rule.priority.0 == 0 && rule.table != LOCAL)
        .filter(|rule| rule.protocol != ids.protocol)
        .cloned()
        .map(Warning::Behind)
        .collect()
}

fn everywhere(family: Family) -> Prefix {
    let unspecified = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    Prefix::new(unspecified, 0).expect("the unspecified address has no host bits")
}

#[cfg(test)]
mod tests;
