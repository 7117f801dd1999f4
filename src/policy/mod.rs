//! The policy: what leaves the VPN, and how it is treated. Compiled once for a day, then immutable.
//!
//! # Theory of operation
//!
//! Each service of the configuration is a [`Rule`]. The prefixes of the active rules form one longest-prefix-match
//! table; a prefix's class holds the few (protocol, ports) entries of every rule that covers it, so that an evaluation
//! is one lookup and a short scan, without allocation. The data path, `explain` and the counters all call
//! [`Policy::evaluate`].
//!
//! [`Policy::captures`] says the same thing in the kernel's words, one set of prefixes for each protocol and port
//! range. That the two agree exactly is what keeps everything else in the VPN; a property test holds them to it.

mod compile;
pub mod export;
mod nearest;
mod rule;
mod verdict;

use jiff::civil::Date;

pub use nearest::{NearMiss, Reason};
pub use rule::{Rule, State, Why};
pub use verdict::{Action, Verdict};

use crate::lpm::LookupTable;
use crate::net::{Dscp, Endpoint, PortRange, Prefix, Protocol, RuleId, Treatment};

/// A compiled policy.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    table: LookupTable<Class>,
    classes: Vec<Box<[Entry]>>,
    captures: Vec<Capture>,
}

/// What has to be steered into the TUN for one protocol and port range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The transport.
    pub protocol: Protocol,
    /// The destination ports, as a rule gives them.
    pub ports: PortRange,
    /// The destinations, sorted, none within another; never empty.
    pub prefixes: Vec<Prefix>,
}

/// The index of a list of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Class(u32);

/// What is left to compare once the address is known.
#[derive(Clone, Copy, Debug)]
struct Entry {
    protocol: Protocol,
    ports: PortRange,
    rule: RuleId,
    prefix: Prefix,
    treatment: Treatment,
}

impl Policy {
    /// Decides for a packet: the active rule with the longest matching prefix, the first one among equals.
    #[must_use]
    pub fn evaluate(&self, protocol: Protocol, destination: Endpoint) -> Verdict {
        let class = self.table.lookup(destination.addr);
        let entries = class.map_or(&[][..], |Class(index)| &self.classes[index as usize]);
        let matches =
            |entry: &&Entry| entry.protocol == protocol && entry.ports.contains(destination.port);
        match entries.iter().find(matches) {
            Some(entry) => Verdict {
                action: Action::Relay,
                rule: Some(entry.rule),
                prefix: Some(entry.prefix),
                treatment: entry.treatment,
            },
            None => Verdict {
                action: Action::Tunnel,
                rule: None,
                prefix: None,
                treatment: Treatment::of(Dscp::DF),
            },
        }
    }

    /// Every rule, active or not, in the order of the configuration.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule of an id that this policy gave out.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(usize::from(id.0))
    }

    /// What has to be steered into the TUN, sorted by protocol and port range.
    #[must_use]
    pub fn captures(&self) -> &[Capture] {
        &self.captures
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
