//! What the kernel has: links, addresses, routes and rules, read once and judged by pure functions.

use std::fmt;
use std::net::IpAddr;

use super::desired::RoutingIds;
use crate::net::{
    Family, Fwmark, IfIndex, PortRange, Prefix, Protocol, RouteProtocol, RouteTable, RulePriority,
};

/// Everything that the choice of the uplink and the plan look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Network interfaces.
    pub links: Vec<Link>,
    /// Addresses on them.
    pub addresses: Vec<InterfaceAddress>,
    /// Routes of all tables, without the kernel's cache.
    pub routes: Vec<Route>,
    /// Policy rules in the order in which the kernel asks them, IPv4 first.
    pub rules: Vec<RoutingRule>,
    /// The marks that a rule excepts (`not fwmark 51820 lookup 51820`): what a VPN's own packets bear.
    pub inverted_marks: Vec<Fwmark>,
}

impl Observed {
    /// The link with this index.
    #[must_use]
    pub fn link(&self, index: IfIndex) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }
}

/// The kernel's table of its own addresses.
pub(super) const LOCAL: RouteTable = RouteTable(255);
/// The table that administrators, DHCP and most VPNs fill.
pub(super) const MAIN: RouteTable = RouteTable(254);

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
    /// The kind of a virtual link (`IFLA_INFO_KIND`), such as "tun" or "veth"; none for hardware.
    pub kind: Option<String>,
    /// The hardware type (`ARPHRD_*`).
    pub hardware: u16,
    /// Whether the administrator has set it up.
    pub up: bool,
    /// Whether it has a carrier: a cable, an access point, a peer.
    pub carrier: bool,
}

/// `ARPHRD_LOOPBACK`.
const LOOPBACK: u16 = 772;
/// `ARPHRD_*` of links that carry bare IP packets inside something else: SLIP to CSLIP6, PPP, TUNNEL, TUNNEL6, SIT,
/// IPGRE, IP6GRE, NONE (TUN and `WireGuard`).
const TUNNELS: [u16; 11] = [256, 257, 258, 259, 512, 768, 769, 776, 778, 823, 0xfffe];

impl Link {
    /// Whether it is the loopback interface.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        self.hardware == LOOPBACK
    }

    /// Whether it carries packets inside other packets, as every VPN does.
    ///
    /// A kind decides where it is known. A bare modem has no kind, and the hardware type of a TUN: it is told from a
    /// tunnel only by `--uplink`.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        match self.kind.as_deref() {
            Some(
                "tun" | "wireguard" | "amneziawg" | "ovpn" | "ppp" | "xfrm" | "vti" | "vti6"
                | "ipip" | "sit" | "gre" | "gretap" | "ip6gre" | "ip6gretap" | "erspan"
                | "ip6erspan" | "ip6tnl" | "l2tp" | "vxlan" | "geneve" | "bareudp" | "gtp" | "amt",
            ) => true,
            Some(
                "veth" | "bridge" | "vlan" | "bond" | "team" | "macvlan" | "macvtap" | "ipvlan"
                | "ipvtap" | "wwan" | "rmnet" | "virt_wifi" | "dsa" | "macsec",
            ) => false,
            _ => TUNNELS.contains(&self.hardware),
        }
    }
}

/// An address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The link that holds it.
    pub link: IfIndex,
    /// The address.
    pub addr: IpAddr,
}

/// One way onwards of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nexthop {
    /// The link that packets leave by; none for a blackhole and its like.
    pub link: Option<IfIndex>,
    /// The router that they are handed to; none when the destination is on the link. It may be of the other family
    /// (RFC 5549).
    pub via: Option<IpAddr>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// The table that it is in.
    pub table: RouteTable,
    /// Its destinations, which also say the family.
    pub prefix: Prefix,
    /// Its metric: lower is preferred.
    pub metric: u32,
    /// Who made it.
    pub protocol: RouteProtocol,
    /// Whether it forwards to one of the hops (type unicast).
    pub unicast: bool,
    /// The ways onwards: more than one for a multipath route.
    pub hops: Vec<Nexthop>,
}

impl Route {
    /// The family of its destinations.
    #[must_use]
    pub fn family(&self) -> Family {
        self.prefix.family()
    }

    /// Whether the route is ours: our protocol number, in one of our tables.
    #[must_use]
    pub fn is_owned_by(&self, ids: &RoutingIds) -> bool {
        self.protocol == ids.protocol && ids.owns_table(self.table)
    }

    /// What the kernel holds to be the same route: only one of each can be in force.
    #[must_use]
    pub fn key(&self) -> (RouteTable, Prefix, u32) {
        (self.table, self.prefix, self.metric)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family(), self.prefix)?;
        for hop in &self.hops {
            if let Some(via) = hop.via {
                write!(f, " via {via}")?;
            }
            if let Some(link) = hop.link {
                write!(f, " dev #{link}")?;
            }
        }
        write!(f, " table {} metric {}", self.table, self.metric)
    }
}

/// What a packet must be for a rule to ask its table. None: anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// The link that it came in by; "lo" for what this machine sends.
    pub iif: Option<String>,
    /// The link that its socket is bound to.
    pub oif: Option<String>,
    /// Its mark, and the bits of the mark that count.
    pub mark: Option<(Fwmark, Fwmark)>,
    /// Its transport protocol.
    pub protocol: Option<Protocol>,
    /// Its destination port.
    pub ports: Option<PortRange>,
}

/// A policy rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoutingRule {
    /// The family that it is for.
    pub family: Family,
    /// Its place: lower is asked first.
    pub priority: RulePriority,
    /// Who made it.
    pub protocol: RouteProtocol,
    /// The table that it asks.
    pub table: RouteTable,
    /// What it applies to.
    pub selector: Selector,
    /// Whether it says more than the other fields can hold. Such a rule is never ours.
    pub opaque: bool,
}

impl RoutingRule {
    /// Whether the rule is ours: our protocol number, a lookup of one of our tables, no selector that ours never have.
    ///
    /// Its priority does not matter: a leftover of other settings is ours too.
    #[must_use]
    pub fn is_owned_by(&self, ids: &RoutingIds) -> bool {
        self.protocol == ids.protocol && ids.owns_table(self.table) && !self.opaque
    }
}

impl fmt::Display for RoutingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}:", self.family, self.priority)?;
        let Selector {
            iif,
            oif,
            mark,
            protocol,
            ports,
        } = &self.selector;
        if let Some(iif) = iif {
            write!(f, " iif {iif}")?;
        }
        if let Some((mark, mask)) = mark {
            write!(f, " fwmark {:#x}/{:#x}", mark.0, mask.0)?;
        }
        if let Some(oif) = oif {
            write!(f, " oif {oif}")?;
        }
        if let Some(protocol) = protocol {
            write!(f, " ipproto {protocol}")?;
        }
        if let Some(ports) = ports {
            write!(f, " dport {ports}")?;
        }
        if self.opaque {
            write!(f, " ...")?;
        }
        write!(f, " lookup {}", self.table)
    }
}
