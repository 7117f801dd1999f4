//! The uplink of a family, and the effect of its change on open sockets.

use std::net::IpAddr;

use socket2::Socket;

use crate::control::UplinkStatus;
use crate::net::{self, Dscp, Endpoint, Family, Fwmark, IfIndex, Inside, PerFamily, Treatment};
use crate::relay::{SocketFactory, SocketSetupError, TunnelLinks};
use crate::route::desired::Uplink;
use crate::route::observed::{InterfaceAddress, Observed};

/// A family's uplink and the addresses that it has of that family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UplinkBinding {
    pub(super) family: Family,
    pub(super) uplink: Uplink,
    addresses: Vec<IpAddr>,
    pub(super) sockets: SocketFactory,
}

/// The uplink of each family that has one.
pub(super) type UplinkBindings = PerFamily<Option<UplinkBinding>>;

/// The families whose open sockets must be replaced when the uplinks change.
pub(super) type Moves = PerFamily<bool>;

impl UplinkBinding {
    /// `marks` are the marks of direct sockets and of tunnel sockets.
    pub(super) fn new(
        family: Family,
        uplink: Uplink,
        observed: &Observed,
        marks: (Fwmark, Fwmark),
    ) -> Self {
        let addresses = observed
            .addresses
            .iter()
            .filter(|address| address.link == uplink.index)
            .map(|address| address.addr)
            .filter(|addr| Family::of(*addr) == family && !is_link_local(*addr));
        let sockets = SocketFactory {
            device: uplink.name.clone(),
            mark: marks.0,
            tunnel_mark: marks.1,
        };
        Self {
            family,
            addresses: addresses.collect(),
            uplink,
            sockets,
        }
    }

    /// Whether open sockets must be replaced after a change from `previous`.
    ///
    /// Sockets are bound to a link and have a mark, so a new link or mark needs new sockets. A link that was created
    /// again under the same name is a new link. A removed address invalidates the sockets that use it; an added address
    /// changes nothing.
    pub(super) fn needs_new_sockets_since(&self, previous: &Self) -> bool {
        let key = |binding: &Self| {
            let sockets = &binding.sockets;
            (binding.uplink.index, sockets.device.clone(), sockets.mark)
        };
        let mut previous_addresses = previous.addresses.iter();
        key(self) != key(previous) || previous_addresses.any(|addr| !self.addresses.contains(addr))
    }

    /// Opens a socket as the relay does for a mapping. An error, such as a missing capability, is found before any
    /// traffic is steered to the uplink.
    ///
    /// # Errors
    /// [`SocketSetupError`].
    pub(super) fn open(&self) -> Result<Socket, SocketSetupError> {
        let any = Inside(Endpoint::new(self.family.unspecified(), 0));
        let (socket, _) = self.sockets.open_udp(
            net::Egress::Direct,
            any,
            None,
            Treatment::of(Dscp::EF),
            true,
        )?;
        Ok(socket)
    }

    /// The uplink in the status.
    fn status(&self) -> UplinkStatus {
        let gateway = |family| (family == self.family).then(|| self.uplink.gateway.to_string());
        UplinkStatus {
            interface: self.uplink.name.clone(),
            gateway_v4: gateway(Family::V4),
            gateway_v6: gateway(Family::V6),
            reason: self.uplink.why.to_string(),
        }
    }
}

/// The uplinks in the status. IPv6 is separate only if it uses another link than IPv4.
pub(super) fn status(uplinks: &UplinkBindings) -> (Option<UplinkStatus>, Option<UplinkStatus>) {
    let [v4, v6] =
        [&uplinks.v4, &uplinks.v6].map(|binding| binding.as_ref().map(UplinkBinding::status));
    match (v4, v6) {
        (Some(v4), Some(v6)) if v4.interface == v6.interface => {
            let gateway_v6 = v6.gateway_v6;
            (Some(UplinkStatus { gateway_v6, ..v4 }), None)
        }
        (None, v6) => (v6, None),
        both => both,
    }
}

/// The names of the links; none without an uplink.
pub(super) fn names(uplinks: &UplinkBindings) -> Option<String> {
    let [v4, v6] = [&uplinks.v4, &uplinks.v6]
        .map(|binding| binding.as_ref().map(|binding| &binding.uplink.name));
    match (v4, v6) {
        (Some(v4), Some(v6)) if v4 != v6 => Some(format!("{v4} (IPv4) and {v6} (IPv6)")),
        (one, other) => one.or(other).cloned(),
    }
}

