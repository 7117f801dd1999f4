//! Links, addresses, routes and rules of one node, by rtnetlink.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, route::RouteHeader};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::namespace::Node;
use crate::net::{Family, Fwmark, RouteTable};

/// Where a route leads.
pub(super) enum Via {
    /// To a neighbour.
    Gateway(IpAddr),
    /// Out of an interface.
    Device(&'static str),
}

/// A netlink socket in one node's namespace.
pub(super) struct Net(Handle);

/// Configures `node`: runs `job` in its namespace with a netlink socket there.
///
/// # Errors
/// What the kernel refused.
pub(super) fn configure(
    node: &Node,
    job: impl AsyncFnOnce(&Net) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    node.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            job(&Net(handle)).await
        })
    })
}

impl Net {
    /// Makes a cable: one end here, the other in `there`'s namespace.
    pub(super) async fn cable(&self, end: &str, there: &File, far_end: &str) -> anyhow::Result<()> {
        // The far end is made here under a name that no other has, and renamed as it moves.
        let moving = format!("to-{far_end}");
        let veth = LinkVeth::new(end, &moving).build();
        self.0.link().add(veth).execute().await?;
        let moved = LinkUnspec::new_with_name(&moving)
            .setns_by_fd(there.as_raw_fd())
            .build();
        self.0.link().set(moved).execute().await?;
        self.up(end).await
    }

    /// Takes in the end of a cable that another node made.
    pub(super) async fn plug(&self, end: &str) -> anyhow::Result<()> {
        let index = self.index(&format!("to-{end}")).await?;
        let renamed = LinkUnspec::new_with_index(index).name(end).up().build();
        Ok(self.0.link().set(renamed).execute().await?)
    }

    /// Brings an interface up.
    pub(super) async fn up(&self, interface: &str) -> anyhow::Result<()> {
        let up = LinkUnspec::new_with_name(interface).up().build();
        Ok(self.0.link().set(up).execute().await?)
    }

    /// Sets the largest packet that an interface takes.
    pub(super) async fn mtu(&self, interface: &str, mtu: u32) -> anyhow::Result<()> {
        let mtu = LinkUnspec::new_with_name(interface).mtu(mtu).build();
        Ok(self.0.link().set(mtu).execute().await?)
    }

    /// Gives an interface an address and the prefix that is on its link.
    pub(super) async fn address(&self, interface: &str, address: IpNet) -> anyhow::Result<()> {
        let index = self.index(interface).await?;
        let mut request = self
            .0
            .address()
            .add(index, address.addr(), address.prefix_len());
        // Nobody else is on these links: the address is usable at once.
        request.message_mut().header.flags = AddressHeaderFlags::Nodad;
        request
            .execute()
            .await
            .with_context(|| format!("cannot give {interface} the address {address}"))
    }

    /// Adds a route; `table` is the main one where absent.
    pub(super) async fn route(
        &self,
        to: IpNet,
        via: Via,
        table: Option<RouteTable>,
    ) -> anyhow::Result<()> {
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.addr(), to.prefix_len())?
            .table_id(table.map_or(RouteHeader::RT_TABLE_MAIN.into(), |RouteTable(id)| id));
        let route = match via {
            Via::Gateway(gateway) => route.gateway(gateway)?,
            Via::Device(name) => route.output_interface(self.index(name).await?),
        };
        self.0
            .route()
            .add(route.build())
            .execute()
            .await
            .with_context(|| format!("cannot add a route to {to}"))
    }

    /// Adds the two rules of wg-quick, at the priorities that the kernel picks: all but the tunnel's own datagrams
    /// go to `table`, unless the main table has something better than a default route.
    pub(super) async fn full_tunnel_rules(
        &self,
        family: Family,
        own: Fwmark,
        table: RouteTable,
    ) -> anyhow::Result<()> {
        let tunnel = RuleAttribute::Table(table.0);
        self.rule(
            family,
            RouteHeader::RT_TABLE_UNSPEC,
            RuleFlags::Invert,
            vec![RuleAttribute::FwMark(own.0), tunnel],
        )
        .await?;
        self.rule(
            family,
            RouteHeader::RT_TABLE_MAIN,
            RuleFlags::empty(),
            vec![RuleAttribute::SuppressPrefixLen(0)],
        )
        .await
    }

    async fn rule(
        &self,
        family: Family,
        table: u8,
        flags: RuleFlags,
        attributes: Vec<RuleAttribute>,
    ) -> anyhow::Result<()> {
        let mut message = RuleMessage::default();
        message.header.family = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        message.header.table = table;
        message.header.action = RuleAction::ToTable;
        message.header.flags = flags;
        message.attributes = attributes;
        let mut request = self.0.rule().add();
        *request.message_mut() = message;
        request.execute().await.context("cannot add a routing rule")
    }

    async fn index(&self, interface: &str) -> anyhow::Result<u32> {
        let name = interface.to_owned();
        let mut found = self.0.link().get().match_name(name).execute();
        let link = found.try_next().await?;
        Ok(link
            .with_context(|| format!("no interface {interface}"))?
            .header
            .index)
    }
}
