//! Whether the kernel lets answers in: a strict reverse-path filter takes them for forged.

use super::{Finding, SystemFacts};
use crate::net::Family;
use crate::sysctl::{self, SysctlKey};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let Some(uplink) = facts.uplink_name() else {
        return vec![Finding::unknown(
            "there is no uplink to look at",
            "see what is said of the uplink",
        )];
    };
    let filter = |link: &str| sysctl::read(&SysctlKey::new(Family::V4, link, "rp_filter"));
    // The kernel uses the greater one.
    let value = match (filter(uplink), filter("all")) {
        (Ok(own), Ok(all)) => own.max(all),
        (Err(error), _) | (_, Err(error)) => {
            return vec![Finding::unknown(
                error.to_string(),
                format!("sysctl net.ipv4.conf.{uplink}.rp_filter"),
            )];
        }
    };
    vec![match (value.as_str(), facts.is_running()) {
        ("1", true) => Finding::fault(
            format!("the reverse-path filter of {uplink} is strict: answers to media are dropped"),
            format!(
                "sysctl -w net.ipv4.conf.{uplink}.rp_filter=2; voicelane sets that itself at each look, so find out who \
                 takes it back"
            ),
        ),
        ("1", false) => Finding::ok(format!(
            "the reverse-path filter of {uplink} is strict; voicelane makes it a loose one while it runs"
        )),
        _ => Finding::ok(format!(
            "the reverse-path filter of {uplink} lets answers in"
        )),
    }]
}
