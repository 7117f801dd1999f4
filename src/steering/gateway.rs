//! Prerequisites of a gateway in the kernel. Only the TUN's are set here; all others are the administrator's.

use std::collections::BTreeSet;

use crate::net::Family;
use crate::route::desired::Desired;
use crate::route::observed::Observed;
use crate::sysctl::{self, SysctlKey};

/// Enables IPv4 forwarding of packets out of the TUN.
///
/// # Errors
/// The sysctl could not be written.
pub(super) fn prepare_tun(tun: &str) -> Result<(), sysctl::SysctlError> {
    sysctl::write(&SysctlKey::new(Family::V4, tun, "forwarding"), "1")
}

/// Returns the unmet prerequisites of a gateway, one sentence each.
#[must_use]
pub(super) fn unmet_prerequisites(desired: &Desired, observed: &Observed) -> Vec<String> {
    let links: BTreeSet<_> = desired.clients.iter().map(|it| &it.1).collect();
    let is_enabled = |family, link: &str, name| {
        sysctl::read(&SysctlKey::new(family, link, name)).is_ok_and(|value| value == "1")
    };
    let mut unmet = Vec::new();
    for link in links {
        let is_captured = |family| desired.captured_clients().contains(&(family, link.clone()));
        if !observed.links.iter().any(|it| it.name == *link) {
            unmet.push(format!(
                "[gateway] interfaces names {link}, but this interface does not exist. Media of its clients stays in the VPN."
            ));
            continue;
        }
        if is_captured(Family::V4) && !is_enabled(Family::V4, link, "forwarding") {
            unmet.push(format!(
                "This machine does not forward IPv4 packets of clients at {link}. To make it a gateway: sysctl net.ipv4.ip_forward=1"
            ));
        }
        let forwards_v6 = is_enabled(Family::V6, "all", "forwarding")
            || is_enabled(Family::V6, link, "force_forwarding");
        if is_captured(Family::V6) && !is_enabled(Family::V6, link, "disable_ipv6") && !forwards_v6
        {
            unmet.push(format!(
                "This machine does not forward IPv6 packets of clients at {link}. To make it a gateway: sysctl net.ipv6.conf.all.forwarding=1"
            ));
        }
    }
    unmet
}

/// Returns the smallest MTU of the clients' links in bytes, if it can be read.
#[must_use]
pub(super) fn mtu(desired: &Desired) -> Option<u16> {
    let mtus = desired.clients.iter().filter_map(|(_, link)| {
        let mtu = sysctl::read(&SysctlKey::new(Family::V6, link, "mtu")).ok()?;
        Some(mtu.parse::<u32>().ok()?.try_into().unwrap_or(u16::MAX))
    });
    mtus.min()
}
