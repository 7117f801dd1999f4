//! Links, addresses, routes and rules of a namespace, by rtnetlink(7).

use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, route::RouteHeader};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{DualAddress, Namespace};
use crate::net::{Family, Fwmark, RouteTable};

/// The next hop of a route.
#[derive(Clone, Copy, Debug)]
pub enum NextHop {
    /// A neighbour.
    Gateway(IpAddr),
    /// An interface without neighbours.
    Device(&'static str),
}

/// A netlink socket in one namespace.
#[derive(Debug)]
pub struct NetlinkSocket(Handle);

/// Joins two namespaces by a veth link, whose ends are then up.
///
/// # Errors
/// The kernel refuses the link.
pub fn join(left: &Namespace, name: &str, right: &Namespace, far_name: &str) -> anyhow::Result<()> {
    let there = right.handle().as_raw_fd();
    configure(left, async move |net| {
        net.add_veth(name, there, far_name).await
    })?;
    configure(right, async move |net| net.adopt(far_name).await)
}

/// Adds an address of each family to an interface; `v4_bits` is the prefix length for IPv4.
///
/// # Errors
/// The kernel refuses an address.
pub fn add_addresses(
    namespace: &Namespace,
    interface: &str,
    address: DualAddress,
    families: &[Family],
    v4_bits: u8,
) -> anyhow::Result<()> {
    configure(namespace, async move |net| {
        for &family in families {
            net.add_address(interface, address.on_link(family, v4_bits))
                .await?;
        }
        Ok(())
    })
}

/// Runs `job` in the namespace with a netlink socket.
///
/// # Errors
/// The error of `job`, or the netlink socket does not open.
pub fn configure(
    namespace: &Namespace,
    job: impl AsyncFnOnce(&NetlinkSocket) -> anyhow::Result<()> + Send,
) -> anyhow::Result<()> {
    namespace.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            job(&NetlinkSocket(handle)).await
        })
    })
}

impl NetlinkSocket {
    /// Makes a veth link with one end here, which is up, and moves the other end into the namespace `there`.
    async fn add_veth(&self, end: &str, there: RawFd, far_end: &str) -> anyhow::Result<()> {
        // The far end has a unique name until it has moved: this namespace may have an interface of that name.
        let moving = format!("to-{far_end}");
        let veth = LinkVeth::new(end, &moving).build();
        self.0.link().add(veth).execute().await?;
        let moved = LinkUnspec::new_with_name(&moving)
            .setns_by_fd(there)
            .build();
        self.0.link().set(moved).execute().await?;
        self.set_up(end).await
    }

    /// Renames the moved end of a veth link and brings it up.
    async fn adopt(&self, end: &str) -> anyhow::Result<()> {
        let index = self.index_of(&format!("to-{end}")).await?;
        let renamed = LinkUnspec::new_with_index(index).name(end).up().build();
        Ok(self.0.link().set(renamed).execute().await?)
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub async fn set_up(&self, interface: &str) -> anyhow::Result<()> {
        let up = LinkUnspec::new_with_name(interface).up().build();
        Ok(self.0.link().set(up).execute().await?)
    }

    /// Sets the MTU of an interface, in bytes.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub async fn set_mtu(&self, interface: &str, mtu: u32) -> anyhow::Result<()> {
        let mtu = LinkUnspec::new_with_name(interface).mtu(mtu).build();
        Ok(self.0.link().set(mtu).execute().await?)
    }

    /// Adds an address with its on-link prefix to an interface.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub async fn add_address(&self, interface: &str, address: IpNet) -> anyhow::Result<()> {
        let index = self.index_of(interface).await?;
        let mut request = self
            .0
            .address()
            .add(index, address.addr(), address.prefix_len());
        // No other host can have the address, so it is usable at once.
        request.message_mut().header.flags = AddressHeaderFlags::Nodad;
        request
            .execute()
            .await
            .with_context(|| format!("cannot give {interface} the address {address}"))
    }

    /// Adds a route to a table, without one to the main table.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub async fn add_route(
        &self,
        to: IpNet,
        next_hop: NextHop,
        table: Option<RouteTable>,
    ) -> anyhow::Result<()> {
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.addr(), to.prefix_len())?
            .table_id(table.map_or(RouteHeader::RT_TABLE_MAIN.into(), |RouteTable(id)| id));
        let route = match next_hop {
            NextHop::Gateway(gateway) => route.gateway(gateway)?,
            NextHop::Device(name) => route.output_interface(self.index_of(name).await?),
        };
        self.0
            .route()
            .add(route.build())
            .execute()
            .await
            .with_context(|| format!("cannot add a route to {to}"))
    }

    /// Adds the two rules of wg-quick(8), at the priorities that the kernel chooses. Packets without the mark `own` look up
    /// `table`, unless the main table has a more specific route than its default route.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub async fn add_full_tunnel_rules(
        &self,
        family: Family,
        own: Fwmark,
        table: RouteTable,
    ) -> anyhow::Result<()> {
        let tunnel = RuleAttribute::Table(table.0);
        self.add_rule(
            family,
            RouteHeader::RT_TABLE_UNSPEC,
            RuleFlags::Invert,
            vec![RuleAttribute::FwMark(own.0), tunnel],
        )
        .await?;
        self.add_rule(
            family,
            RouteHeader::RT_TABLE_MAIN,
            RuleFlags::empty(),
            vec![RuleAttribute::SuppressPrefixLen(0)],
        )
        .await
    }

    async fn add_rule(
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

    async fn index_of(&self, interface: &str) -> anyhow::Result<u32> {
        let name = interface.to_owned();
        let mut found = self.0.link().get().match_name(name).execute();
        let link = found.try_next().await?;
        Ok(link
            .with_context(|| format!("no interface {interface}"))?
            .header
            .index)
    }
}
