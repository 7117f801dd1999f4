//! Which way out is the physical one: read off the routing tables, never asked of a socket, which a VPN would answer.

use std::fmt;
use std::net::IpAddr;

use super::observed::{Address, Hop, Link, MAIN, Observed, Route};
use crate::net::{Family, IfIndex, InterfacePattern, RouteProtocol, RouteTable};

/// The physical way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The interface's name.
    pub name: String,
    /// The interface's index.
    pub index: IfIndex,
    /// Where IPv4 goes from there; none when that link has no IPv4 way out.
    pub gateway_v4: Option<Gateway>,
    /// Where IPv6 goes from there; none when that link has no IPv6 way out.
    pub gateway_v6: Option<Gateway>,
    /// What spoke for this interface.
    pub why: Why,
}

impl Uplink {
    /// Where a family's packets go.
    #[must_use]
    pub const fn gateway(&self, family: Family) -> Option<Gateway> {
        match family {
            Family::V4 => self.gateway_v4,
            Family::V6 => self.gateway_v6,
        }
    }
}

/// The next hop of a way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// A router. It may be of the other family (RFC 5549).
    Via(IpAddr),
    /// Nobody: the destinations are reached on the link itself, as on a point-to-point line.
    OnLink,
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Via(router) => router.fmt(f),
            Self::OnLink => f.pad("on the link"),
        }
    }
}

/// What the user wants of the choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preferences {
    /// The one interface to take, whatever it is.
    pub pinned: Option<String>,
    /// The interfaces to take first, the dearest first, whatever their metrics are.
    pub prefer: Vec<InterfacePattern>,
    /// The interfaces never to take.
    pub exclude: Vec<InterfacePattern>,
}

impl Preferences {
    /// The place of a link among those that are preferred; all others share the last.
    fn place(&self, link: &Link) -> usize {
        let place = self.prefer.iter().position(|it| it.matches(&link.name));
        place.unwrap_or(self.prefer.len())
    }

    fn excludes(&self, link: &Link) -> bool {
        self.exclude.iter().any(|it| it.matches(&link.name))
    }
}

/// The evidence for an uplink, in falling order of trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It was named by the user.
    Pinned,
    /// The best default route of the main table leaves by it.
    DefaultRoute,
    /// A host route leaves by it through a gateway, as a VPN makes to its server when it replaces the default route.
    HostRoute,
    /// A default route of another table leaves by it.
    OtherTable(RouteTable),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.pad("named by the user"),
            Self::DefaultRoute => f.pad("the default route"),
            Self::HostRoute => f.pad("the host route to the VPN server"),
            Self::OtherTable(table) => write!(f, "the default route of table {table}"),
        }
    }
}

/// A way out that was looked at and not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The interface's name.
    pub name: String,
    /// The family of the route that named it.
    pub family: Family,
    /// What spoke against it.
    pub reason: Reason,
}

/// What speaks against a way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
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

impl fmt::Display for Reason {
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
    NotFound(Vec<Rejected>),
    /// The interface that the user named is not there.
    #[error("the uplink {0:?} is not there: `ip link` lists what is")]
    Missing(String),
    /// The interface that the user named cannot be used.
    #[error("the uplink {name:?} {reason}")]
    Unusable {
        /// The interface's name.
        name: String,
        /// What speaks against it.
        reason: Reason,
    },
    /// The interface that the user named has neither a route nor an address.
    #[error(
        "the uplink {0:?} leads nowhere: it has no default route, no host route and no address"
    )]
    Nowhere(String),
}

fn listed(rejected: &[Rejected]) -> String {
    if rejected.is_empty() {
        return "no default route and no host route through a gateway".to_owned();
    }
    rejected
        .iter()
        .map(
            |Rejected {
                 name,
                 family,
                 reason,
             }| format!("{name} ({family}) {reason}"),
        )
        .collect::<Vec<_>>()
        .join(", ")
}

/// Chooses the uplink: the best of [`rank`].
///
/// # Errors
/// [`UplinkError`], which says what was rejected and why.
pub fn choose(
    observed: &Observed,
    own: RouteProtocol,
    preferences: &Preferences,
) -> Result<Uplink, UplinkError> {
    rank(observed, own, preferences).map(|mut ranked| ranked.swap_remove(0))
}

