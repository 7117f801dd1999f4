//! Selection of the uplink: the physical interface of each family, from the routing tables.
//!
//! A connected socket would show the VPN's interface instead.

use std::fmt;
use std::net::IpAddr;

use super::desired::{Uplink, UplinkEvidence, UplinkGateway, Uplinks};
use super::observed::{InterfaceAddress, Link, MAIN, Nexthop, Observed, Route};
use crate::net::{Family, IfIndex, InterfacePattern, PerFamily, RouteProtocol};

/// Preferences of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkPreferences {
    /// The only interface to use, of any kind.
    pub pinned: Option<String>,
    /// Preferred interfaces, most preferred first; they outrank metrics.
    pub prefer: Vec<InterfacePattern>,
    /// Interfaces that are never used.
    pub exclude: Vec<InterfacePattern>,
}

impl UplinkPreferences {
    /// Returns the rank of a link among the preferred ones; all others share the last rank.
    fn rank(&self, link: &Link) -> usize {
        let rank = self.prefer.iter().position(|it| it.matches(&link.name));
        rank.unwrap_or(self.prefer.len())
    }

    fn excludes(&self, link: &Link) -> bool {
        self.exclude.iter().any(|it| it.matches(&link.name))
    }
}

/// A rejected candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedUplink {
    /// The interface's name.
    pub name: String,
    /// Family of the route.
    pub family: Family,
    /// The reason for the rejection.
    pub reason: RejectionReason,
}

/// Reason for a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionReason {
    /// It is a tunnel, most likely the VPN.
    Tunnel,
    /// It is administratively down.
    Down,
    /// It has no carrier.
    NoCarrier,
    /// The configuration excludes it.
    Excluded,
    /// It has no address beyond the link-local ones.
    NoAddress,
}

impl fmt::Display for RejectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tunnel => "is a tunnel",
            Self::Down => "is down",
            Self::NoCarrier => "has no carrier",
            Self::Excluded => "is excluded by [uplink]",
            Self::NoAddress => "has no address",
        })
    }
}

/// No uplink was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// No route leads out by a usable link.
    #[error("no network connection found (Wi-Fi or cable): {}; name one with --uplink IFACE", join_rejected(.0))]
    NotFound(Vec<RejectedUplink>),
    /// The configured interface does not exist.
    #[error("the uplink {0:?} does not exist: `ip link` lists all interfaces")]
    Missing(String),
    /// The configured interface cannot be used.
    #[error("the uplink {name:?} {reason}")]
    Unusable {
        /// The interface's name.
        name: String,
        /// The reason for the rejection.
        reason: RejectionReason,
    },
    /// The configured interface has neither a route nor an address.
    #[error("the uplink {0:?} has no default route, no host route and no address")]
    NoRoute(String),
}

fn join_rejected(rejected: &[RejectedUplink]) -> String {
    if rejected.is_empty() {
        return "no default route and no host route through a gateway".to_owned();
    }
    rejected
        .iter()
        .map(
            |RejectedUplink {
                 name,
                 family,
                 reason,
             }| format!("{name} ({family}) {reason}"),
        )
        .collect::<Vec<_>>()
        .join(", ")
}

/// Returns the best uplink of each family by [`rank`].
///
/// # Errors
/// [`UplinkError`] with all rejected candidates.
pub fn choose(
    observed: &Observed,
    own: RouteProtocol,
    preferences: &UplinkPreferences,
) -> Result<Uplinks, UplinkError> {
    let ranked = rank(observed, own, preferences)?;
    Ok(PerFamily::new(|family| ranked[family].first().cloned()))
}

/// Returns the usable uplinks of each family, best first. At least one family has one.
///
/// Candidates are the main table's default routes by metric, then its host routes through a gateway, then default
/// routes of other tables. Routes with the protocol number `own` are ignored. Preferred interfaces come first. A
/// candidate is usable if its link is up and no tunnel, has an address of the family, and is not excluded.
///
/// Each family may leave by another link. A pinned link serves both families and may be a tunnel. Without a route, its
/// destinations are taken to be on the link.
///
/// # Errors
/// [`UplinkError`] with all rejected candidates.
pub fn rank(
    observed: &Observed,
    own: RouteProtocol,
    preferences: &UplinkPreferences,
) -> Result<PerFamily<Vec<Uplink>>, UplinkError> {
    let candidates = PerFamily::new(|family| candidates(observed, own, family));
    if let Some(name) = &preferences.pinned {
        let link = find_link(observed, name)?;
        let mut gateways = PerFamily::new(|family| gateway(observed, link, &candidates, family));
        if gateways.present().next().is_none() {
            let on_link =
                |family| has_address(observed, link, family).then_some(UplinkGateway::OnLink);
            gateways = PerFamily::new(on_link);
        }
        if gateways.present().next().is_none() {
            return Err(UplinkError::NoRoute(name.clone()));
        }
        return Ok(PerFamily::new(|family| {
            let gateway = gateways[family].into_iter();
            gateway
                .map(|it| uplink(link, it, UplinkEvidence::Pinned))
                .collect()
        }));
    }
    let mut rejected = Vec::new();
    let ranked =
        PerFamily::new(|family| usable(observed, preferences, &candidates, family, &mut rejected));
    if ranked.iter().all(|(_, uplinks)| uplinks.is_empty()) {
        return Err(UplinkError::NotFound(rejected));
    }
    Ok(ranked)
}

