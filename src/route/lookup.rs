//! The kernel's routing decision for a packet, by all rules and routes, foreign ones included.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::TryStreamExt;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType,
};

use super::netlink::{Rtnetlink, answer};
use crate::net::{Family, Fwmark, IfIndex, Protocol, RouteTable};

/// `RTA_IP_PROTO`, `RTA_SPORT` and `RTA_DPORT` (linux/rtnetlink.h), which netlink-packet-route does not name.
const PROTOCOL: u16 = 27;
const SOURCE_PORT: u16 = 28;
const DESTINATION_PORT: u16 = 29;

/// The packet of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketKey {
    /// Protocol.
    pub protocol: Protocol,
    /// Destination.
    pub to: SocketAddr,
    /// Source address and port; the port 0 and an unspecified address are those of an unbound socket.
    pub from: SocketAddr,
    /// Mark of the socket.
    pub mark: Fwmark,
    /// Link to which the socket is bound.
    pub device: Option<IfIndex>,
    /// User of the socket; none for the calling user.
    pub user: Option<u32>,
}

impl PacketKey {
    /// An unmarked packet of the calling user from an unbound socket.
    #[must_use]
    pub fn new(protocol: Protocol, to: SocketAddr) -> Self {
        Self {
            protocol,
            to,
            from: SocketAddr::new(Family::of(to.ip()).unspecified(), 0),
            mark: Fwmark(0),
            device: None,
            user: None,
        }
    }
}

/// The kind of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// To other hosts.
    Unicast,
    /// To this machine.
    Local,
    /// To all hosts of a link, or to a group.
    Multicast,
    /// Any other kind.
    Other,
}

/// The routing decision for a packet of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingDecision {
    /// Link by which the packet leaves; none if it is dropped.
    pub link: Option<IfIndex>,
    /// Table with the matching route.
    pub table: RouteTable,
    /// Kind of the route.
    pub kind: RouteKind,
    /// Whether the next hop is a router.
    pub has_gateway: bool,
}

impl Rtnetlink {
    /// Returns the routing decision for a packet.
    ///
    /// Needs no privilege and sends no packet.
    ///
    /// # Errors
    /// The kernel's error. A destination without a route is an error too: `ENETUNREACH`, `EACCES`.
    pub async fn lookup(&self, key: PacketKey) -> io::Result<RoutingDecision> {
        let mut request = RouteMessage::default();
        let family = Family::of(key.to.ip());
        request.header.address_family = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        request.header.destination_prefix_length = family.bits();
        request.header.flags = RouteFlags::LookupTable;
        let port = |kind, port: u16| {
            RouteAttribute::Other(DefaultNla::new(kind, port.to_be_bytes().to_vec()))
        };
        request.attributes = vec![
            RouteAttribute::Destination(address(key.to.ip())),
            RouteAttribute::Other(DefaultNla::new(PROTOCOL, vec![key.protocol.number()])),
            port(DESTINATION_PORT, key.to.port()),
        ];
        if key.mark.0 != 0 {
            request.attributes.push(RouteAttribute::Mark(key.mark.0));
        }
        if key.from.port() != 0 {
            request.attributes.push(port(SOURCE_PORT, key.from.port()));
        }
        if !key.from.ip().is_unspecified() {
            request.header.source_prefix_length = family.bits();
            let source = RouteAttribute::Source(address(key.from.ip()));
            request.attributes.push(source);
        }
        let device = key.device.map(|link| RouteAttribute::Oif(link.0));
        request.attributes.extend(device);
        request.attributes.extend(key.user.map(RouteAttribute::Uid));
        let answers = self.handle.route().get(request).execute();
        let answers = self
            .connection
            .exchange(answers.try_collect::<Vec<_>>())
            .await?;
        let answers = answers.map_err(answer)?;
        let found = answers.first().ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut decision = RoutingDecision {
            link: None,
            table: RouteTable(found.header.table.into()),
            kind: match found.header.kind {
                RouteType::Unicast => RouteKind::Unicast,
                RouteType::Local => RouteKind::Local,
                RouteType::Multicast | RouteType::Broadcast => RouteKind::Multicast,
                _ => RouteKind::Other,
            },
            has_gateway: false,
        };
        for attribute in &found.attributes {
            match attribute {
                RouteAttribute::Oif(link) => decision.link = Some(IfIndex(*link)),
                RouteAttribute::Table(table) => decision.table = RouteTable(*table),
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => decision.has_gateway = true,
                _ => {}
            }
        }
        Ok(decision)
    }
}

fn address(addr: IpAddr) -> RouteAddress {
    match addr {
        IpAddr::V4(addr) => RouteAddress::Inet(addr),
        IpAddr::V6(addr) => RouteAddress::Inet6(addr),
    }
}
