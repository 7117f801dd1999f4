//! The way out that media takes now, and what a change of it means for open sockets.

use std::net::IpAddr;

use socket2::Socket;

use crate::control::UplinkStatus;
use crate::net::{self, Dscp, Endpoint, Family, Fwmark, Inside, Treatment};
use crate::relay::{BindError, Binder};
use crate::route::observed::Observed;
use crate::route::uplink::{Gateway, Uplink};

/// An uplink and the addresses that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) uplink: Uplink,
    pub(super) binder: Binder,
}

/// What becomes of the sockets that are open when the way changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moves {
    /// They stay: all that they may use is there as before.
    None,
    /// Those of this family are replaced: an address of it has gone.
    Family(Family),
    /// All are replaced.
    All,
}

impl Moves {
    /// Whether the sockets of a family are replaced.
    pub(super) fn includes(self, family: Family) -> bool {
        match self {
            Self::None => false,
            Self::Family(one) => one == family,
            Self::All => true,
        }
    }
}

impl Way {
    /// `marks` are those of sockets of the direct way and of the tunnel.
    pub(super) fn new(uplink: Uplink, observed: &Observed, marks: (Fwmark, Fwmark)) -> Self {
        let addresses = observed
            .addresses
            .iter()
            .filter(|address| address.link == uplink.index)
            .map(|address| address.addr)
            .filter(|addr| !is_link_local(*addr));
        let binder = Binder {
            device: uplink.name.clone(),
            addresses: addresses.collect(),
            mark: marks.0,
            tunnel_mark: marks.1,
        };
        Self { uplink, binder }
    }

    /// What the step from an earlier way means for open sockets.
    ///
    /// They are bound to the link and bear a mark, so another link or mark wants other sockets, and so does a link that
    /// was made anew under the same name. On the same link an address that has gone takes with it whoever is bound to it, and what the far
    /// side knows of the others; an address that has come takes nothing.
    pub(super) fn moves_since(&self, earlier: &Self) -> Moves {
        let key = |way: &Self| {
            let binder = &way.binder;
            (way.uplink.index, binder.device.clone(), binder.mark)
        };
        if key(self) != key(earlier) {
            return Moves::All;
        }
        let has_lost = |family| {
            let mut former = earlier.binder.addresses.iter();
            former.any(|addr| Family::of(*addr) == family && !self.binder.addresses.contains(addr))
        };
        match (has_lost(Family::V4), has_lost(Family::V6)) {
            (true, true) => Moves::All,
            (true, false) => Moves::Family(Family::V4),
            (false, true) => Moves::Family(Family::V6),
            (false, false) => Moves::None,
        }
    }

    /// Opens a socket on the uplink, once per family, before anything is steered to it: what the kernel refuses (a
    /// missing capability, most likely) is found out while all is still as it was.
    ///
    /// # Errors
    /// [`BindError`].
    pub(super) fn prove(&self) -> Result<(), BindError> {
        for family in [Family::V4, Family::V6] {
            if self.uplink.gateway(family).is_some() {
                self.open(family)?;
            }
        }
        Ok(())
    }

    /// Opens a socket as the relay does for a mapping.
    ///
    /// # Errors
    /// [`BindError`].
    pub(super) fn open(&self, family: Family) -> Result<Socket, BindError> {
        let any = Inside(Endpoint::new(family.unspecified(), 0));
        let (socket, _) = self
            .binder
            .bind(net::Way::Direct, any, Treatment::of(Dscp::EF))?;
        Ok(socket)
    }

    /// As the status tells it.
    pub(super) fn status(&self) -> UplinkStatus {
        let gateway = |family| {
            let gateway: Option<Gateway> = self.uplink.gateway(family);
            gateway.map(|gateway| gateway.to_string())
        };
        UplinkStatus {
            interface: self.uplink.name.clone(),
            gateway_v4: gateway(Family::V4),
            gateway_v6: gateway(Family::V6),
            why: self.uplink.why.to_string(),
        }
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
    use crate::route::observed::Address;
    use crate::route::uplink::Why;

    fn way(index: u32, addresses: &[&str]) -> Way {
        let link = IfIndex(index);
        let uplink = Uplink {
            name: "wlan0".to_owned(),
            index: link,
            gateway_v4: Some(Gateway::OnLink),
            gateway_v6: None,
            why: Why::DefaultRoute,
        };
        let address = |text: &&str| Address {
            link,
            addr: text.parse().expect("an address"),
        };
        let observed = Observed {
            addresses: addresses.iter().map(address).collect(),
            ..Observed::default()
        };
        Way::new(uplink, &observed, (Fwmark(1), Fwmark(2)))
    }

    #[test]
    fn sockets_move_when_what_they_use_has_gone() {
        let before = way(2, &["192.0.2.5", "2001:db8::5"]);
        let step = |index, addresses: &[&str]| way(index, addresses).moves_since(&before);
        let both = ["192.0.2.5", "2001:db8::5"];
        assert_eq!(step(2, &both), Moves::None);
        assert_eq!(step(3, &both), Moves::All);
        assert_eq!(
            step(2, &["192.0.2.5", "2001:db8::5", "2001:db8::6", "fe80::1"]),
            Moves::None
        );
        assert_eq!(
            step(2, &["192.0.2.6", "2001:db8::5"]),
            Moves::Family(Family::V4)
        );
        assert_eq!(step(2, &["192.0.2.5"]), Moves::Family(Family::V6));
        assert_eq!(step(2, &[]), Moves::All);
    }
}
