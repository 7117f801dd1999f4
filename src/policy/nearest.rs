//! InactiveReason not: the rule that comes nearest to a packet which stays in the VPN. For people; the data path never asks.

use crate::net::{Endpoint, Prefix, Protocol, RuleId};

use super::{InactiveReason, Policy, PolicyRule, RuleState};

/// A rule that names the destination's address, yet does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleId,
    /// Its prefix that holds the address.
    pub prefix: Prefix,
    /// What keeps it from applying.
    pub reason: MissReason,
}

/// What keeps a rule from applying to a packet to one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissReason {
    /// Everything matches, but the rule is not active.
    Inactive(InactiveReason),
    /// The rule is for other ports.
    Port,
    /// The rule is for the other protocol.
    Protocol,
}

impl Policy {
    /// The rule that a packet in the VPN comes nearest to: one that only a switch or its date keeps from applying,
    /// else an active one with other ports, else one of the other protocol, else an inactive one; among equals the
    /// longest prefix. None if no rule at all names the address.
    #[must_use]
    pub fn near_miss(&self, protocol: Protocol, destination: Endpoint) -> Option<NearMiss> {
        let judged = self.rules().iter().filter_map(|rule| {
            let prefix = rule.prefix_of(destination.addr)?;
            let (rank, reason) = distance(rule, protocol, destination.port);
            let miss = NearMiss {
                rule: rule.id,
                prefix,
                reason,
            };
            Some(((rank, u8::MAX - prefix.len(), rule.id), miss))
        });
        judged.min_by_key(|(order, _)| *order).map(|(_, miss)| miss)
    }
}

/// How far a rule of the right address is from applying, 0 the nearest.
fn distance(rule: &PolicyRule, protocol: Protocol, port: u16) -> (u8, MissReason) {
    let right_protocol = rule.protocol == protocol;
    match rule.state {
        RuleState::Inactive(why) if right_protocol && rule.has_port(port) => (
            u8::from(why != InactiveReason::SwitchedOff),
            MissReason::Inactive(why),
        ),
        RuleState::Active if right_protocol => (2, MissReason::Port),
        RuleState::Active => (3, MissReason::Protocol),
        RuleState::Inactive(_) if right_protocol => (4, MissReason::Port),
        RuleState::Inactive(_) => (5, MissReason::Protocol),
    }
}
