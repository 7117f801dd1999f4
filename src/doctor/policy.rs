//! Whether the policy names anything today, and for how long.

use jiff::ToSpan;
use jiff::civil::Date;

use super::{Finding, SystemFacts};
use crate::policy::PolicyRule;

/// How long before the end of a rule one is told.
const NOTICE_DAYS: i64 = 30;

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let rules = facts.policy.rules();
    let active = rules.iter().filter(|rule| rule.is_active());
    let active: Vec<_> = active.collect();
    if active.is_empty() {
        return vec![Finding::fault(
            format!(
                "none of the {} services is active on {}: everything stays in the VPN",
                rules.len(),
                facts.today
            ),
            "`voicelane policy show` says why for each: its dates, or `enable`, `disable` and `include` of the \
             configuration; a newer voicelane may know newer ranges",
        )];
    }
    let next = facts.policy.next_change(facts.today);
    let next = next.map_or_else(
        || "no date ahead".to_owned(),
        |day| format!("the next change on {day}"),
    );
    let mut findings = vec![Finding::ok(format!(
        "{} of {} services are active on {}, {next}",
        active.len(),
        rules.len(),
        facts.today
    ))];
    findings.extend(
        active
            .iter()
            .filter_map(|rule| ends_soon(rule, facts.today)),
    );
    findings
}

fn ends_soon(rule: &PolicyRule, today: Date) -> Option<Finding> {
    let until = rule.valid_until?;
    let horizon = today.checked_add(NOTICE_DAYS.days()).ok()?;
    (until <= horizon).then(|| {
        Finding::warning(
            format!(
                "{} ends on {until}: its media is in the VPN from then on",
                rule.name
            ),
            "look for a newer voicelane, or for the vendor's new ranges, before that day",
        )
    })
}
