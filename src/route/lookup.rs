//! The kernel's routing decision for a packet, by all rules and routes, foreign ones included.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::TryStreamExt;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage};

use super::netlink::{Rtnetlink, answer};
use crate::net::{Family, IfIndex, Protocol, RouteTable};

/// `RTA_IP_PROTO` and `RTA_DPORT` (linux/rtnetlink.h), which netlink-packet-route does not name.
const PROTOCOL: u16 = 27;
const DESTINATION_PORT: u16 = 29;

/// The routing decision for a packet of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingDecision {
    /// Link by which the packet leaves; none if it is dropped.
    pub link: Option<IfIndex>,
    /// Table with the matching route.
    pub table: RouteTable,
}

impl Rtnetlink {
    /// Returns the routing decision for an unmarked packet of the calling user from an unbound socket.
    ///
    /// Needs no privilege and sends no packet.
    ///
    /// # Errors
    /// The kernel's error. A destination without a route is an error too: `ENETUNREACH`, `EACCES`.
    pub async fn lookup(&self, protocol: Protocol, to: SocketAddr) -> io::Result<RoutingDecision> {
        let mut request = RouteMessage::default();
        let (family, destination) = match to.ip() {
            IpAddr::V4(addr) => (AddressFamily::Inet, RouteAddress::Inet(addr)),
            IpAddr::V6(addr) => (AddressFamily::Inet6, RouteAddress::Inet6(addr)),
        };
        request.header.address_family = family;
        request.header.destination_prefix_length = Family::of(to.ip()).bits();
        request.header.flags = RouteFlags::LookupTable;
        let number = match protocol {
            Protocol::Tcp => nix::libc::IPPROTO_TCP,
            Protocol::Udp => nix::libc::IPPROTO_UDP,
        };
        let number = u8::try_from(number).expect("a protocol is an octet");
        let port = to.port().to_be_bytes().to_vec();
        request.attributes = vec![
            RouteAttribute::Destination(destination),
            RouteAttribute::Other(DefaultNla::new(PROTOCOL, vec![number])),
            RouteAttribute::Other(DefaultNla::new(DESTINATION_PORT, port)),
        ];
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
        };
        for attribute in &found.attributes {
            match attribute {
                RouteAttribute::Oif(link) => decision.link = Some(IfIndex(*link)),
                RouteAttribute::Table(table) => decision.table = RouteTable(*table),
                _ => {}
            }
        }
        Ok(decision)
    }
}
