//! Conversion of links, addresses, routes and rules from and to rtnetlink messages (rtnetlink(7)).

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::Nla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::rule::{
    RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange,
};

use super::observed::{InterfaceAddress, LOCAL, Link, Nexthop, Route, RoutingRule, RuleSelector};
use crate::net::{
    Family, Fwmark, IfIndex, PortRange, Prefix, Protocol, RouteProtocol, RouteTable, RulePriority,
};

/// Parses a link; none if it has no name.
pub(super) fn link(message: &LinkMessage) -> Option<Link> {
    let (mut name, mut kind) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(Link {
        index: IfIndex(message.header.index),
        name: name?,
        kind,
        hardware: message.header.link_layer_type.into(),
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
    })
}

/// Parses an address: the local one of a point-to-point link.
pub(super) fn address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(addr) => Some(*addr),
        _ => None,
    });
    let only = find(|attribute| match attribute {
        AddressAttribute::Address(addr) => Some(*addr),
        _ => None,
    });
    Some(InterfaceAddress {
        link: IfIndex(message.header.index),
        addr: local.or(only)?,
    })
}

fn family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(addr) => Some((*addr).into()),
        RouteAddress::Inet6(addr) => Some((*addr).into()),
        _ => None,
    }
}

/// Parses the next hop of a list of attributes.
fn hop(link: Option<u32>, attributes: &[RouteAttribute]) -> Nexthop {
    let mut hop = Nexthop {
        link: link.map(IfIndex),
        via: None,
    };
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => hop.link = Some(IfIndex(*index)),
            RouteAttribute::Gateway(gateway) => hop.via = ip(gateway),
            RouteAttribute::Via(RouteVia::Inet(addr)) => hop.via = Some((*addr).into()),
            RouteAttribute::Via(RouteVia::Inet6(addr)) => hop.via = Some((*addr).into()),
            _ => {}
        }
    }
    hop
}

/// Parses a route; none if its family is unknown or it is a cached one.
pub(crate) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut destination = match family(header.address_family)? {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    let (mut table, mut metric, mut hops) = (u32::from(header.table), 0, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(addr) => destination = ip(addr)?,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::MultiPath(nexthops) => {
                let nexthops = nexthops.iter();
                hops.extend(nexthops.map(|one| hop(Some(one.interface_index), &one.attributes)));
            }
            _ => {}
        }
    }
    if hops.is_empty() {
        hops.push(hop(None, &message.attributes));
    }
    Some(Route {
        table: RouteTable(table),
        prefix: Prefix::new(destination, header.destination_prefix_length).ok()?,
        metric,
        protocol: RouteProtocol(header.protocol.into()),
        unicast: header.kind == RouteType::Unicast,
        hops,
    })
}

/// Builds the message of a route.
///
/// The gateway is marked as on-link: a VPN's routes may lead its network elsewhere.
pub(super) fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(route.family());
    message.header.destination_prefix_length = route.prefix.len();
    message.header.protocol = route.protocol.0.into();
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Universe;
    message.attributes = vec![
        RouteAttribute::Table(route.table.0),
        RouteAttribute::Destination(route.prefix.first().into()),
        RouteAttribute::Priority(route.metric),
    ];
    for hop in &route.hops {
        message
            .attributes
            .extend(hop.link.map(|link| RouteAttribute::Oif(link.0)));
        let Some(via) = hop.via else {
            // Without a gateway, destinations are on the link (rtnetlink(7), `rtm_scope`).
            if route.family() == Family::V4 {
                message.header.scope = RouteScope::Link;
            }
            continue;
        };
        message.header.flags |= RouteFlags::Onlink;
        message.attributes.push(match (route.family(), via) {
            (Family::V4, IpAddr::V6(via)) => RouteAttribute::Via(RouteVia::Inet6(via)),
            (_, via) => RouteAttribute::Gateway(via.into()),
        });
    }
    message
}

/// Builds the message of the local route of an address.
pub(super) fn local_route(addr: Ipv4Addr, link: IfIndex) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    message.header.kind = RouteType::Local;
    message.header.scope = RouteScope::Host;
    message.attributes = vec![
        RouteAttribute::Table(LOCAL.0),
        RouteAttribute::Destination(addr.into()),
        RouteAttribute::Oif(link.0),
    ];
    message
}

/// `FRA_SPORT_MASK` and `FRA_DPORT_MASK` (Linux 6.15), which the kernel reports for a rule with one port.
const PORT_MASKS: [u16; 2] = [28, 29];

