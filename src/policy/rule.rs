//! A rule: one service of the configuration on a given day.

use std::fmt;

use jiff::civil::Date;

use crate::net::{PortRange, Prefix, Protocol, Role, RuleId, Treatment};

/// A service with its place in the policy and its state on the day of compilation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Its place in the policy.
    pub id: RuleId,
    /// The service's name.
    pub name: String,
    /// What it is, in a sentence.
    pub description: String,
    /// The part that it plays in a call.
    pub role: Role,
    /// Its transport.
    pub protocol: Protocol,
    /// Where its servers are.
    pub prefixes: Vec<Prefix>,
    /// The ports that its servers listen on.
    pub ports: Vec<PortRange>,
    /// How its packets are treated.
    pub treatment: Treatment,
    /// Whether it is switched on.
    pub enabled: bool,
    /// The first day on which it is active.
    pub valid_from: Option<Date>,
    /// The first day on which it is no longer active.
    pub valid_until: Option<Date>,
    /// Where the vendor publishes these figures.
    pub source: Option<String>,
    /// Whether it applies today.
    pub state: RuleState,
}

/// Whether a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleState {
    /// Its packets leave the VPN.
    Active,
    /// It is known, but its packets stay in the VPN.
    Inactive(InactiveReason),
}

/// InactiveReason a rule does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InactiveReason {
    /// Its first day is still to come.
    NotYetValid {
        /// The first day.
        from: Date,
    },
    /// Its last day is over.
    Expired {
        /// The day after the last.
        until: Date,
    },
    /// The configuration has it off.
    SwitchedOff,
}

impl RuleState {
    /// The state on a day. Dates come first: what is over cannot be switched on.
    pub(super) fn on(
        today: Date,
        enabled: bool,
        valid_from: Option<Date>,
        valid_until: Option<Date>,
    ) -> Self {
        match (valid_from, valid_until) {
            (_, Some(until)) if until <= today => Self::Inactive(InactiveReason::Expired { until }),
            (Some(from), _) if from > today => Self::Inactive(InactiveReason::NotYetValid { from }),
            _ if !enabled => Self::Inactive(InactiveReason::SwitchedOff),
            _ => Self::Active,
        }
    }
}

impl fmt::Display for InactiveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetValid { from } => write!(f, "not valid before {from}"),
            Self::Expired { until } => write!(f, "expired on {until}"),
            Self::SwitchedOff => f.write_str("switched off"),
        }
    }
}

impl PolicyRule {
    /// Whether it applies.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == RuleState::Active
    }

    /// The longest of its prefixes that holds an address.
    #[must_use]
    pub fn prefix_of(&self, addr: std::net::IpAddr) -> Option<Prefix> {
        let holding = self.prefixes.iter().filter(|prefix| prefix.contains(addr));
        holding.max_by_key(|prefix| prefix.len()).copied()
    }

    /// Whether one of its port ranges holds a port.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|ports| ports.contains(port))
    }
}
