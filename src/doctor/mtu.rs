//! Whether media fits the links.

use std::fs;

use super::{Finding, SystemFacts};

/// What every IPv6 link must carry (RFC 8200 section 5). Browsers keep media below it, headers included.
const LEAST: u32 = 1280;

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let Some(uplink) = facts.uplink_name() else {
        return vec![Finding::unknown(
            "there is no uplink to look at",
            "see what is said of the uplink",
        )];
    };
    let links = [Some(uplink), facts.tun().map(|tun| tun.name.as_str())];
    links.into_iter().flatten().map(judge).collect()
}

fn judge(link: &str) -> Finding {
    match mtu(link) {
        Some(mtu @ LEAST..) => Finding::ok(format!("{link} takes packets of {mtu} bytes")),
        Some(mtu) => Finding::fault(
            format!(
                "{link} takes packets of {mtu} bytes: media in larger ones is cut up or lost, IPv6 has no way at all"
            ),
            format!("ip link set {link} mtu 1500, or what the network takes: {LEAST} at least"),
        ),
        None => Finding::unknown(
            format!("the MTU of {link} cannot be read"),
            format!("ip link show {link}"),
        ),
    }
}

fn mtu(link: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{link}/mtu")).ok()?;
    text.trim().parse().ok()
}
