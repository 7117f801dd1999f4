//! A verdict: what happens to a packet, and which rule says so.

use crate::net::{Prefix, RuleId, Treatment};

/// What the policy decides for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where the packet goes.
    pub action: Action,
    /// The rule that says so; none for what the policy does not name.
    pub rule: Option<RuleId>,
    /// The prefix of the rule that matched.
    pub prefix: Option<Prefix>,
    /// How the packet is treated on its way out.
    pub treatment: Treatment,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Out by the uplink, past the VPN.
    Relay,
    /// Into the VPN: the policy does not name it.
    Tunnel,
    /// Into the VPN too, but by way of our TUN: it is captured with its prefix, and handed back.
    Return,
}
