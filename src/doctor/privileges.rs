//! Whether whoever asks could run the service.

use nix::unistd::Uid;

use super::{Finding, SystemFacts};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    vec![match (facts.may_administer, Uid::effective().is_root()) {
        (true, _) if !facts.may_listen => Finding::warning(
            "CAP_NET_ADMIN is there, CAP_NET_RAW is not: the service would not notice a firewall that forgets IPv6 \
                 neighbours",
            "give the container or the unit CAP_NET_RAW as well; the service drops it after the start",
        ),
        (true, _) => Finding::ok("CAP_NET_ADMIN is there, which the service needs"),
        (false, true) => Finding::fault(
            "root has no CAP_NET_ADMIN here, so that neither a TUN nor a route can be made: a container, most likely",
            "give the container CAP_NET_ADMIN and CAP_NET_RAW (docker run --cap-add NET_ADMIN --cap-add NET_RAW)",
        ),
        (false, false) => Finding::ok(
            "a plain user asks: what only root can look at is unknown here; the service has privileges of its own",
        ),
    }]
}
