//! The network of the demo: a laptop at home, its router, the internet, a VPN gateway, the media cloud and another host.
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

use super::wireguard;
use crate::lab::link::{NextHop, add_addresses, configure, join};
use crate::lab::{DualAddress, Namespace};
use crate::net::{Family, Fwmark, RouteTable};
use crate::nftables::{self, NftError};

const fn dual(v4: [u8; 4], subnet: u16, host: u16) -> DualAddress {
    let [a, b, c, d] = v4;
    DualAddress {
        v4: Ipv4Addr::new(a, b, c, d),
        v6: Ipv6Addr::new(0x2001, 0xdb8, subnet, 0, 0, 0, 0, host),
    }
}

/// The laptop at home.
pub(super) const LAPTOP: DualAddress = dual([192, 168, 178, 20], 0x10, 0x20);
const HOME_LAN: DualAddress = dual([192, 168, 178, 1], 0x10, 1);
/// The home router's public address.
pub(super) const HOME: DualAddress = dual([198, 51, 100, 10], 0x11, 0x10);
const PROVIDER: DualAddress = dual([198, 51, 100, 1], 0x11, 1);
/// The laptop inside the VPN.
pub(super) const TUNNEL: DualAddress = dual([10, 8, 0, 2], 0x8, 2);
const TUNNEL_GATEWAY: DualAddress = dual([10, 8, 0, 1], 0x8, 1);
/// The VPN gateway's public address.
pub(super) const GATEWAY: DualAddress = dual([203, 0, 113, 10], 0x12, 0x10);
const GATEWAY_ROUTER: DualAddress = dual([203, 0, 113, 1], 0x12, 1);
/// The media server: IPv4 in Talkdesk's range, IPv6 in documentation space, since Talkdesk publishes none.
pub(super) const MEDIA: DualAddress = dual([168, 86, 150, 20], 0xc10d, 0x20);
/// Another server of the cloud, without a call to the laptop.
pub(super) const STRANGER: DualAddress = dual([168, 86, 150, 21], 0xc10d, 0x21);
const CLOUD_ROUTER: DualAddress = dual([168, 86, 128, 1], 0xc10d, 1);
/// One of Talkdesk's network-test hosts, also in the cloud. IPv4 only.
pub(super) const TEST_HOST: Ipv4Addr = Ipv4Addr::new(54, 169, 53, 114);
/// A host outside every policy.
pub(super) const OTHER: DualAddress = dual([192, 0, 2, 53], 0x53, 0x53);
const OTHER_ROUTER: DualAddress = dual([192, 0, 2, 1], 0x53, 1);

/// The IPv6 prefix of the media cloud, which the demo's policy adds to Talkdesk's.
pub(super) const MEDIA_PREFIX_V6: &str = "2001:db8:c10d::/64";

const CLOUD_PREFIX_LEN: u8 = 18;
const TUNNEL_MTU: u32 = 1420;
const TUNNEL_MARK: Fwmark = Fwmark(51_820);
const TUNNEL_TABLE: RouteTable = RouteTable(51_820);

/// The hosts and their links.
pub(super) struct DemoNetwork {
    /// The caller, the VPN's client and voicelane.
    pub(super) laptop: Namespace,
    /// The home router.
    pub(super) home: Namespace,
    /// The VPN's gateway.
    pub(super) gateway: Namespace,
    /// The media servers.
    pub(super) cloud: Namespace,
    /// A host outside every policy.
    pub(super) other: Namespace,
    /// The address families of this kernel.
    pub(super) families: &'static [Family],
    nat: Option<[nftables::NftTable; 2]>,
    _internet: Namespace,
}

impl DemoNetwork {
    /// Builds the hosts, the links and the routes between them.
    ///
    /// # Errors
    /// The kernel refuses a namespace, a link, a route or a setting.
    pub(super) fn build() -> anyhow::Result<Self> {
        let families: &'static [Family] = if Path::new("/proc/sys/net/ipv6").exists() {
            &[Family::V4, Family::V6]
        } else {
            &[Family::V4]
        };
        let [laptop, home, internet, gateway, cloud, other] =
            ["laptop", "home", "internet", "gateway", "cloud", "other"]
                .map(|name| host(families).context(name));
        let (laptop, home, internet, gateway, cloud, other) =
            (laptop?, home?, internet?, gateway?, cloud?, other?);

        // Ubuntu's setting: a packet may arrive on another interface than the route to its source uses.
        laptop.set_sysctl("ipv4/conf/all/rp_filter", "2")?;
        laptop.set_sysctl("ipv4/conf/default/rp_filter", "2")?;
        laptop.set_sysctl("ipv4/ping_group_range", "0 0")?;
        for router in [&home, &internet, &gateway] {
            router.set_sysctl("ipv4/ip_forward", "1")?;
            if families.contains(&Family::V6) {
                router.set_sysctl("ipv6/conf/all/forwarding", "1")?;
            }
        }

