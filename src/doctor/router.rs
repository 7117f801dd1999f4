//! What cannot be seen from here: the router in between.

use std::fs;

use super::{Finding, SystemFacts};

/// Kernel modules that rewrite calls on their way through this machine.
const HELPERS: [&str; 2] = ["nf_nat_sip", "nf_conntrack_sip"];

pub(super) fn check(_: &SystemFacts) -> Vec<Finding> {
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    let loaded = modules.lines().filter_map(|line| line.split(' ').next());
    let helper = loaded.into_iter().find(|it| HELPERS.contains(it));
    let mut findings = vec![Finding::unknown(
        "whether the router on the way meddles with calls cannot be seen from here",
        "in the router: switch off SIP ALG and stateful packet inspection (SPI), as Talkdesk asks, and let it keep DSCP; \
         `voicelane policy export` has the rest for some",
    )];
    findings.extend(helper.map(|module| {
        Finding::warning(
            format!("{module} is loaded: this machine itself may rewrite SIP"),
            format!("modprobe -r {module}, unless this machine is a gateway that needs it"),
        )
    }));
    findings
}
