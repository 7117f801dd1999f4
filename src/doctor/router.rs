//! SIP helpers of this machine, and advice on the router, which cannot be examined from here.

use std::fs;

use super::{Finding, SystemFacts};

/// Kernel modules that rewrite SIP messages of forwarded calls.
const HELPERS: [&str; 2] = ["nf_nat_sip", "nf_conntrack_sip"];

pub(super) fn check(_: &SystemFacts) -> Vec<Finding> {
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    let loaded = modules.lines().filter_map(|line| line.split(' ').next());
    let helper = loaded.into_iter().find(|it| HELPERS.contains(it));
    let mut findings = vec![Finding::unknown(
        "Not checked: whether the router changes calls. This cannot be measured from here.",
        "In the router, switch off SIP ALG and stateful packet inspection (SPI), as Talkdesk asks, and keep DSCP. \
         `voicelane policy export` writes the configuration for some routers.",
    )];
    findings.extend(helper.map(|module| {
        Finding::warning(
            format!("The kernel module {module} is loaded. This machine may rewrite SIP messages."),
            format!(
                "Run: modprobe -r {module} (unless this machine is a SIP gateway that needs it)"
            ),
        )
    }));
    findings
}
