//! The nearest rule for a packet that stays in the VPN. For `explain` only.

use crate::net::{Endpoint, Prefix, Protocol, RuleId};

use super::{InactiveReason, Policy, PolicyRule, RuleState};

/// A rule that covers the destination address, but does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleId,
    /// The prefix of the rule that contains the address.
    pub prefix: Prefix,
    /// The reason why the rule does not apply.
    pub reason: MissReason,
}

/// The reason why a rule does not apply to a packet to one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissReason {
    /// The rule matches, but is inactive.
    Inactive(InactiveReason),
    /// The rule has other ports.
    Port,
    /// The rule has the other protocol.
    Protocol,
}

impl Policy {
    /// Returns the nearest rule for a packet in the VPN. The order: a matching but inactive rule, an active rule with other
    /// ports, an active rule of the other protocol, an inactive rule. Among equals: the longest prefix. None if no rule
    /// covers the address.
    #[must_use]
    pub fn near_miss(&self, protocol: Protocol, destination: Endpoint) -> Option<NearMiss> {
        let candidates = self.rules().iter().filter_map(|rule| {
            let prefix = rule.prefix_of(destination.addr)?;
            let (rank, reason) = rank(rule, protocol, destination.port);
            let miss = NearMiss {
                rule: rule.id,
                prefix,
                reason,
            };
            Some(((rank, u8::MAX - prefix.len(), rule.id), miss))
        });
        candidates
            .min_by_key(|(order, _)| *order)
            .map(|(_, miss)| miss)
    }
}

/// Ranks a rule that covers the address; 0 is the nearest.
fn rank(rule: &PolicyRule, protocol: Protocol, port: u16) -> (u8, MissReason) {
    let same_protocol = rule.service.protocol == protocol;
    match rule.state {
        RuleState::Inactive(reason) if same_protocol && rule.has_port(port) => (
            u8::from(reason != InactiveReason::SwitchedOff),
            MissReason::Inactive(reason),
        ),
        RuleState::Active if same_protocol => (2, MissReason::Port),
        RuleState::Active => (3, MissReason::Protocol),
        RuleState::Inactive(_) if same_protocol => (4, MissReason::Port),
        RuleState::Inactive(_) => (5, MissReason::Protocol),
    }
}
