//! The world: a laptop at home, its router, the internet, a VPN gateway, the media cloud and one other host.
//!
//! ```text
//! laptop --- home router (NAT) --- internet --+-- VPN gateway
//!  eth0      lan           wan                +-- media cloud
//!  wg0                                        +-- another host
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::Context as _;
use ipnet::IpNet;

use super::link::{Net, Via, configure};
use super::namespace::Node;
use super::wireguard;
use crate::net::{Family, Fwmark, RouteTable};
use crate::nftables::{self, NftError};

/// A host's two addresses.
#[derive(Clone, Copy)]
pub(super) struct Dual {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Dual {
    const fn new(v4: [u8; 4], subnet: u16, host: u16) -> Self {
        let [a, b, c, d] = v4;
        Self {
            v4: Ipv4Addr::new(a, b, c, d),
            v6: Ipv6Addr::new(0x2001, 0xdb8, subnet, 0, 0, 0, 0, host),
        }
    }

    /// The address of one family.
    pub(super) fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// The address with the prefix of its link: `len` bits of IPv4, 64 of IPv6.
    fn on_link(self, family: Family, len: u8) -> IpNet {
        let len = match family {
            Family::V4 => len,
            Family::V6 => 64,
        };
        IpNet::new_assert(self.of(family), len)
    }
}

/// The laptop at home.
pub(super) const LAPTOP: Dual = Dual::new([192, 168, 178, 20], 0x10, 0x20);
const HOME_LAN: Dual = Dual::new([192, 168, 178, 1], 0x10, 1);
/// The home router's public address.
pub(super) const HOME: Dual = Dual::new([198, 51, 100, 10], 0x11, 0x10);
const PROVIDER: Dual = Dual::new([198, 51, 100, 1], 0x11, 1);
/// The laptop inside the VPN.
pub(super) const TUNNEL: Dual = Dual::new([10, 8, 0, 2], 0x8, 2);
const TUNNEL_GATEWAY: Dual = Dual::new([10, 8, 0, 1], 0x8, 1);
/// The VPN gateway's public address.
pub(super) const GATEWAY: Dual = Dual::new([203, 0, 113, 10], 0x12, 0x10);
const GATEWAY_ROUTER: Dual = Dual::new([203, 0, 113, 1], 0x12, 1);
/// The media server: IPv4 in Talkdesk's range, IPv6 in documentation space, since Talkdesk publishes none.
pub(super) const MEDIA: Dual = Dual::new([168, 86, 150, 20], 0xc10d, 0x20);
/// Another server of the cloud, with which the laptop has no call.
pub(super) const STRANGER: Dual = Dual::new([168, 86, 150, 21], 0xc10d, 0x21);
const CLOUD_ROUTER: Dual = Dual::new([168, 86, 128, 1], 0xc10d, 1);
/// One of Talkdesk's network-test hosts, in the cloud too; IPv4 only.
pub(super) const TEST_HOST: Ipv4Addr = Ipv4Addr::new(54, 169, 53, 114);
/// A host that no policy names.
pub(super) const OTHER: Dual = Dual::new([192, 0, 2, 53], 0x53, 0x53);
const OTHER_ROUTER: Dual = Dual::new([192, 0, 2, 1], 0x53, 1);

/// The IPv6 prefix of the media cloud: what the demo's policy adds to Talkdesk's.
pub(super) const MEDIA_PREFIX_V6: &str = "2001:db8:c10d::/64";

const CLOUD_PREFIX_LEN: u8 = 18;
const TUNNEL_MTU: u32 = 1420;
const TUNNEL_MARK: Fwmark = Fwmark(51_820);
const TUNNEL_TABLE: RouteTable = RouteTable(51_820);

/// The hosts, their cables, and how the home router translates.
pub(super) struct World {
    /// Where the caller is, and the VPN's client, and voicelane.
    pub(super) laptop: Node,
    /// The home router.
    pub(super) home: Node,
    /// The VPN's gateway.
    pub(super) gateway: Node,
    /// Where the media servers are.
    pub(super) cloud: Node,
    /// A host that no policy names.
    pub(super) other: Node,
    /// The families that this kernel has.
    pub(super) families: &'static [Family],
    nat: Option<[nftables::NftTable; 2]>,
    _internet: Node,
}

impl World {
    /// Builds the hosts, the cables and the routes between them.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(super) fn build() -> anyhow::Result<Self> {
        let families: &'static [Family] = if Path::new("/proc/sys/net/ipv6").exists() {
            &[Family::V4, Family::V6]
        } else {
            &[Family::V4]
        };
        let [laptop, home, internet, gateway, cloud, other] =
            ["laptop", "home", "internet", "gateway", "cloud", "other"]
                .map(|name| host(name, families));
        let (laptop, home, internet, gateway, cloud, other) =
            (laptop?, home?, internet?, gateway?, cloud?, other?);

