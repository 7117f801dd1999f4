//! The owner of a foreign rule: its protocol number and the program that usually has this number.

use std::fmt;

use super::observed::RoutingRule;
use crate::net::RouteProtocol;

/// Owners of the protocol numbers of linux/rtnetlink.h that laptops and servers have.
const OWNERS: [(u8, &str); 16] = [
    (
        0,
        "unspecified: set by hand or by a script such as wg-quick",
    ),
    (2, "kernel"),
    (3, "boot: set by hand or by a script"),
    (
        4,
        "static: an administrator, NetworkManager or systemd-networkd",
    ),
    (9, "router advertisements"),
    (11, "zebra"),
    (12, "bird"),
    (16, "dhcp"),
    (18, "keepalived"),
    (42, "babel"),
    (99, "openr"),
    (186, "bgp"),
    (187, "isis"),
    (188, "ospf"),
    (189, "rip"),
    (192, "eigrp"),
];

/// Displays a foreign rule so that a person finds its owner.
#[derive(Clone, Copy, Debug)]
pub struct RuleOwner<'a>(pub &'a RoutingRule);

impl fmt::Display for RuleOwner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RoutingRule {
            family,
            priority,
            protocol,
            table,
            ..
        } = self.0;
        write!(
            f,
            "the {family} rule at priority {priority} with lookup of table {table}, protocol {protocol}"
        )?;
        match owner(*protocol) {
            Some(owner) => write!(f, " ({owner})"),
            None => Ok(()),
        }
    }
}

fn owner(protocol: RouteProtocol) -> Option<&'static str> {
    let found = OWNERS.iter().find(|(number, _)| *number == protocol.0);
    found.map(|(_, owner)| *owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Family, RouteTable, RulePriority};
    use crate::route::observed::RuleSelector;

    #[test]
    fn a_rule_names_its_owner() {
        let rule = |protocol| RoutingRule {
            family: Family::V4,
            priority: RulePriority(97),
            protocol: RouteProtocol(protocol),
            table: RouteTable(51_820),
            selector: RuleSelector::default(),
            opaque: true,
        };
        assert_eq!(
            RuleOwner(&rule(16)).to_string(),
            "the IPv4 rule at priority 97 with lookup of table 51820, protocol 16 (dhcp)"
        );
        assert!(RuleOwner(&rule(77)).to_string().ends_with("protocol 77"));
    }
}
