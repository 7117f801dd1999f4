//! The policy: what leaves the VPN, and how it is treated. Compiled once for a day, then immutable.
//!
//! # Theory of operation
//!
//! Each service of the configuration is a [`PolicyRule`]. The prefixes of the active rules form one longest-prefix-match
//! table; a prefix's class is a service_block or two of the few (protocol, ports) entries of every rule that covers it, so that
//! an evaluation is one lookup and a few compares, without allocation and without a branch that depends on the packet.
//! The data path, `explain` and the counters all call [`Policy::evaluate`].
//!
//! [`Policy::captures`] says the same thing in the kernel's words, one set of prefixes for each protocol and port
//! range. That the two agree exactly is what keeps everything else in the VPN; a property test holds them to it. With
//! whole prefixes captured the verdict has a third value, [`Action::Return`]: such a packet comes into the TUN as well,
//! and is handed back to the VPN.

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
    rows: Vec<ServiceBlock>,
    captures: Vec<Capture>,
    capture: CaptureMode,
}

/// The place of a class's first service_block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BlockIndex(u32);

impl Policy {
    /// Decides for a packet: the active rule with the longest matching prefix, the first one among equals.
    #[expect(
        clippy::inline_always,
        reason = "a call passes endpoint and verdict in memory, and costs more than the work"
    )]
    #[inline(always)]
    #[must_use]
    pub fn evaluate(&self, protocol: Protocol, destination: Endpoint) -> Verdict {
        let class = self.table.lookup(destination.addr);
        let BlockIndex(first) = class.expect("every address has a class");
        service_block::verdict(&self.rows[first as usize..], protocol, destination.port)
    }

    /// Every rule, active or not, in the order of the configuration.
    #[must_use]
    pub fn rules(&self) -> &[PolicyRule] {
        &self.rules
    }

    /// The rule of an id that this policy gave out.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&PolicyRule> {
        self.rules.get(usize::from(id.0))
    }

    /// What enters the TUN, sorted by protocol and port range. The prefixes of each are sorted, never empty, and none covers
    /// another.
    #[must_use]
    pub fn captures(&self) -> &[Capture] {
        &self.captures
    }

    /// A destination out of each range of UDP ports that is relayed, of a family: what a firewall says to these, it says to
    /// media.
    #[must_use]
    pub fn samples(&self, family: Family) -> Vec<SocketAddr> {
        let active = self.rules.iter();
        let active = active.filter(|rule| rule.is_active() && rule.protocol == Protocol::Udp);
        let mut samples = BTreeMap::new();
        for rule in active {
            let mut prefixes = rule.prefixes.iter();
            let Some(prefix) = prefixes.find(|it| it.family() == family) else {
                continue;
            };
            for ports in &rule.ports {
                // Not at its edge: a firewall may have other ones.
                let middle = ports.first() + (ports.last() - ports.first()) / 2;
                samples
                    .entry((ports.first(), ports.last()))
                    .or_insert(SocketAddr::new(prefix.first(), middle));
            }
        }
        samples.into_values().collect()
    }

    /// How much is captured.
    #[must_use]
    pub const fn capture_mode(&self) -> CaptureMode {
        self.capture
    }

    /// The next day after `after` on which a date switches a rule on or off.
    #[must_use]
    pub fn next_change(&self, after: Date) -> Option<Date> {
        let enabled = self.rules.iter().filter(|rule| rule.enabled);
        let days = enabled
            .flat_map(|rule| [rule.valid_from, rule.valid_until])
            .flatten();
        days.filter(|day| *day > after).min()
    }
}