        // As Ubuntu sets it: a packet may come in by another interface than the best one, if by one with an address.
        laptop.set("ipv4/conf/all/rp_filter", "2")?;
        laptop.set("ipv4/conf/default/rp_filter", "2")?;
        laptop.set("ipv4/ping_group_range", "0 0")?;
        for router in [&home, &internet, &gateway] {
            router.set("ipv4/ip_forward", "1")?;
            if families.contains(&Family::V6) {
                router.set("ipv6/conf/all/forwarding", "1")?;
            }
        }

        let cables = [
            Cable::new((&laptop, "eth0", LAPTOP), (&home, "lan", HOME_LAN)),
            Cable::new((&home, "wan", HOME), (&internet, "home", PROVIDER)),
            Cable::new(
                (&gateway, "eth0", GATEWAY),
                (&internet, "gateway", GATEWAY_ROUTER),
            ),
            Cable::new((&cloud, "eth0", MEDIA), (&internet, "cloud", CLOUD_ROUTER))
                .wide(CLOUD_PREFIX_LEN),
            Cable::new((&other, "eth0", OTHER), (&internet, "other", OTHER_ROUTER)),
        ];
        for cable in cables {
            cable.lay(families)?;
        }
        configure(&cloud, async move |net| {
            for &family in families {
                net.address("eth0", STRANGER.on_link(family, CLOUD_PREFIX_LEN))
                    .await?;
            }
            net.address("eth0", IpAddr::from(TEST_HOST).into()).await
        })?;
        // The internet knows the way to the laptop's own address too, as if the home router were told to let
        // everything in: what nobody asked for must reach voicelane to be refused by it.
        configure(&internet, async move |net| {
            let to_cloud = Via::Gateway(MEDIA.of(Family::V4));
            net.route(IpAddr::from(TEST_HOST).into(), to_cloud, None)
                .await?;
            for &family in families {
                for (inside, router) in [(LAPTOP, HOME), (TUNNEL, GATEWAY)] {
                    let subnet = inside.on_link(family, 24).trunc();
                    net.route(subnet, Via::Gateway(router.of(family)), None)
                        .await?;
                }
            }
            Ok(())
        })?;
        let nat = masquerade(&home, &gateway)?;
        Ok(Self {
            laptop,
            home,
            gateway,
            cloud,
            other,
            families,
            nat,
            _internet: internet,
        })
    }

    /// Whether the routers translate IPv4 sources; false when this kernel has no nftables, and they only route.
    pub(super) fn translates(&self) -> bool {
        self.nat.is_some()
    }

    /// Brings the VPN up: a tunnel between laptop and gateway that takes all the laptop's traffic.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(super) fn connect_vpn(&self) -> anyhow::Result<()> {
        let families = self.families;
        let server = (GATEWAY.of(Family::V4), wireguard::PORT).into();
        wireguard::connect(&self.laptop, &self.gateway, server, TUNNEL_MARK)?;
        for (node, address) in [(&self.laptop, TUNNEL), (&self.gateway, TUNNEL_GATEWAY)] {
            configure(node, async move |net| {
                net.mtu(wireguard::INTERFACE, TUNNEL_MTU).await?;
                net.up(wireguard::INTERFACE).await?;
                for &family in families {
                    net.address(wireguard::INTERFACE, address.on_link(family, 24))
                        .await?;
                }
                Ok(())
            })?;
        }
        // What wg-quick does for AllowedIPs = 0.0.0.0/0, ::/0.
        self.laptop.set("ipv4/conf/all/src_valid_mark", "1")?;
        configure(&self.laptop, async move |net| {
            for &family in families {
                let tunnel = Via::Device(wireguard::INTERFACE);
                net.route(everything(family), tunnel, Some(TUNNEL_TABLE))
                    .await?;
                net.full_tunnel_rules(family, TUNNEL_MARK, TUNNEL_TABLE)
                    .await?;
            }
            Ok(())
        })
    }
}

