//! Attribution: which program changed voicelane's rules, and when the changes are a conflict.
//!
//! A correction is a reconciliation that changed the kernel although the desired state was the same as before.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::control::EventKind;
use crate::route::observed::RoutingRule;
use crate::route::rule_owner::RuleOwner;
use crate::steering::watch::KernelChange;

use super::super::conflict_backoff::{ConflictBackoff, ConflictTransition};
use super::super::counted;
use super::super::events::EventLog;
use super::SUBJECT;

/// The most changed foreign rules that an event names, of each kind.
const NAMED_RULES: usize = 2;

/// The foreign rules at the last reconciliation, and the corrections up to now.
#[derive(Debug, Default)]
pub(super) struct Attribution {
    foreign_rules: BTreeSet<RoutingRule>,
    conflict: ConflictBackoff,
    /// The causes of the last correction, in words.
    causes: Option<String>,
}

impl Attribution {
    /// Records the number of changes that a reconciliation made, and whether they were corrections.
    pub(super) fn record(
        &mut self,
        (changes, is_correction): (usize, bool),
        foreign_rules: BTreeSet<RoutingRule>,
        change: &KernelChange,
        events: &EventLog,
    ) {
        let now = Instant::now();
        let transition = match (changes, is_correction) {
            (0, _) => self.conflict.on_unchanged(now),
            (_, false) => ConflictTransition::None,
            (_, true) => {
                let causes = self.causes(&foreign_rules, change);
                let restored = counted(changes as u64, "rule or route", "rules or routes");
                let reason = format!("{restored} restored: {causes}");
                let took = change.noticed.map_or(Duration::ZERO, |at| now - at);
                events.record_timed(EventKind::RulesRestored, SUBJECT, reason, took);
                self.causes = Some(causes);
                self.conflict.on_correction(now)
            }
        };
        self.foreign_rules = foreign_rules;
        let (kind, reason) = match transition {
            ConflictTransition::None => return,
            ConflictTransition::Started => {
                let causes = self.causes.as_deref().unwrap_or_default();
                let reason =
                    format!("changed too often; restoring them with increasing delay: {causes}");
                (EventKind::RulesContested, reason)
            }
            ConflictTransition::Ended => {
                let reason = "no other program has changed them recently".to_owned();
                (EventKind::RulesUncontested, reason)
            }
        };
        events.record(kind, SUBJECT, reason);
    }

    /// The foreign rules that were added and removed, and the programs that removed voicelane's.
    fn causes(&self, foreign_rules: &BTreeSet<RoutingRule>, change: &KernelChange) -> String {
        let added = foreign_rules.difference(&self.foreign_rules);
        let added = added.map(|rule| format!("{} was added", RuleOwner(rule)));
        let removed = self.foreign_rules.difference(foreign_rules);
        let removed = removed.map(|rule| format!("{} was removed", RuleOwner(rule)));
        let offenders = change.offenders.iter();
        let offenders = offenders.map(|it| format!("{it} removed voicelane's rules or routes"));
        let rules = added.take(NAMED_RULES).chain(removed.take(NAMED_RULES));
        let causes: Vec<_> = rules.chain(offenders).collect();
        if causes.is_empty() {
            return "changed by an unknown program".to_owned();
        }
        causes.join(", ")
    }

    /// The earliest time of the next reconciliation, during a conflict.
    pub(super) fn backoff_until(&self) -> Option<Instant> {
        self.conflict.backoff_until()
    }

    /// The end of the conflict, unless another correction comes first.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        self.conflict.ends_at()
    }

    /// The warning during a conflict.
    pub(super) fn warning(&self) -> Option<String> {
        self.backoff_until()?;
        let causes = self.causes.as_deref().unwrap_or_default();
        Some(format!(
            "Another program keeps changing voicelane's {SUBJECT}. Restoring them with increasing delay. Last change: {causes}"
        ))
    }
}
