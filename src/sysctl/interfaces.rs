//! The settings of our TUN and of the uplink.

use super::saved::{SavedSysctls, SavedSysctlsError};
use super::{SysctlError, SysctlKey, read, write};
use crate::net::Family;

/// What our TUN needs. IPv6 has no `disable_xfrm`: see [`crate::ipsec`].
///
/// - `disable_xfrm`, `disable_policy`: an IPsec VPN's policies take neither what is routed into the TUN nor refuse
///   what comes out of it.
/// - `rp_filter` 2: the kernel uses the greater of this and that of "all", so that 2, loose, is the one value that
///   keeps "all" = 1, strict, away. ICMP errors come from routers that no route of ours leads to. The loose filter
///   wants an IPv4 address on the link: see [`crate::route::netlink::Kernel::bring_up`].
/// - `addr_gen_mode` 1, none: no link-local address, and with it no router or listener discovery on the TUN.
const TUN: [(Family, &str, &str); 7] = [
    (Family::V4, "disable_xfrm", "1"),
    (Family::V4, "disable_policy", "1"),
    (Family::V4, "rp_filter", "2"),
    (Family::V6, "disable_policy", "1"),
    (Family::V6, "addr_gen_mode", "1"),
    (Family::V6, "accept_ra", "0"),
    (Family::V6, "router_solicitations", "0"),
];

/// Sets up our TUN, before it is brought up. A setting that this kernel does not have is passed over.
///
/// # Errors
/// The first setting that could not be written.
pub fn prepare_tun(tun: &str) -> Result<(), SysctlError> {
    for (family, name, value) in TUN {
        match write(&SysctlKey::new(family, tun, name), value) {
            Err(error) if !error.is_missing() => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Lets replies to our own sockets in at the uplink.
///
/// The way back to a captured prefix leads into the TUN. A strict reverse-path filter (RFC 3704 section 2.2), and the
/// kernel uses the greater value of the interface's and of "all", therefore drops the answers; it becomes a loose one
/// (section 2.4). A filter that is off stays off. Other uplinks of before get their value back.
///
/// # Errors
/// [`SavedSysctlsError`].
pub fn prepare_uplink(journal: &mut SavedSysctls, uplink: &str) -> Result<(), SavedSysctlsError> {
    let filter = |interface| SysctlKey::new(Family::V4, interface, "rp_filter");
    journal.restore(|entry| entry.key != filter(uplink))?;
    let (own, all) = (read(&filter(uplink))?, read(&filter("all"))?);
    if own.as_str().max(&all) == "1" {
        journal.set(&filter(uplink), "2")?;
    }
    Ok(())
}
