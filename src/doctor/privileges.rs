//! Whether the caller has the capabilities that the service needs.

use nix::unistd::Uid;

use super::{Finding, SystemFacts};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    vec![match (facts.may_administer, Uid::effective().is_root()) {
        (true, _) if !facts.may_capture => Finding::warning(
            "CAP_NET_ADMIN is available, CAP_NET_RAW is not. Without CAP_NET_RAW, the service cannot detect a firewall \
                 that blocks IPv6 neighbour discovery.",
            "Give the container or the unit CAP_NET_RAW as well. The service drops it after the start.",
        ),
        (true, _) => Finding::ok("CAP_NET_ADMIN is available, as the service needs."),
        (false, true) => Finding::fault(
            "root has no CAP_NET_ADMIN here (probably a container). The service cannot create a TUN or a route.",
            "Give the container both capabilities: docker run --cap-add NET_ADMIN --cap-add NET_RAW",
        ),
        (false, false) => Finding::ok(
            "The doctor runs as an ordinary user. Checks that need root are reported as unknown.",
        ),
    }]
}