/// Returns a family's usable uplinks, best first, and records the rejected candidates.
fn usable(
    observed: &Observed,
    preferences: &UplinkPreferences,
    candidates: &PerFamily<Vec<Candidate>>,
    family: Family,
    rejected: &mut Vec<RejectedUplink>,
) -> Vec<Uplink> {
    let mut found = Vec::<(usize, Uplink)>::new();
    for candidate in &candidates[family] {
        let Some(link) = observed.link(candidate.link) else {
            continue;
        };
        if found.iter().any(|(_, uplink)| uplink.index == link.index) {
            continue;
        }
        let reason = if link.is_tunnel() {
            RejectionReason::Tunnel
        } else if preferences.excludes(link) {
            RejectionReason::Excluded
        } else if let Some(reason) = unusable(link) {
            reason
        } else if let Some(gateway) = gateway(observed, link, candidates, family) {
            let uplink = uplink(link, gateway, candidate.why);
            found.push((preferences.rank(link), uplink));
            continue;
        } else {
            RejectionReason::NoAddress
        };
        let entry = RejectedUplink {
            name: link.name.clone(),
            family,
            reason,
        };
        if !rejected.contains(&entry) {
            rejected.push(entry);
        }
    }
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, uplink)| uplink).collect()
}

/// Returns the next hop of a link for a family, if there is one.
fn gateway(
    observed: &Observed,
    link: &Link,
    candidates: &PerFamily<Vec<Candidate>>,
    family: Family,
) -> Option<UplinkGateway> {
    let mut routes = candidates[family].iter();
    let route = routes.find(|route| route.link == link.index)?;
    // A route may outlive the last address. Then the kernel selects another link's address: the VPN's.
    has_address(observed, link, family)
        .then(|| route.via.map_or(UplinkGateway::OnLink, UplinkGateway::Via))
}

fn uplink(link: &Link, gateway: UplinkGateway, why: UplinkEvidence) -> Uplink {
    Uplink {
        name: link.name.clone(),
        index: link.index,
        gateway,
        why,
    }
}

/// A next hop of a route as evidence for its link.
struct Candidate {
    why: UplinkEvidence,
    metric: u32,
    link: IfIndex,
    via: Option<IpAddr>,
}

/// Returns a family's candidates, best first.
fn candidates(observed: &Observed, own: RouteProtocol, family: Family) -> Vec<Candidate> {
    let mut found: Vec<_> = observed
        .routes
        .iter()
        .filter(|route| route.unicast && route.protocol != own && route.family() == family)
        .flat_map(|route| {
            route.hops.iter().filter_map(move |&Nexthop { link, via }| {
                Some(Candidate {
                    why: evidence(route, via)?,
                    metric: route.metric,
                    link: link?,
                    via,
                })
            })
        })
        .collect();
    found.sort_by_key(|candidate| (candidate.why, candidate.metric));
    found
}

fn evidence(route: &Route, via: Option<IpAddr>) -> Option<UplinkEvidence> {
    let main = route.table == MAIN;
    match route.prefix.len() {
        0 if main => Some(UplinkEvidence::DefaultRoute),
        0 => Some(UplinkEvidence::OtherTable(route.table)),
        len if main && via.is_some() && len == route.family().bits() => {
            Some(UplinkEvidence::HostRoute)
        }
        _ => None,
    }
}

fn find_link<'a>(observed: &'a Observed, name: &str) -> Result<&'a Link, UplinkError> {
    let link = observed
        .links
        .iter()
        .find(|link| link.name == name)
        .ok_or_else(|| UplinkError::Missing(name.to_owned()))?;
    match unusable(link) {
        None => Ok(link),
        Some(reason) => Err(UplinkError::Unusable {
            name: name.to_owned(),
            reason,
        }),
    }
}

fn unusable(link: &Link) -> Option<RejectionReason> {
    match (link.up, link.carrier) {
        (false, _) => Some(RejectionReason::Down),
        (true, false) => Some(RejectionReason::NoCarrier),
        (true, true) => None,
    }
}

/// Whether the link has an address of the family that is not link-local.
fn has_address(observed: &Observed, link: &Link, family: Family) -> bool {
    observed
        .addresses
        .iter()
        .any(|&InterfaceAddress { link: on, addr }| {
            let link_local = match addr {
                IpAddr::V4(addr) => addr.is_link_local(),
                IpAddr::V6(addr) => addr.is_unicast_link_local(),
            };
            on == link.index && Family::of(addr) == family && !link_local
        })
}

#[cfg(test)]
mod tests;
