//! The policy: which traffic leaves the VPN, and how it is treated. Compiled for a day, then immutable.
//!
//! # Theory of operation
//!
//! Each service of the configuration is a [`PolicyRule`]. The prefixes of the active rules form one longest-prefix-match
//! table. Its values are the indexes of service blocks: the (protocol, ports) entries of every rule that covers the
//! prefix. An evaluation is one lookup and a few comparisons, without allocation and without a branch that depends on
//! the packet. The data path, `explain` and the counters all call [`Policy::evaluate`].
//!
//! [`Policy::captures`] is the same policy for the kernel: a set of prefixes for each protocol and port range. Both must
//! agree, or other traffic would leave the VPN; a property test compares them. If whole prefixes are captured, there is
//! a third action, [`Action::Return`]: the packet enters the TUN and returns to the VPN.

mod compile;
pub mod export;
mod nearest;
mod rule;
mod service_block;
mod verdict;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jiff::civil::Date;

pub use nearest::{MissReason, NearMiss};
pub use rule::{InactiveReason, PolicyRule, RuleState};
pub use verdict::{Action, Verdict};

use crate::lpm::LookupTable;
use crate::net::{Capture, CaptureMode, Endpoint, Family, Protocol, RuleId};
use service_block::ServiceBlock;

/// A compiled policy.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<PolicyRule>,
    table: LookupTable<BlockIndex>,
    blocks: Vec<ServiceBlock>,
    captures: Vec<Capture>,
    capture_mode: CaptureMode,
}

/// The index of the first service block of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BlockIndex(u32);

impl Policy {
    /// Returns the verdict for a packet: of the active rule with the longest matching prefix, the first one among equals.
    #[expect(
        clippy::inline_always,
        reason = "a call passes endpoint and verdict in memory, which costs more than the evaluation"
    )]
    #[inline(always)]
    #[must_use]
    pub fn evaluate(&self, protocol: Protocol, destination: Endpoint) -> Verdict {
        let index = self.table.lookup(destination.addr);
        let BlockIndex(first) = index.expect("the table has both default prefixes");
        service_block::verdict(&self.blocks[first as usize..], protocol, destination.port)
    }

    /// Returns all rules, active or not, in the order of the configuration.
    #[must_use]
    pub fn rules(&self) -> &[PolicyRule] {
        &self.rules
    }

    /// Returns the rule of an id of this policy.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&PolicyRule> {
        self.rules.get(usize::from(id.0))
    }

    /// Returns the traffic to route into the TUN, sorted by protocol and port range. The prefixes of each are sorted, never
    /// empty, and none covers another.
    #[must_use]
    pub fn captures(&self) -> &[Capture] {
        &self.captures
    }

    /// Returns a destination for each relayed UDP port range of a family. A firewall probe sends to them in place of media.
    #[must_use]
    pub fn samples(&self, family: Family) -> Vec<SocketAddr> {
        let active = self.rules.iter();
        let active =
            active.filter(|rule| rule.is_active() && rule.service.protocol == Protocol::Udp);
        let mut samples = BTreeMap::new();
        for rule in active {
            let mut prefixes = rule.service.prefixes.iter();
            let Some(prefix) = prefixes.find(|it| it.family() == family) else {
                continue;
            };
            for ports in &rule.service.ports {
                // The middle, because the ranges of a firewall may end elsewhere.
                let middle = ports.first() + (ports.last() - ports.first()) / 2;
                samples
                    .entry((ports.first(), ports.last()))
                    .or_insert(SocketAddr::new(prefix.first(), middle));
            }
        }
        samples.into_values().collect()
    }

    /// Returns the capture mode.
    #[must_use]
    pub const fn capture_mode(&self) -> CaptureMode {
        self.capture_mode
    }

    /// Returns the next day after `after` on which a date changes the state of a rule.
    #[must_use]
    pub fn next_change(&self, after: Date) -> Option<Date> {
        let enabled = self.rules.iter().filter(|rule| rule.service.enabled);
        let days = enabled
            .flat_map(|rule| [rule.service.valid_from, rule.service.valid_until])
            .flatten();
        days.filter(|day| *day > after).min()
    }
}
