//! The VPNs of this machine, and the traffic that they take.

use super::{Finding, SystemFacts};
use crate::net::IfIndex;
use crate::route::vpn::{self, Vpn};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let tun = facts.tun().map_or(IfIndex(0), |tun| tun.index);
    let vpns = vpn::find(&facts.observed, tun);
    if vpns.is_empty() {
        return vec![Finding::ok(
            "No VPN found. (IPsec without an interface is not visible here.)",
        )];
    }
    vpns.iter().map(|vpn| Finding::ok(describe(vpn))).collect()
}

fn describe(vpn: &Vpn) -> String {
    let kind = vpn.kind.as_deref().unwrap_or("tunnel");
    let takes = match (vpn.takes_v4, vpn.takes_v6) {
        (true, true) => "takes all of IPv4 and IPv6",
        (true, false) => "takes all of IPv4, but not of IPv6",
        (false, true) => "takes all of IPv6, but not of IPv4",
        (false, false) => "takes some prefixes",
    };
    format!("{} ({kind}) {takes}.", vpn.name)
}
