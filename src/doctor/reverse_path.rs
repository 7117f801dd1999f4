//! Whether the reverse-path filter (rp_filter, RFC 3704) accepts packets that arrive on the uplink.

use super::{Finding, SystemFacts};
use crate::net::Family;
use crate::sysctl::{self, SysctlKey};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let Some(uplink) = facts.uplink_name() else {
        return vec![Finding::no_uplink()];
    };
    let filter = |link: &str| sysctl::read(&SysctlKey::new(Family::V4, link, "rp_filter"));
    // The kernel uses the greater of both values (ip-sysctl).
    let value = match (filter(uplink), filter("all")) {
        (Ok(own), Ok(all)) => own.max(all),
        (Err(error), _) | (_, Err(error)) => {
            return vec![Finding::unknown(
                format!("Not checked: {error}."),
                format!("Run: sysctl net.ipv4.conf.{uplink}.rp_filter"),
            )];
        }
    };
    vec![match (value.as_str(), facts.is_running()) {
        ("1", true) => Finding::fault(
            format!(
                "The reverse-path filter of {uplink} is strict. The kernel drops incoming media."
            ),
            format!(
                "Run: sysctl -w net.ipv4.conf.{uplink}.rp_filter=2. voicelane sets this value itself, so find the program \
                 that resets it."
            ),
        ),
        ("1", false) => Finding::ok(format!(
            "The reverse-path filter of {uplink} is strict. voicelane sets it to loose while it runs."
        )),
        _ => Finding::ok(format!(
            "The reverse-path filter of {uplink} accepts incoming media."
        )),
    }]
}
