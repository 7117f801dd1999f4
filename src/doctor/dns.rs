//! Whether DNS queries take the path of media: the vendor selects the media edge by the location of the resolver.
//!
//! The check sends no query. The location of the resolver, as the vendor sees it, is unknown on this machine. A path
//! through the VPN is only a reason to check the resolver.

use super::{Finding, SystemFacts};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    if facts.resolvers.is_empty() {
        return vec![Finding::warning(
            "No name server is configured. Browsers cannot find the vendor.",
            "Connect to a network. See /etc/resolv.conf.",
        )];
    }
    let found = facts.resolvers.iter().map(|(server, route)| {
        let link = route.as_ref().ok().and_then(|route| route.link);
        let link = link.and_then(|link| facts.observed.link(link));
        match link {
            Some(link) if link.is_loopback() => Finding::unknown(
                format!("DNS queries go to {server}, a program on this machine. Its upstream server is not known."),
                "Check its configuration. A resolver on another continent makes media take a detour over that continent.",
            ),
            Some(link) if link.is_tunnel() => Finding::unknown(
                format!(
                    "DNS queries go to {server} through the VPN ({}), but media leaves directly. The vendor selects the media \
                     edge by the location of that resolver, which is not known here.",
                    link.name
                ),
                "If the resolver is on another continent than the agent, ask IT for a resolver nearby, or ask the vendor's \
                 administrator to pin the edge.",
            ),
            Some(link) => Finding::ok(format!(
                "DNS queries go to {server} through {}, outside the VPN.",
                link.name
            )),
            None => Finding::warning(
                format!("The name server {server} cannot be reached."),
                "Connect the network or the VPN of this server.",
            ),
        }
    });
    found.collect()
}
