//! Whether media fits the MTU of uplink and TUN.

use std::fs;

use super::{Finding, SystemFacts};

/// The minimum MTU of IPv6 in bytes (RFC 8200 section 5). Browsers send smaller media packets.
const MINIMUM: u32 = 1280;

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let Some(uplink) = facts.uplink_name() else {
        return vec![Finding::no_uplink()];
    };
    let links = [Some(uplink), facts.tun().map(|tun| tun.name.as_str())];
    links.into_iter().flatten().map(assess).collect()
}

fn assess(link: &str) -> Finding {
    match mtu(link) {
        Some(mtu @ MINIMUM..) => Finding::ok(format!("{link} has an MTU of {mtu} bytes.")),
        Some(mtu) => Finding::fault(
            format!(
                "{link} has an MTU of only {mtu} bytes. Larger media packets are fragmented or lost, and IPv6 does not work."
            ),
            format!(
                "Run: ip link set {link} mtu 1500 (or the MTU of the network, at least {MINIMUM})"
            ),
        ),
        None => Finding::unknown(
            format!("Not checked: the MTU of {link} cannot be read."),
            format!("Run: ip link show {link}"),
        ),
    }
}

fn mtu(link: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{link}/mtu")).ok()?;
    text.trim().parse().ok()
}