/// Finds the usable uplinks, the best first. Never empty.
///
/// Per family, the candidates are the main table's default routes by metric, then its host routes through a gateway,
/// then the default routes of other tables; what `own` made is no evidence. Preferred links come first. A candidate
/// counts when its link is usable, not excluded and no tunnel, IPv4 before IPv6; the other family's gateway is then
/// sought on the same link only, since sockets are bound to one link. A pinned link may be a tunnel, and one that no
/// route names but that has an address is taken to reach its destinations directly.
///
/// # Errors
/// [`UplinkError`], which says what was rejected and why.
pub fn rank(
    observed: &Observed,
    own: RouteProtocol,
    preferences: &Preferences,
) -> Result<Vec<Uplink>, UplinkError> {
    let v4 = candidates(observed, own, Family::V4);
    let v6 = candidates(observed, own, Family::V6);
    if let Some(name) = &preferences.pinned {
        let link = named(observed, name)?;
        let gateways = gateways(observed, link, &v4, &v6);
        let gateways = gateways.or_else(|| {
            let on_link = |family| has_address(observed, link, family).then_some(Gateway::OnLink);
            some((on_link(Family::V4), on_link(Family::V6)))
        });
        let gateways = gateways.ok_or_else(|| UplinkError::Nowhere(name.clone()))?;
        return Ok(vec![uplink(link, gateways, Why::Pinned)]);
    }
    let (mut found, mut rejected) = (Vec::<(usize, Uplink)>::new(), Vec::new());
    for candidate in v4.iter().chain(&v6) {
        let Some(link) = observed.link(candidate.link) else {
            continue;
        };
        if found.iter().any(|(_, uplink)| uplink.index == link.index) {
            continue;
        }
        let gateways = gateways(observed, link, &v4, &v6);
        let reason = if link.is_tunnel() {
            Reason::Tunnel
        } else if preferences.excludes(link) {
            Reason::Excluded
        } else if let Some(reason) = unusable(link) {
            reason
        } else if let Some(gateways) = gateways {
            let uplink = uplink(link, gateways, candidate.why);
            found.push((preferences.place(link), uplink));
            continue;
        } else {
            Reason::NoAddress
        };
        let entry = Rejected {
            name: link.name.clone(),
            family: candidate.family,
            reason,
        };
        if !rejected.contains(&entry) {
            rejected.push(entry);
        }
    }
    if found.is_empty() {
        return Err(UplinkError::NotFound(rejected));
    }
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(_, uplink)| uplink).collect())
}

type Gateways = (Option<Gateway>, Option<Gateway>);

/// The ways onwards from a link, if there is one.
fn gateways(
    observed: &Observed,
    link: &Link,
    v4: &[Candidate],
    v6: &[Candidate],
) -> Option<Gateways> {
    let routed = |candidates: &[Candidate]| {
        let route = candidates.iter().find(|route| route.link == link.index)?;
        Some(route.via.map_or(Gateway::OnLink, Gateway::Via))
    };
    // A route may outlive the last address, and then the kernel takes another link's for its source: the VPN's.
    let addressed = |family| has_address(observed, link, family);
    some((
        routed(v4).filter(|_| addressed(Family::V4)),
        routed(v6).filter(|_| addressed(Family::V6)),
    ))
}

fn some(gateways: Gateways) -> Option<Gateways> {
    (gateways != (None, None)).then_some(gateways)
}

fn uplink(link: &Link, (gateway_v4, gateway_v6): Gateways, why: Why) -> Uplink {
    Uplink {
        name: link.name.clone(),
        index: link.index,
        gateway_v4,
        gateway_v6,
        why,
    }
}

/// A route's way onwards as evidence for its link.
struct Candidate {
    why: Why,
    metric: u32,
    family: Family,
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
            route.hops.iter().filter_map(move |&Hop { link, via }| {
                Some(Candidate {
                    why: evidence(route, via)?,
                    metric: route.metric,
                    family,
                    link: link?,
                    via,
                })
            })
        })
        .collect();
    found.sort_by_key(|candidate| (candidate.why, candidate.metric));
    found
}

fn evidence(route: &Route, via: Option<IpAddr>) -> Option<Why> {
    let main = route.table == MAIN;
    match route.prefix.len() {
        0 if main => Some(Why::DefaultRoute),
        0 => Some(Why::OtherTable(route.table)),
        len if main && via.is_some() && len == route.family().bits() => Some(Why::HostRoute),
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

fn unusable(link: &Link) -> Option<Reason> {
    match (link.up, link.carrier) {
        (false, _) => Some(Reason::Down),
        (true, false) => Some(Reason::NoCarrier),
        (true, true) => None,
    }
}

/// Whether the link has an address of that family with which it can reach beyond itself.
fn has_address(observed: &Observed, link: &Link, family: Family) -> bool {
    observed
        .addresses
        .iter()
        .any(|&Address { link: on, addr }| {
            let link_local = match addr {
                IpAddr::V4(addr) => addr.is_link_local(),
                IpAddr::V6(addr) => addr.is_unicast_link_local(),
            };
            on == link.index && Family::of(addr) == family && !link_local
        })
}

#[cfg(test)]
mod tests;