/// Returns the tunnel links except our TUN, and the addresses that only they have. `mark` is the mark of tunnel sockets.
pub(super) fn tunnel_links(observed: &Observed, tun: IfIndex, mark: Fwmark) -> TunnelLinks {
    let tunnels = observed.links.iter();
    let tunnels = tunnels.filter(|link| link.index != tun && link.is_tunnel());
    let links: Vec<_> = tunnels.map(|link| link.index).collect();
    let (within, outside): (Vec<_>, Vec<_>) = observed
        .addresses
        .iter()
        .filter(|address| address.link != tun)
        .partition(|address| links.contains(&address.link));
    let addresses = within
        .iter()
        .map(|address: &&InterfaceAddress| address.addr);
    let addresses = addresses.filter(|addr| outside.iter().all(|address| address.addr != *addr));
    TunnelLinks {
        addresses: addresses.collect(),
        links,
        mark,
    }
}

/// Whether an address is valid on the link only, so that it cannot be a source of media.
fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::desired::{UplinkEvidence, UplinkGateway};
    use crate::route::observed::Link;

    fn binding(family: Family, (index, name): (u32, &str), addresses: &[&str]) -> UplinkBinding {
        let link = IfIndex(index);
        let uplink = Uplink {
            name: name.to_owned(),
            index: link,
            gateway: UplinkGateway::OnLink,
            why: UplinkEvidence::DefaultRoute,
        };
        let address = |text: &&str| InterfaceAddress {
            link,
            addr: text.parse().expect("an address"),
        };
        let observed = Observed {
            addresses: addresses.iter().map(address).collect(),
            ..Observed::default()
        };
        UplinkBinding::new(family, uplink, &observed, (Fwmark(1), Fwmark(2)))
    }

    #[test]
    fn sockets_are_replaced_when_their_link_or_address_is_gone() {
        let wlan = (2, "wlan0");
        let both = ["192.0.2.5", "2001:db8::5"];
        let moves = |family, link, addresses: &[&str]| {
            binding(family, link, addresses).needs_new_sockets_since(&binding(family, wlan, &both))
        };
        for family in Family::BOTH {
            assert!(!moves(family, wlan, &both));
            assert!(moves(family, (3, "wlan0"), &both), "created again");
            assert!(moves(family, (2, "wlan1"), &both));
            assert!(moves(family, wlan, &[]));
        }
        let more = ["192.0.2.5", "2001:db8::5", "2001:db8::6", "fe80::1"];
        assert!(!moves(Family::V6, wlan, &more), "an address was added");
        let renewed = ["192.0.2.6", "2001:db8::5"];
        assert!(moves(Family::V4, wlan, &renewed));
        assert!(!moves(Family::V6, wlan, &renewed), "the address is IPv4");
    }

    #[test]
    fn a_tunnel_address_counts_only_if_no_other_link_has_it() {
        let link = |index, kind: Option<&str>| Link {
            index: IfIndex(index),
            name: format!("link{index}"),
            kind: kind.map(str::to_owned),
            hardware: 1,
            up: true,
            carrier: true,
        };
        let address = |(link, text): (u32, &str)| InterfaceAddress {
            link: IfIndex(link),
            addr: text.parse().expect("an address"),
        };
        let addresses = [
            (2, "192.0.2.5"),
            (3, "10.8.0.2"),
            (3, "fd08::2"),
            (3, "192.0.2.5"),
            (4, "192.0.0.8"),
            (4, "10.8.0.2"),
        ];
        let observed = Observed {
            links: vec![
                link(2, None),
                link(3, Some("wireguard")),
                link(4, Some("tun")),
            ],
            addresses: addresses.map(address).to_vec(),
            ..Observed::default()
        };
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(
            tunnel_links(&observed, IfIndex(4), Fwmark(2)),
            TunnelLinks {
                links: vec![IfIndex(3)],
                addresses: vec![ip("10.8.0.2"), ip("fd08::2")],
                mark: Fwmark(2),
            }
        );
    }

    #[test]
    fn families_are_shown_separately_only_on_different_links() {
        let some = |family, name| Some(binding(family, (2, name), &[]));
        let shown = |v4, v6| {
            let uplinks = UplinkBindings { v4, v6 };
            let (uplink, v6) = status(&uplinks);
            let gateways = uplink.map(|it| (it.gateway_v4.is_some(), it.gateway_v6.is_some()));
            (gateways, v6.map(|it| it.interface), names(&uplinks))
        };
        let [wlan4, eth4] = ["wlan0", "eth0"].map(|name| some(Family::V4, name));
        let wlan6 = some(Family::V6, "wlan0");
        let wlan = Some("wlan0".to_owned());
        assert_eq!(
            shown(wlan4, wlan6.clone()),
            (Some((true, true)), None, wlan.clone())
        );
        assert_eq!(
            shown(None, wlan6.clone()),
            (Some((false, true)), None, wlan.clone())
        );
        assert_eq!(
            shown(eth4, wlan6),
            (
                Some((true, false)),
                wlan,
                Some("eth0 (IPv4) and wlan0 (IPv6)".to_owned())
            )
        );
        assert_eq!(shown(None, None), (None, None, None));
    }
}
