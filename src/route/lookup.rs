//! Where the kernel would send a packet now: its own answer, by all rules and routes, those of others included.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::TryStreamExt;
use netlink_packet_core::DefaultNla;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage};

use super::netlink::{Rtnetlink, answer};
use crate::net::{Family, IfIndex, Protocol, RouteTable};

/// `RTA_IP_PROTO` and `RTA_DPORT` (linux/rtnetlink.h), which the library does not name.
const PROTOCOL: u16 = 27;
const DESTINATION_PORT: u16 = 29;

/// The way of a packet that an application sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingDecision {
    /// The link that it leaves by; none when it is thrown away.
    pub link: Option<IfIndex>,
    /// The table that said so.
    pub table: RouteTable,
}

impl Rtnetlink {
    /// Asks for the way of a packet of the calling user, without a mark, from a socket that is bound to nothing. Wants
    /// no privilege, and sends nothing.
    ///
    /// # Errors
    /// The kernel's word, which is also its answer where there is no way: `ENETUNREACH`, `EACCES`.
    pub async fn lookup(&self, protocol: Protocol, to: SocketAddr) -> io::Result<RoutingDecision> {
        let mut question = RouteMessage::default();
        let (family, destination) = match to.ip() {
            IpAddr::V4(addr) => (AddressFamily::Inet, RouteAddress::Inet(addr)),
            IpAddr::V6(addr) => (AddressFamily::Inet6, RouteAddress::Inet6(addr)),
        };
        question.header.address_family = family;
        question.header.destination_prefix_length = Family::of(to.ip()).bits();
        question.header.flags = RouteFlags::LookupTable;
        let number = match protocol {
            Protocol::Tcp => nix::libc::IPPROTO_TCP,
            Protocol::Udp => nix::libc::IPPROTO_UDP,
        };
        let number = u8::try_from(number).expect("a protocol is an octet");
        let port = to.port().to_be_bytes().to_vec();
        question.attributes = vec![
            RouteAttribute::Destination(destination),
            RouteAttribute::Other(DefaultNla::new(PROTOCOL, vec![number])),
            RouteAttribute::Other(DefaultNla::new(DESTINATION_PORT, port)),
        ];
        let answers = self.handle.route().get(question).execute();
        let answers = self
            .connection
            .attend(answers.try_collect::<Vec<_>>())
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
