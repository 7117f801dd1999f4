//! Which way out is the physical one: read off the routing tables, never asked of a socket, which a VPN would answer.

use std::fmt;
use std::net::IpAddr;

use super::observed::{Address, Hop, Link, MAIN, Observed, Route};
use crate::net::{Family, IfIndex, RouteProtocol, RouteTable};

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
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tunnel => "is a tunnel",
            Self::Down => "is down",
            Self::NoCarrier => "has no carrier",
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

/// Chooses the uplink.
///
/// Per family, the candidates are the main table's default routes by metric, then its host routes through a gateway,
/// then the default routes of other tables; what `own` made is no evidence. The first candidate on a usable link that
/// is no tunnel decides, IPv4 before IPv6; the other family's gateway is then sought on the same link only, since
/// sockets are bound to one link. A `pinned` link may be a tunnel, and one that no route names but that has an address
/// is taken to reach its destinations directly.
///
/// # Errors
/// [`UplinkError`], which says what was rejected and why.
pub fn choose(
    observed: &Observed,
    own: RouteProtocol,
    pinned: Option<&str>,
) -> Result<Uplink, UplinkError> {
    let v4 = candidates(observed, own, Family::V4);
    let v6 = candidates(observed, own, Family::V6);
    let (link, why) = match pinned {
        Some(name) => (named(observed, name)?, Why::Pinned),
        None => best(observed, v4.iter().chain(&v6))?,
    };
    let routed = |candidates: &[Candidate]| {
        let route = candidates.iter().find(|route| route.link == link.index)?;
        Some(route.via.map_or(Gateway::OnLink, Gateway::Via))
    };
    let (mut gateway_v4, mut gateway_v6) = (routed(&v4), routed(&v6));
    // An IPv6 route outlives the last address, and then the kernel takes another link's for its source: the VPN's.
    gateway_v6 = gateway_v6.filter(|_| has_address(observed, link, Family::V6));
    if gateway_v4.is_none() && gateway_v6.is_none() {
        let on_link = |family| has_address(observed, link, family).then_some(Gateway::OnLink);
        (gateway_v4, gateway_v6) = (on_link(Family::V4), on_link(Family::V6));
    }
    if gateway_v4.is_none() && gateway_v6.is_none() {
        return Err(UplinkError::Nowhere(link.name.clone()));
    }
    Ok(Uplink {
        name: link.name.clone(),
        index: link.index,
        gateway_v4,
        gateway_v6,
        why,
    })
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

fn best<'a>(
    observed: &'a Observed,
    candidates: impl Iterator<Item = &'a Candidate>,
) -> Result<(&'a Link, Why), UplinkError> {
    let mut rejected = Vec::new();
    for candidate in candidates {
        let Some(link) = observed.link(candidate.link) else {
            continue;
        };
        let reason = if link.is_tunnel() {
            Some(Reason::Tunnel)
        } else {
            unusable(link)
        };
        let Some(reason) = reason else {
            return Ok((link, candidate.why));
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
    Err(UplinkError::NotFound(rejected))
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
mod tests {
    use super::*;
    use crate::net::Prefix;

    const OWN: RouteProtocol = RouteProtocol(118);

    fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
        Link {
            index: IfIndex(index),
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            hardware: 1,
            up: true,
            carrier: true,
        }
    }

    fn route(table: RouteTable, prefix: &str, metric: u32, link: u32, via: Option<&str>) -> Route {
        Route {
            table,
            prefix: prefix.parse::<Prefix>().expect("a prefix"),
            metric,
            protocol: RouteProtocol(3),
            unicast: true,
            hops: vec![Hop {
                link: Some(IfIndex(link)),
                via: via.map(|via| via.parse().expect("an address")),
            }],
        }
    }

    fn address(link: u32, addr: &str) -> Address {
        Address {
            link: IfIndex(link),
            addr: addr.parse().expect("an address"),
        }
    }

    fn laptop(routes: &[Route]) -> Observed {
        Observed {
            links: vec![
                link(2, "eth0", None),
                link(3, "wlan0", None),
                link(4, "tun0", Some("tun")),
            ],
            addresses: [2, 3].map(|link| address(link, "2001:db8::5")).to_vec(),
            routes: routes.to_vec(),
            ..Observed::default()
        }
    }

    fn via(addr: &str) -> Gateway {
        Gateway::Via(addr.parse().expect("an address"))
    }

    #[test]
    fn the_lowest_metric_wins_and_a_link_without_carrier_does_not() {
        let mut observed = laptop(&[
            route(MAIN, "0.0.0.0/0", 600, 3, Some("192.0.2.1")),
            route(MAIN, "0.0.0.0/0", 100, 2, Some("198.51.100.1")),
            route(MAIN, "0.0.0.0/0", 50, 4, Some("10.8.0.1")),
        ]);
        let uplink = choose(&observed, OWN, None).expect("an uplink");
        assert_eq!(
            (uplink.name.as_str(), uplink.why),
            ("eth0", Why::DefaultRoute)
        );
        assert_eq!(uplink.gateway_v4, Some(via("198.51.100.1")));
        observed.links[0].carrier = false;
        assert_eq!(
            choose(&observed, OWN, None).expect("an uplink").name,
            "wlan0"
        );
    }

    #[test]
    fn the_host_route_to_the_server_names_the_gateway_that_the_vpn_replaced() {
        let observed = laptop(&[
            route(MAIN, "0.0.0.0/0", 0, 4, None),
            route(MAIN, "203.0.113.9/32", 0, 3, Some("192.0.2.1")),
            route(MAIN, "::/0", 0, 4, None),
        ]);
        let uplink = choose(&observed, OWN, None).expect("an uplink");
        assert_eq!(
            (uplink.name.as_str(), uplink.why),
            ("wlan0", Why::HostRoute)
        );
        assert_eq!(
            (uplink.gateway_v4, uplink.gateway_v6),
            (Some(via("192.0.2.1")), None)
        );
    }

    #[test]
    fn another_table_serves_when_main_has_no_way_out() {
        let table = RouteTable(100);
        let ours = Route {
            protocol: OWN,
            ..route(RouteTable(30316), "0.0.0.0/0", 0, 2, Some("198.51.100.1"))
        };
        let observed = laptop(&[ours, route(table, "::/0", 0, 3, Some("fe80::1"))]);
        let uplink = choose(&observed, OWN, None).expect("an uplink");
        assert_eq!(
            (uplink.name.as_str(), uplink.why),
            ("wlan0", Why::OtherTable(table))
        );
        assert_eq!(
            (uplink.gateway_v4, uplink.gateway_v6),
            (None, Some(via("fe80::1")))
        );
    }

    #[test]
    fn both_families_leave_by_one_link() {
        let observed = laptop(&[
            route(MAIN, "0.0.0.0/0", 0, 2, Some("198.51.100.1")),
            route(MAIN, "::/0", 0, 3, Some("fe80::1")),
            route(MAIN, "::/0", 1024, 2, Some("fe80::2")),
        ]);
        let uplink = choose(&observed, OWN, None).expect("an uplink");
        assert_eq!(
            (uplink.name.as_str(), uplink.gateway_v6),
            ("eth0", Some(via("fe80::2")))
        );
    }

    #[test]
    fn a_route_without_an_address_of_its_family_is_no_way_out() {
        let mut observed = laptop(&[
            route(MAIN, "0.0.0.0/0", 0, 2, Some("198.51.100.1")),
            route(MAIN, "::/0", 0, 2, Some("fe80::1")),
        ]);
        observed.addresses = vec![address(2, "fe80::5"), address(4, "fd08::2")];
        let uplink = choose(&observed, OWN, None).expect("an uplink");
        assert_eq!(uplink.gateway_v4, Some(via("198.51.100.1")));
        assert_eq!(uplink.gateway_v6, None);
    }

    #[test]
    fn the_error_says_what_was_rejected_and_what_to_do() {
        let mut observed = laptop(&[
            route(MAIN, "0.0.0.0/0", 0, 4, None),
            route(MAIN, "0.0.0.0/0", 5, 2, Some("198.51.100.1")),
        ]);
        observed.links[0].up = false;
        let error = choose(&observed, OWN, None).expect_err("no uplink");
        assert_eq!(
            error.to_string(),
            "no physical uplink: tun0 (IPv4) is a tunnel, eth0 (IPv4) is down; name one with --uplink IFACE"
        );
        assert!(choose(&laptop(&[]), OWN, None).is_err());
    }

    #[test]
    fn the_user_may_name_what_would_not_be_chosen() {
        let mut observed = laptop(&[
            route(MAIN, "0.0.0.0/0", 0, 2, Some("198.51.100.1")),
            route(MAIN, "0.0.0.0/0", 9, 4, None),
        ]);
        observed.addresses.clear();
        let pinned = |observed: &Observed, name| choose(observed, OWN, Some(name));
        let tunnel = pinned(&observed, "tun0").expect("an uplink");
        assert_eq!(
            (tunnel.why, tunnel.gateway_v4),
            (Why::Pinned, Some(Gateway::OnLink))
        );
        assert_eq!(
            pinned(&observed, "ppp9"),
            Err(UplinkError::Missing("ppp9".to_owned()))
        );
        assert_eq!(
            pinned(&observed, "wlan0"),
            Err(UplinkError::Nowhere("wlan0".to_owned()))
        );
        observed.addresses.push(address(3, "2001:db8::2"));
        let attached = pinned(&observed, "wlan0").expect("an uplink");
        assert_eq!(
            (attached.gateway_v4, attached.gateway_v6),
            (None, Some(Gateway::OnLink))
        );
    }

    #[test]
    fn a_tunnel_is_known_by_its_kind_and_otherwise_by_its_hardware() {
        let of = |kind, hardware| Link {
            hardware,
            ..link(9, "x", kind)
        };
        assert!(of(Some("wireguard"), 0xfffe).is_tunnel() && of(None, 512).is_tunnel());
        assert!(
            of(Some("tun"), 1).is_tunnel(),
            "a TAP is a tunnel that looks like Ethernet"
        );
        assert!(!of(Some("wwan"), 0xfffe).is_tunnel() && !of(Some("veth"), 1).is_tunnel());
        assert!(!of(None, 1).is_tunnel());
    }
}
