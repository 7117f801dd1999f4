//! The observed state: links, addresses, routes and rules of the kernel, read at once.

use std::fmt;
use std::net::IpAddr;

use super::desired::RoutingIds;
use crate::net::{
    Family, Fwmark, IfIndex, PortRange, Prefix, Protocol, RouteProtocol, RouteTable, RulePriority,
};

/// Links, addresses, routes and rules at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Network interfaces.
    pub links: Vec<Link>,
    /// Addresses of all links.
    pub addresses: Vec<InterfaceAddress>,
    /// Routes of all tables, without cached ones.
    pub routes: Vec<Route>,
    /// Routing rules in the order of their lookups, IPv4 first.
    pub rules: Vec<RoutingRule>,
    /// Marks of inverted rules (`not fwmark 51820 lookup 51820`): a VPN's own packets have them.
    pub inverted_marks: Vec<Fwmark>,
}

impl Observed {
    /// Returns the link with this index.
    #[must_use]
    pub fn link(&self, index: IfIndex) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }
}

/// Table of local addresses.
pub(super) const LOCAL: RouteTable = RouteTable(255);
/// Main table, which administrators, DHCP and most VPNs fill.
pub(super) const MAIN: RouteTable = RouteTable(254);

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub index: IfIndex,
    /// Name.
    pub name: String,
    /// Kind of a virtual link (`IFLA_INFO_KIND`), such as "tun" or "veth"; none for hardware.
    pub kind: Option<String>,
    /// Hardware type (`ARPHRD_*`).
    pub hardware: u16,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
}

/// `ARPHRD_LOOPBACK`.
const LOOPBACK: u16 = 772;
/// `ARPHRD_*` of links that carry IP packets in other packets: SLIP to CSLIP6, PPP, TUNNEL, TUNNEL6, SIT, IPGRE,
/// IP6GRE, NONE (TUN and `WireGuard`).
const TUNNELS: [u16; 11] = [256, 257, 258, 259, 512, 768, 769, 776, 778, 823, 0xfffe];

impl Link {
    /// Whether it is the loopback interface.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        self.hardware == LOOPBACK
    }

    /// Whether it carries packets inside other packets, as every VPN does.
    ///
    /// A known kind decides. A bare modem has no kind and the hardware type of a TUN; `--uplink` selects such a link.
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

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// Link of the address.
    pub link: IfIndex,
    /// The address.
    pub addr: IpAddr,
}

/// A next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nexthop {
    /// Outgoing link; none for a blackhole, prohibit or unreachable route.
    pub link: Option<IfIndex>,
    /// Router; none if the destination is on the link. It may be of the other family (RFC 5549).
    pub via: Option<IpAddr>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Table of the route.
    pub table: RouteTable,
    /// Destination prefix. It also determines the family.
    pub prefix: Prefix,
    /// Metric: the lowest one wins.
    pub metric: u32,
    /// Protocol number: identifies the program that added it.
    pub protocol: RouteProtocol,
    /// Whether its type is unicast.
    pub unicast: bool,
    /// Next hops; several for a multipath route.
    pub hops: Vec<Nexthop>,
}

impl Route {
    /// Returns the family of the destinations.
    #[must_use]
    pub fn family(&self) -> Family {
        self.prefix.family()
    }

    /// Whether the route belongs to voicelane: protocol number and table match.
    #[must_use]
    pub fn is_owned_by(&self, ids: &RoutingIds) -> bool {
        self.protocol == ids.protocol && ids.owns_table(self.table)
    }

    /// Returns the key by which the kernel identifies a route: only one route of each key can exist.
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

/// Selectors of a rule. None matches every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleSelector {
    /// Incoming interface; "lo" for packets of this machine.
    pub iif: Option<String>,
    /// Outgoing interface: the interface to which the socket is bound.
    pub oif: Option<String>,
    /// Mark and mask.
    pub mark: Option<(Fwmark, Fwmark)>,
    /// Transport protocol.
    pub protocol: Option<Protocol>,
    /// Destination ports.
    pub ports: Option<PortRange>,
}

/// A routing rule (`ip rule`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoutingRule {
    /// Address family.
    pub family: Family,
    /// Priority: the lowest one is matched first.
    pub priority: RulePriority,
    /// Protocol number: identifies the program that added it.
    pub protocol: RouteProtocol,
    /// Table to look up.
    pub table: RouteTable,
    /// Selectors.
    pub selector: RuleSelector,
    /// Whether it has attributes that the other fields cannot hold. Such a rule is never voicelane's.
    pub opaque: bool,
}

impl RoutingRule {
    /// Whether the rule belongs to voicelane: protocol number and table match, and no attribute is foreign.
    ///
    /// The priority does not matter, so a rule of other settings that was left over belongs to voicelane too.
    #[must_use]
    pub fn is_owned_by(&self, ids: &RoutingIds) -> bool {
        self.protocol == ids.protocol && ids.owns_table(self.table) && !self.opaque
    }
}

impl fmt::Display for RoutingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}:", self.family, self.priority)?;
        let RuleSelector {
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
