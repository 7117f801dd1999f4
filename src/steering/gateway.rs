//! What the kernel must be set to for clients to be served: looked at, and left to IT but for our own TUN.

use std::collections::BTreeSet;

use crate::net::Family;
use crate::route::desired::Desired;
use crate::route::observed::Observed;
use crate::sysctl::{self, SysctlKey};

/// Lets the kernel forward what comes out of our TUN, where it forwards IPv4 from some links only.
///
/// # Errors
/// The setting that could not be written.
pub(super) fn prepare_tun(tun: &str) -> Result<(), sysctl::SysctlError> {
    sysctl::write(&SysctlKey::new(Family::V4, tun, "forwarding"), "1")
}

/// What keeps clients of a link from being served that is not ours to change, a sentence each.
#[must_use]
pub(super) fn unmet_prerequisites(desired: &Desired, observed: &Observed) -> Vec<String> {
    let links: BTreeSet<_> = desired.clients.iter().map(|it| &it.1).collect();
    let is_one = |family, link: &str, name| {
        sysctl::read(&SysctlKey::new(family, link, name)).is_ok_and(|value| value == "1")
    };
    let mut told = Vec::new();
    for link in links {
        let served = |family| desired.captured_clients().contains(&(family, link.clone()));
        if !observed.links.iter().any(|it| it.name == *link) {
            told.push(format!(
                "there is no interface {link}, so nobody behind it is served: [gateway] interfaces names it"
            ));
            continue;
        }
        if served(Family::V4) && !is_one(Family::V4, link, "forwarding") {
            told.push(format!(
                "this machine does not forward IPv4 of clients at {link}: sysctl net.ipv4.ip_forward=1, if it is to be a gateway"
            ));
        }
        let forwards_v6 =
            is_one(Family::V6, "all", "forwarding") || is_one(Family::V6, link, "force_forwarding");
        if served(Family::V6) && !is_one(Family::V6, link, "disable_ipv6") && !forwards_v6 {
            told.push(format!(
                "this machine does not forward IPv6 of clients at {link}: sysctl net.ipv6.conf.all.forwarding=1, if it is to be a gateway"
            ));
        }
    }
    told
}

/// The largest packet that every client's link takes, if that can be read.
#[must_use]
pub(super) fn mtu(desired: &Desired) -> Option<u16> {
    let mtus = desired.clients.iter().filter_map(|(_, link)| {
        let mtu = sysctl::read(&SysctlKey::new(Family::V6, link, "mtu")).ok()?;
        Some(mtu.parse::<u32>().ok()?.try_into().unwrap_or(u16::MAX))
    });
    mtus.min()
}
