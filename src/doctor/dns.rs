//! Whether names are asked for where media is: the vendor chooses the media edge by the resolver's place.
//!
//! Nothing is asked for here. Where the resolver stands, as the vendor sees it, is not known on this machine: that the
//! way to it leads through a VPN is a reason to look, and no more.

use std::fs;
use std::net::IpAddr;

use super::{Finding, SystemFacts};

/// The port of DNS over UDP.
pub(super) const PORT: u16 = 53;

/// What programs read, and what systemd-resolved asks itself behind its stub.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The servers that this machine asks; those behind a stub on this machine, where they are known.
pub(super) fn resolvers() -> Vec<IpAddr> {
    let [own, behind] = FILES.map(|file| fs::read_to_string(file).unwrap_or_default());
    let (own, behind) = (servers(&own), servers(&behind));
    let is_stub = own.iter().all(IpAddr::is_loopback);
    if is_stub && !behind.is_empty() {
        behind
    } else {
        own
    }
}

fn servers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let server = (words.next()? == "nameserver").then(|| words.next())??;
        // The zone of a link-local address is of no use here.
        server.split('%').next()?.parse().ok()
    });
    lines.collect()
}

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    if facts.resolvers.is_empty() {
        return vec![Finding::warning(
            "no name server is configured: browsers cannot find the vendor",
            "connect a network; see /etc/resolv.conf",
        )];
    }
    let found = facts.resolvers.iter().map(|(server, way)| {
        let link = way.as_ref().ok().and_then(|way| way.link);
        let link = link.and_then(|link| facts.observed.link(link));
        match link {
            Some(link) if link.is_loopback() => Finding::unknown(
                format!("names are asked for at {server}, a program on this machine: whom it asks is not known"),
                "see its configuration: a resolver on another continent gets media sent to that continent",
            ),
            Some(link) if link.is_tunnel() => Finding::unknown(
                format!(
                    "names are asked for at {server} through the VPN ({}), while media goes straight out: the vendor \
                     chooses the edge by that resolver's place, which is not known here",
                    link.name
                ),
                "if the VPN's resolver is on another continent than the agent, ask IT for one nearby, or let the vendor's \
                 administrator pin the edge",
            ),
            Some(link) => Finding::ok(format!(
                "names are asked for at {server} by {}, where the agent is",
                link.name
            )),
            None => Finding::warning(
                format!("the name server {server} cannot be reached"),
                "connect the network or the VPN that it belongs to",
            ),
        }
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_resolvers_do() {
        let text = "# nameserver 192.0.2.1\nsearch corp.example\nnameserver 10.8.0.1\nnameserver fe80::1%wlan0\nnameserver x\n";
        let found: Vec<_> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.8.0.1", "fe80::1"]);
    }
}
