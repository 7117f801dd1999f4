//! Sysctls of the TUN and of the uplink.

use super::saved::{SavedSysctls, SavedSysctlsError};
use super::{SysctlError, SysctlKey, read, write};
use crate::net::Family;

/// Sysctls of the TUN. IPv6 has no `disable_xfrm`: see [`crate::ipsec`].
///
/// - `disable_xfrm`, `disable_policy`: no IPsec policy takes packets into the TUN or rejects packets out of it.
/// - `rp_filter` 2, loose: the kernel uses the maximum of this and of "all", so only 2 overrides "all" = 1, strict.
///   ICMP errors come from routers that no route of the TUN leads to. The loose filter requires an IPv4 address on the
///   link: see [`crate::route::netlink::Rtnetlink::bring_up`].
/// - `addr_gen_mode` 1, none: no link-local address, and so no router or listener discovery on the TUN.
const TUN: [(Family, &str, &str); 7] = [
    (Family::V4, "disable_xfrm", "1"),
    (Family::V4, "disable_policy", "1"),
    (Family::V4, "rp_filter", "2"),
    (Family::V6, "disable_policy", "1"),
    (Family::V6, "addr_gen_mode", "1"),
    (Family::V6, "accept_ra", "0"),
    (Family::V6, "router_solicitations", "0"),
];

/// Sets the sysctls of the TUN, before it is brought up. Skips a sysctl that the kernel does not have.
///
/// # Errors
/// The first sysctl that could not be written.
pub fn prepare_tun(tun: &str) -> Result<(), SysctlError> {
    for (family, name, value) in TUN {
        match write(&SysctlKey::new(family, tun, name), value) {
            Err(error) if !error.is_missing() => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Makes a strict reverse-path filter of the uplink loose, so that replies to direct sockets are accepted.
///
/// The route to a captured prefix leads into the TUN. A strict filter (RFC 3704 section 2.2) therefore drops the
/// replies; a loose one (section 2.4) accepts them. The kernel uses the maximum of the interface's value and of "all".
/// A filter that is off stays off. Former uplinks get their value back.
///
/// # Errors
/// [`SavedSysctlsError`].
pub fn prepare_uplink(saved: &mut SavedSysctls, uplink: &str) -> Result<(), SavedSysctlsError> {
    let filter = |interface| SysctlKey::new(Family::V4, interface, "rp_filter");
    saved.restore(|entry| entry.key != filter(uplink))?;
    let (own, all) = (read(&filter(uplink))?, read(&filter("all"))?);
    if own.as_str().max(&all) == "1" {
        saved.set(&filter(uplink), "2")?;
    }
    Ok(())
}