/// Parses a rule; none if its family is unknown.
pub(crate) fn rule(message: &RuleMessage) -> Option<RoutingRule> {
    let header = &message.header;
    let known_flags = RuleFlags::Permanent | RuleFlags::IifDetached | RuleFlags::OifDetached;
    let mut rule = RoutingRule {
        family: family(header.family)?,
        priority: RulePriority(0),
        protocol: RouteProtocol(0),
        table: RouteTable(header.table.into()),
        selector: RuleSelector::default(),
        opaque: header.action != RuleAction::ToTable
            || !known_flags.contains(header.flags)
            || (header.src_len, header.dst_len, header.tos) != (0, 0, 0),
    };
    let (mut mark, mut mask) = (None, None);
    for attribute in &message.attributes {
        let selector = &mut rule.selector;
        match attribute {
            RuleAttribute::Priority(number) => rule.priority = RulePriority(*number),
            RuleAttribute::Protocol(number) => rule.protocol = RouteProtocol((*number).into()),
            RuleAttribute::Table(number) => rule.table = RouteTable(*number),
            RuleAttribute::Iifname(name) => selector.iif = Some(name.clone()),
            RuleAttribute::Oifname(name) => selector.oif = Some(name.clone()),
            RuleAttribute::FwMark(number) => mark = Some(Fwmark(*number)),
            RuleAttribute::FwMask(number) => mask = Some(Fwmark(*number)),
            RuleAttribute::IpProtocol(number) => {
                let protocols = [Protocol::Udp, Protocol::Tcp];
                let number = u8::from(*number);
                selector.protocol = protocols.into_iter().find(|one| one.number() == number);
                rule.opaque |= selector.protocol.is_none();
            }
            RuleAttribute::DestinationPortRange(range) => {
                selector.ports = PortRange::new(range.start, range.end).ok();
                rule.opaque |= selector.ports.is_none();
            }
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            RuleAttribute::Other(other) if PORT_MASKS.contains(&other.kind()) => {
                let mut value = vec![0; other.value_len()];
                other.emit_value(&mut value);
                rule.opaque |= value.iter().any(|byte| *byte != 0xff);
            }
            _ => rule.opaque = true,
        }
    }
    rule.selector.mark = match (mark, mask) {
        (None, None) => None,
        (mark, mask) => Some((mark.unwrap_or(Fwmark(0)), mask.unwrap_or(Fwmark(u32::MAX)))),
    };
    Some(rule)
}

/// Parses the mark of an inverted rule, if the mask has all bits.
pub(super) fn inverted_mark(message: &RuleMessage) -> Option<Fwmark> {
    let attributes = &message.attributes;
    let has_full_mask = attributes
        .iter()
        .all(|attribute| !matches!(attribute, RuleAttribute::FwMask(mask) if *mask != u32::MAX));
    let mark = attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::FwMark(mark) => Some(Fwmark(*mark)),
        _ => None,
    });
    mark.filter(|_| has_full_mask && message.header.flags.contains(RuleFlags::Invert))
}

/// Builds the message of a rule with all its selectors: a deletion with fewer would delete the first rule that matches.
pub(super) fn rule_message(rule: &RoutingRule) -> RuleMessage {
    let RuleSelector {
        iif,
        oif,
        mark,
        protocol,
        ports,
    } = &rule.selector;
    let mut message = RuleMessage::default();
    message.header.family = address_family(rule.family);
    message.header.action = RuleAction::ToTable;
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority.0));
    attributes.push(RuleAttribute::Protocol(rule.protocol.0.into()));
    attributes.push(RuleAttribute::Table(rule.table.0));
    attributes.extend(iif.clone().map(RuleAttribute::Iifname));
    attributes.extend(oif.clone().map(RuleAttribute::Oifname));
    if let Some((mark, mask)) = mark {
        attributes.push(RuleAttribute::FwMark(mark.0));
        attributes.push(RuleAttribute::FwMask(mask.0));
    }
    attributes.extend(protocol.map(|protocol| RuleAttribute::IpProtocol(protocol.number().into())));
    attributes.extend(ports.map(|ports| {
        RuleAttribute::DestinationPortRange(RulePortRange {
            start: ports.first(),
            end: ports.last(),
        })
    }));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_message_parses_to_the_same_value() {
        let routes = [
            ("0.0.0.0/0", Some("192.0.2.1")),
            ("0.0.0.0/0", Some("fe80::1")),
            ("::/0", Some("fe80::1")),
            ("10.0.0.0/8", None),
            ("2001:db8::/32", None),
        ];
        for (prefix, via) in routes {
            let built = Route {
                table: RouteTable(30316),
                prefix: prefix.parse().expect("a prefix"),
                metric: 1,
                protocol: RouteProtocol(118),
                unicast: true,
                hops: vec![Nexthop {
                    link: Some(IfIndex(2)),
                    via: via.map(|via| via.parse().expect("an address")),
                }],
            };
            assert_eq!(route(&route_message(&built)), Some(built));
        }
        let selectors = [
            RuleSelector {
                oif: Some("eth0".to_owned()),
                mark: Some((Fwmark(0x7600_0000), Fwmark(0xff00_0000))),
                ..RuleSelector::default()
            },
            RuleSelector {
                iif: Some("lo".to_owned()),
                protocol: Some(Protocol::Udp),
                ports: Some("10000-60000".parse().expect("ports")),
                ..RuleSelector::default()
            },
        ];
        for (family, selector) in [Family::V4, Family::V6].into_iter().zip(selectors) {
            let built = RoutingRule {
                family,
                priority: RulePriority(97),
                protocol: RouteProtocol(118),
                table: RouteTable(30317),
                selector,
                opaque: false,
            };
            assert_eq!(rule(&rule_message(&built)), Some(built));
        }
    }

    #[test]
    fn a_rule_with_other_attributes_is_opaque() {
        let plain = RuleMessage::default;
        let opaque = |change: fn(&mut RuleMessage)| {
            let mut message = plain();
            message.header.family = AddressFamily::Inet;
            message.header.action = RuleAction::ToTable;
            change(&mut message);
            rule(&message).expect("an IPv4 rule").opaque
        };
        assert!(!opaque(|_| {}));
        assert!(!opaque(|m| m
            .attributes
            .push(RuleAttribute::SuppressPrefixLen(u32::MAX))));
        assert!(opaque(|m| m
            .attributes
            .push(RuleAttribute::SuppressPrefixLen(0))));
        assert!(opaque(|m| m.header.flags |= RuleFlags::Invert));
        assert!(opaque(|m| m.header.action = RuleAction::Unreachable));
        assert!(opaque(|m| m.header.src_len = 8));
        assert!(opaque(|m| m
            .attributes
            .push(RuleAttribute::IpProtocol(1.into()))));
    }
}
