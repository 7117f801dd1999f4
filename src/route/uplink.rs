//! Which way out is the physical one: read off the routing tables, never asked of a socket, which a VPN would answer.

use std::fmt;
use std::net::IpAddr;

use super::desired::{Uplink, UplinkEvidence, UplinkGateway, Uplinks};
use super::observed::{InterfaceAddress, Link, MAIN, Nexthop, Observed, Route};
use crate::net::{Family, IfIndex, InterfacePattern, PerFamily, RouteProtocol};

/// What the user wants of the choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkPreferences {
    /// The one interface to take, whatever it is.
    pub pinned: Option<String>,
    /// The interfaces to take first, the dearest first, whatever their metrics are.
    pub prefer: Vec<InterfacePattern>,
    /// The interfaces never to take.
    pub exclude: Vec<InterfacePattern>,
}

impl UplinkPreferences {
    /// The place of a link among those that are preferred; all others share the last.
    fn place(&self, link: &Link) -> usize {
        let place = self.prefer.iter().position(|it| it.matches(&link.name));
        place.unwrap_or(self.prefer.len())
    }

    fn excludes(&self, link: &Link) -> bool {
        self.exclude.iter().any(|it| it.matches(&link.name))
    }
}

/// A way out that was looked at and not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedUplink {
    /// The interface's name.
    pub name: String,
    /// The family of the route that named it.
    pub family: Family,
    /// What spoke against it.
    pub reason: RejectionReason,
}

/// What speaks against a way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionReason {
    /// It is a tunnel, most likely the VPN.
    Tunnel,
    /// It is set down.
    Down,
    /// It has no carrier.
    NoCarrier,
    /// The user excludes it.
    Excluded,
    /// It has no address with which it could reach beyond itself.
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

/// No uplink could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// No route leads out by a usable link.
    #[error("no physical uplink: {}; name one with --uplink IFACE", listed(.0))]
    NotFound(Vec<RejectedUplink>),
    /// The interface that the user named is not there.
    #[error("the uplink {0:?} is not there: `ip link` lists what is")]
    Missing(String),
    /// The interface that the user named cannot be used.
    #[error("the uplink {name:?} {reason}")]
    Unusable {
        /// The interface's name.
        name: String,
        /// What speaks against it.
        reason: RejectionReason,
    },
    /// The interface that the user named has neither a route nor an address.
    #[error(
        "the uplink {0:?} leads nowhere: it has no default route, no host route and no address"
    )]
    Nowhere(String),
}

fn listed(rejected: &[RejectedUplink]) -> String {
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

/// Chooses the uplinks: each family's best of [`rank`].
///
/// # Errors
/// [`UplinkError`], which says what was rejected and why.
pub fn choose(
    observed: &Observed,
    own: RouteProtocol,
    preferences: &UplinkPreferences,
) -> Result<Uplinks, UplinkError> {
    let ranked = rank(observed, own, preferences)?;
    Ok(PerFamily::new(|family| ranked[family].first().cloned()))
}

/// Finds each family's usable uplinks, the best first. Never empty for both.
///
/// The candidates are the main table's default routes by metric, then its host routes through a gateway, then the default
/// routes of other tables; what `own` made is no evidence. Preferred links come first. A candidate counts when its link
/// is usable, not excluded, no tunnel, and has an address of the family. The families need not leave by the same link: a
/// network may have one of them only. A pinned link is both families', may be a tunnel, and one that no route names but
/// that has an address is taken to reach its destinations directly.
///
/// # Errors
/// [`UplinkError`], which says what was rejected and why.
pub fn rank(
    observed: &Observed,
    own: RouteProtocol,
    preferences: &UplinkPreferences,
) -> Result<PerFamily<Vec<Uplink>>, UplinkError> {
    let candidates = PerFamily::new(|family| candidates(observed, own, family));
    if let Some(name) = &preferences.pinned {
        let link = named(observed, name)?;
        let mut gateways = PerFamily::new(|family| gateway(observed, link, &candidates, family));
        if gateways.present().next().is_none() {
            let on_link =
                |family| has_address(observed, link, family).then_some(UplinkGateway::OnLink);
            gateways = PerFamily::new(on_link);
        }
        if gateways.present().next().is_none() {
            return Err(UplinkError::Nowhere(name.clone()));
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

/// A family's uplinks, the best first; notes what was rejected.
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
            found.push((preferences.place(link), uplink));
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
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, uplink)| uplink).collect()
}

/// A family's way onwards from a link, if there is one.
fn gateway(
    observed: &Observed,
    link: &Link,
    candidates: &PerFamily<Vec<Candidate>>,
    family: Family,
) -> Option<UplinkGateway> {
    let mut routes = candidates[family].iter();
    let route = routes.find(|route| route.link == link.index)?;
    // A route may outlive the last address, and then the kernel takes another link's for its source: the VPN's.
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

/// A route's way onwards as evidence for its link.
struct Candidate {
    why: UplinkEvidence,
    metric: u32,
    link: IfIndex,
    via: Option<IpAddr>,
}

/// A family's candidates, the best first.
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

fn named<'a>(observed: &'a Observed, name: &str) -> Result<&'a Link, UplinkError> {
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

/// Whether the link has an address of that family with which it can reach beyond itself.
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
