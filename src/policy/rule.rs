//! A rule: a service of the configuration on a given day.

use std::fmt;

use jiff::civil::Date;

use crate::net::{PolicyService, Prefix, RuleId, Treatment};

/// A service with its id and its state on the day of compilation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// The position in the policy.
    pub id: RuleId,
    /// The service as it is configured.
    pub service: PolicyService,
    /// The DSCP and priority of its packets.
    pub treatment: Treatment,
    /// The state on the day of compilation.
    pub state: RuleState,
}

/// The state of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleState {
    /// Its packets leave the VPN.
    Active,
    /// Its packets stay in the VPN.
    Inactive(InactiveReason),
}

/// The reason why a rule is inactive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InactiveReason {
    /// The first day is in the future.
    NotYetValid {
        /// The first day.
        from: Date,
    },
    /// The last day is in the past.
    Expired {
        /// The day after the last.
        until: Date,
    },
    /// The configuration disables it.
    SwitchedOff,
}

impl RuleState {
    /// Returns the state on a day. Dates precede the switch: an expired service cannot be enabled.
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
    /// Returns whether the rule is active.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == RuleState::Active
    }

    /// Returns the longest of its prefixes that contains an address.
    #[must_use]
    pub fn prefix_of(&self, addr: std::net::IpAddr) -> Option<Prefix> {
        let matching = self
            .service
            .prefixes
            .iter()
            .filter(|prefix| prefix.contains(addr));
        matching.max_by_key(|prefix| prefix.len()).copied()
    }

    /// Returns whether one of its port ranges contains a port.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.service.ports.iter().any(|ports| ports.contains(port))
    }
}
