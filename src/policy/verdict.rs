//! The verdict on a packet, with the rule that decides.

use crate::net::{Prefix, RuleId, Treatment};

/// The verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The action.
    pub action: Action,
    /// The rule that decides. None if no rule matches.
    pub rule: Option<RuleId>,
    /// The matching prefix of the rule.
    pub prefix: Option<Prefix>,
    /// The DSCP and priority of the sent packet.
    pub treatment: Treatment,
}

/// The action of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sends the packet by the uplink, past the VPN.
    Relay,
    /// Leaves the packet in the VPN: no rule matches.
    Tunnel,
    /// Returns the packet to the VPN: no rule matches, but the TUN captured it with its prefix.
    Return,
}
