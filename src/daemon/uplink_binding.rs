//! The way out that media of a family takes now, and what a change of it means for open sockets.

use std::net::IpAddr;

use socket2::Socket;

use crate::control::UplinkStatus;
use crate::net::{self, Dscp, Endpoint, Family, Fwmark, Inside, PerFamily, Treatment};
use crate::relay::{SocketFactory, SocketSetupError};
use crate::route::desired::Uplink;
use crate::route::observed::Observed;

/// A family's uplink and the addresses that it has of that family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UplinkBinding {
    pub(super) family: Family,
    pub(super) uplink: Uplink,
    pub(super) binder: SocketFactory,
}

/// The way of each family that has one.
pub(super) type UplinkBindings = PerFamily<Option<UplinkBinding>>;

/// Of which families open sockets are replaced when the ways change.
pub(super) type Moves = PerFamily<bool>;

impl UplinkBinding {
    /// `marks` are those of sockets of the direct way and of the tunnel.
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
        let binder = SocketFactory {
            device: uplink.name.clone(),
            addresses: addresses.collect(),
            mark: marks.0,
            tunnel_mark: marks.1,
        };
        Self {
            family,
            uplink,
            binder,
        }
    }

    /// Whether the step from an earlier way wants other sockets in the place of those that are open.
    ///
    /// They are bound to the link and bear a mark, so another link or mark wants other sockets, and so does a link that
    /// was made anew under the same name. On the same link an address that has gone takes with it whoever is bound to it, and what the far
    /// side knows of the others; an address that has come takes nothing.
    pub(super) fn moves_since(&self, earlier: &Self) -> bool {
        let key = |way: &Self| {
            let binder = &way.binder;
            (way.uplink.index, binder.device.clone(), binder.mark)
        };
        let mut former = earlier.binder.addresses.iter();
        key(self) != key(earlier) || former.any(|addr| !self.binder.addresses.contains(addr))
    }

    /// Opens a socket as the relay does for a mapping. To be done before anything is steered to the uplink: what the kernel
    /// refuses (a missing capability, most likely) is found out while all is still as it was.
    ///
    /// # Errors
    /// [`SocketSetupError`].
    pub(super) fn open(&self) -> Result<Socket, SocketSetupError> {
        let any = Inside(Endpoint::new(self.family.unspecified(), 0));
        let (socket, _) =
            self.binder
                .open_udp(net::Egress::Direct, any, Treatment::of(Dscp::EF), true)?;
        Ok(socket)
    }

    /// As the status tells it.
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

/// The ways as the status tells them: IPv6's apart only where it leaves by another link than IPv4.
pub(super) fn status(ways: &UplinkBindings) -> (Option<UplinkStatus>, Option<UplinkStatus>) {
    let [v4, v6] = [&ways.v4, &ways.v6].map(|way| way.as_ref().map(UplinkBinding::status));
    match (v4, v6) {
        (Some(v4), Some(v6)) if v4.interface == v6.interface => {
            let gateway_v6 = v6.gateway_v6;
            (Some(UplinkStatus { gateway_v6, ..v4 }), None)
        }
        (None, v6) => (v6, None),
        both => both,
    }
}

/// The links of the ways in words; none without a way.
pub(super) fn names(ways: &UplinkBindings) -> Option<String> {
    let [v4, v6] = [&ways.v4, &ways.v6].map(|way| way.as_ref().map(|way| &way.uplink.name));
    match (v4, v6) {
        (Some(v4), Some(v6)) if v4 != v6 => Some(format!("{v4} (IPv4) and {v6} (IPv6)")),
        (one, other) => one.or(other).cloned(),
    }
}

/// An address that reaches the link and no further: no source for media.
fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::IfIndex;
    use crate::route::desired::{UplinkEvidence, UplinkGateway};
    use crate::route::observed::InterfaceAddress;

    fn way(family: Family, (index, name): (u32, &str), addresses: &[&str]) -> UplinkBinding {
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
    fn sockets_move_when_what_they_use_has_gone() {
        let wlan = (2, "wlan0");
        let both = ["192.0.2.5", "2001:db8::5"];
        let moves = |family, link, addresses: &[&str]| {
            way(family, link, addresses).moves_since(&way(family, wlan, &both))
        };
        for family in Family::BOTH {
            assert!(!moves(family, wlan, &both));
            assert!(moves(family, (3, "wlan0"), &both), "made anew");
            assert!(moves(family, (2, "wlan1"), &both));
            assert!(moves(family, wlan, &[]));
        }
        let more = ["192.0.2.5", "2001:db8::5", "2001:db8::6", "fe80::1"];
        assert!(!moves(Family::V6, wlan, &more), "one has come");
        let renewed = ["192.0.2.6", "2001:db8::5"];
        assert!(moves(Family::V4, wlan, &renewed));
        assert!(!moves(Family::V6, wlan, &renewed), "it is not IPv6's");
    }

    #[test]
    fn the_families_are_told_apart_only_where_they_part() {
        let some = |family, name| Some(way(family, (2, name), &[]));
        let told = |v4, v6| {
            let ways = UplinkBindings { v4, v6 };
            let (uplink, v6) = status(&ways);
            let gateways = uplink.map(|it| (it.gateway_v4.is_some(), it.gateway_v6.is_some()));
            (gateways, v6.map(|it| it.interface), names(&ways))
        };
        let [wlan4, eth4] = ["wlan0", "eth0"].map(|name| some(Family::V4, name));
        let wlan6 = some(Family::V6, "wlan0");
        let wlan = Some("wlan0".to_owned());
        assert_eq!(
            told(wlan4, wlan6.clone()),
            (Some((true, true)), None, wlan.clone())
        );
        assert_eq!(
            told(None, wlan6.clone()),
            (Some((false, true)), None, wlan.clone())
        );
        assert_eq!(
            told(eth4, wlan6),
            (
                Some((true, false)),
                wlan,
                Some("eth0 (IPv4) and wlan0 (IPv6)".to_owned())
            )
        );
        assert_eq!(told(None, None), (None, None, None));
    }
}