        let links = [
            HostLink::new((&laptop, "eth0", LAPTOP), (&home, "lan", HOME_LAN)),
            HostLink::new((&home, "wan", HOME), (&internet, "home", PROVIDER)),
            HostLink::new(
                (&gateway, "eth0", GATEWAY),
                (&internet, "gateway", GATEWAY_ROUTER),
            ),
            HostLink::new((&cloud, "eth0", MEDIA), (&internet, "cloud", CLOUD_ROUTER))
                .with_prefix_len(CLOUD_PREFIX_LEN),
            HostLink::new((&other, "eth0", OTHER), (&internet, "other", OTHER_ROUTER)),
        ];
        for link in links {
            link.build(families)?;
        }
        add_addresses(&cloud, "eth0", STRANGER, families, CLOUD_PREFIX_LEN)?;
        configure(&cloud, async move |net| {
            net.add_address("eth0", IpAddr::from(TEST_HOST).into())
                .await
        })?;
        // The internet routes to the laptop's private address too, as if the home router forwarded everything: unsolicited
        // packets must reach voicelane, which drops them.
        configure(&internet, async move |net| {
            let to_cloud = NextHop::Gateway(MEDIA.of(Family::V4));
            net.add_route(IpAddr::from(TEST_HOST).into(), to_cloud, None)
                .await?;
            for &family in families {
                for (inside, router) in [(LAPTOP, HOME), (TUNNEL, GATEWAY)] {
                    let subnet = inside.on_link(family, 24).trunc();
                    net.add_route(subnet, NextHop::Gateway(router.of(family)), None)
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

    /// Returns whether the routers translate IPv4 sources. Without nftables in the kernel they only route.
    pub(super) fn translates(&self) -> bool {
        self.nat.is_some()
    }

    /// Brings the VPN up, which takes all traffic of the laptop.
    ///
    /// # Errors
    /// The kernel refuses the tunnel, its routes or its rules.
    pub(super) fn connect_vpn(&self) -> anyhow::Result<()> {
        let families = self.families;
        let server = (GATEWAY.of(Family::V4), wireguard::PORT).into();
        wireguard::connect(&self.laptop, &self.gateway, server, TUNNEL_MARK)?;
        for (host, address) in [(&self.laptop, TUNNEL), (&self.gateway, TUNNEL_GATEWAY)] {
            configure(host, async move |net| {
                net.set_mtu(wireguard::INTERFACE, TUNNEL_MTU).await?;
                net.set_up(wireguard::INTERFACE).await
            })?;
            add_addresses(host, wireguard::INTERFACE, address, families, 24)?;
        }
        // As wg-quick does for AllowedIPs = 0.0.0.0/0, ::/0.
        self.laptop
            .set_sysctl("ipv4/conf/all/src_valid_mark", "1")?;
        configure(&self.laptop, async move |net| {
            for &family in families {
                let tunnel = NextHop::Device(wireguard::INTERFACE);
                net.add_route(everything(family), tunnel, Some(TUNNEL_TABLE))
                    .await?;
                net.add_full_tunnel_rules(family, TUNNEL_MARK, TUNNEL_TABLE)
                    .await?;
            }
            Ok(())
        })
    }
}

/// The link between a host and the router of its default route.
struct HostLink<'a> {
    host: (&'a Namespace, &'static str, DualAddress),
    router: (&'a Namespace, &'static str, DualAddress),
    prefix_len: u8,
}

impl<'a> HostLink<'a> {
    fn new(
        host: (&'a Namespace, &'static str, DualAddress),
        router: (&'a Namespace, &'static str, DualAddress),
    ) -> Self {
        Self {
            host,
            router,
            prefix_len: 24,
        }
    }

    fn with_prefix_len(self, prefix_len: u8) -> Self {
        Self { prefix_len, ..self }
    }

    fn build(self, families: &'static [Family]) -> anyhow::Result<()> {
        let (host, host_end, host_address) = self.host;
        let (router, router_end, router_address) = self.router;
        join(host, host_end, router, router_end)?;
        add_addresses(
            router,
            router_end,
            router_address,
            families,
            self.prefix_len,
        )?;
        add_addresses(host, host_end, host_address, families, self.prefix_len)?;
        configure(host, async move |net| {
            for &family in families {
                let router = NextHop::Gateway(router_address.of(family));
                net.add_route(everything(family), router, None).await?;
            }
            Ok(())
        })
    }
}

fn host(families: &[Family]) -> anyhow::Result<Namespace> {
    let host = Namespace::new()?;
    host.set_sysctl("ipv4/conf/all/rp_filter", "0")?;
    host.set_sysctl("ipv4/conf/default/rp_filter", "0")?;
    if families.contains(&Family::V6) {
        // Link-local addresses are usable at once, too.
        host.set_sysctl("ipv6/conf/default/accept_dad", "0")?;
        host.set_sysctl("ipv6/conf/default/disable_ipv6", "0")?;
    }
    configure(&host, async |net| net.set_up("lo").await)?;
    Ok(host)
}

fn everything(family: Family) -> IpNet {
    IpNet::new_assert(family.unspecified(), 0)
}

/// Makes both routers translate the IPv4 sources of the hosts behind them; `None` when the kernel has no nftables.
fn masquerade(
    home: &Namespace,
    gateway: &Namespace,
) -> anyhow::Result<Option<[nftables::NftTable; 2]>> {
    let home = home.enter(|| nftables::masquerade("wan"));
    let gateway = gateway.enter(|| nftables::masquerade("eth0"));
    match (home, gateway) {
        (Ok(home), Ok(gateway)) => Ok(Some([home, gateway])),
        (Err(NftError::Unsupported(_)), _) | (_, Err(NftError::Unsupported(_))) => Ok(None),
        (Err(error), _) | (_, Err(error)) => {
            Err(error).context("a router cannot translate addresses")
        }
    }
}
