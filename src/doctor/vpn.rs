//! Which VPNs there are, and what they take.

use super::{Finding, SystemFacts};
use crate::net::IfIndex;
use crate::route::vpn::{self, Vpn};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let ours = facts.tun().map_or(IfIndex(0), |tun| tun.index);
    let vpns = vpn::find(&facts.observed, ours);
    if vpns.is_empty() {
        return vec![Finding::ok(
            "no tunnel takes traffic; IPsec without an interface of its own does not show here",
        )];
    }
    vpns.iter().map(|vpn| Finding::ok(words(vpn))).collect()
}

fn words(vpn: &Vpn) -> String {
    let kind = vpn.kind.as_deref().unwrap_or("tunnel");
    let takes = match (vpn.takes_v4, vpn.takes_v6) {
        (true, true) => "takes all of IPv4 and IPv6",
        (true, false) => "takes all of IPv4 and not all of IPv6",
        (false, true) => "takes all of IPv6 and not all of IPv4",
        (false, false) => "takes some prefixes",
    };
    format!("{} ({kind}) {takes}", vpn.name)
}