/// A cable between a host and the router that is its way out.
struct Cable<'a> {
    host: (&'a Node, &'static str, Dual),
    router: (&'a Node, &'static str, Dual),
    prefix_len: u8,
}

impl<'a> Cable<'a> {
    fn new(host: (&'a Node, &'static str, Dual), router: (&'a Node, &'static str, Dual)) -> Self {
        Self {
            host,
            router,
            prefix_len: 24,
        }
    }

    fn wide(self, prefix_len: u8) -> Self {
        Self { prefix_len, ..self }
    }

    fn lay(self, families: &'static [Family]) -> anyhow::Result<()> {
        let (host, host_end, host_address) = self.host;
        let (router, router_end, router_address) = self.router;
        let prefix_len = self.prefix_len;
        let there = router.namespace().try_clone()?;
        configure(host, async move |net| {
            net.cable(host_end, &there, router_end).await
        })?;
        configure(router, async move |net| {
            net.plug(router_end).await?;
            give(net, router_end, router_address, families, prefix_len).await
        })?;
        configure(host, async move |net| {
            give(net, host_end, host_address, families, prefix_len).await?;
            for &family in families {
                let way_out = Via::Gateway(router_address.of(family));
                net.route(everything(family), way_out, None).await?;
            }
            Ok(())
        })
    }
}

async fn give(
    net: &Net,
    interface: &str,
    address: Dual,
    families: &[Family],
    len: u8,
) -> anyhow::Result<()> {
    for &family in families {
        net.address(interface, address.on_link(family, len)).await?;
    }
    Ok(())
}

fn host(name: &'static str, families: &[Family]) -> anyhow::Result<Node> {
    let node = Node::new(name)?;
    node.set("ipv4/conf/all/rp_filter", "0")?;
    node.set("ipv4/conf/default/rp_filter", "0")?;
    if families.contains(&Family::V6) {
        // Link-local addresses need no second either.
        node.set("ipv6/conf/default/accept_dad", "0")?;
        node.set("ipv6/conf/default/disable_ipv6", "0")?;
    }
    configure(&node, async |net| net.up("lo").await)?;
    Ok(node)
}

fn everything(family: Family) -> IpNet {
    let unspecified: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNet::new_assert(unspecified, 0)
}

/// Has both routers translate the IPv4 of those behind them; `None` when the kernel has no nftables.
fn masquerade(home: &Node, gateway: &Node) -> anyhow::Result<Option<[nftables::NftTable; 2]>> {
    let home = home.enter(|| nftables::masquerade("wan"));
    let gateway = gateway.enter(|| nftables::masquerade("eth0"));
    match (home, gateway) {
        (Ok(home), Ok(gateway)) => Ok(Some([home, gateway])),
        (Err(NftError::Unsupported(_)), _) | (_, Err(NftError::Unsupported(_))) => Ok(None),
        (Err(error), _) | (_, Err(error)) => Err(error).context("a router cannot translate"),
    }
}
