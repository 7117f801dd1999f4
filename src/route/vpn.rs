//! VPN interfaces: tunnels that routes lead into.

use super::observed::{Observed, Route};
use crate::net::{Family, IfIndex};

/// A tunnel interface with routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpn {
    /// Name of the interface.
    pub name: String,
    /// Kind of the link (`IFLA_INFO_KIND`), if the kernel reports one.
    pub kind: Option<String>,
    /// Whether the tunnel takes all IPv4 traffic.
    pub takes_v4: bool,
    /// Whether the tunnel takes all IPv6 traffic.
    pub takes_v6: bool,
}

/// Returns every tunnel that is up and has a route beyond its own addresses, except voicelane's TUN.
///
/// A VPN takes all traffic of a family by a default route in any table, or by two halves of it (OpenVPN's `def1`).
/// IPsec without an interface is not found here.
#[must_use]
pub fn find(observed: &Observed, tun: IfIndex) -> Vec<Vpn> {
    let tunnels = observed.links.iter();
    let tunnels = tunnels.filter(|link| link.up && link.index != tun && link.is_tunnel());
    let found = tunnels.filter_map(|link| {
        let routes = || {
            let routes = observed.routes.iter().filter(|route| route.unicast);
            routes.filter(|route| route.hops.iter().any(|hop| hop.link == Some(link.index)))
        };
        let takes = |family| takes_all(routes().filter(|route| route.family() == family));
        // Routes of a link's own addresses have the full length; its multicast route has 8 bits.
        let reaches = |route: &Route| {
            route.prefix.len() < route.family().bits() && !route.prefix.first().is_multicast()
        };
        routes().any(reaches).then(|| Vpn {
            name: link.name.clone(),
            kind: link.kind.clone(),
            takes_v4: takes(Family::V4),
            takes_v6: takes(Family::V6),
        })
    });
    found.collect()
}

fn takes_all<'a>(routes: impl Iterator<Item = &'a Route>) -> bool {
    let (mut whole, mut halves) = (false, [false; 2]);
    for route in routes {
        match route.prefix.len() {
            0 => whole = true,
            1 => halves[usize::from(!route.prefix.first().is_unspecified())] = true,
            _ => {}
        }
    }
    whole || halves == [true; 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{RouteProtocol, RouteTable};
    use crate::route::observed::{Link, Nexthop};

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

    fn route(table: u32, prefix: &str, link: u32) -> Route {
        Route {
            table: RouteTable(table),
            prefix: prefix.parse().expect("a prefix"),
            metric: 0,
            protocol: RouteProtocol(3),
            unicast: true,
            hops: vec![Nexthop {
                link: Some(IfIndex(link)),
                via: None,
            }],
        }
    }

    #[test]
    fn tunnels_with_routes_are_vpns_except_ours() {
        let observed = Observed {
            links: vec![
                link(2, "eth0", None),
                link(3, "tun0", Some("tun")),
                link(4, "wg0", Some("wireguard")),
                link(5, "ppp0", Some("ppp")),
                link(6, "voicelane0", Some("tun")),
                link(7, "sit0", Some("sit")),
            ],
            routes: vec![
                route(254, "0.0.0.0/0", 2),
                route(254, "0.0.0.0/1", 3),
                route(254, "128.0.0.0/1", 3),
                route(51_820, "0.0.0.0/0", 4),
                route(51_820, "::/0", 4),
                route(254, "10.0.0.0/16", 5),
                route(30_317, "168.86.128.0/18", 6),
                route(255, "ff00::/8", 7),
            ],
            ..Observed::default()
        };
        let found = find(&observed, IfIndex(6));
        let found: Vec<_> = found
            .iter()
            .map(|vpn| (vpn.name.as_str(), vpn.takes_v4, vpn.takes_v6))
            .collect();
        assert_eq!(
            found,
            [
                ("tun0", true, false),
                ("wg0", true, true),
                ("ppp0", false, false)
            ]
        );
    }
}
