//! Whether the policy has active services today, and when that changes.

use jiff::ToSpan;
use jiff::civil::Date;

use super::{Finding, SystemFacts};
use crate::policy::PolicyRule;

/// Days before the end of a service on which the warning begins.
const NOTICE_DAYS: i64 = 30;

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let rules = facts.policy.rules();
    let active = rules.iter().filter(|rule| rule.is_active());
    let active: Vec<_> = active.collect();
    if active.is_empty() {
        return vec![Finding::fault(
            format!(
                "None of the {} services is active on {}. All media stays in the VPN.",
                rules.len(),
                facts.today
            ),
            "`voicelane policy show` gives the reason for each: its dates, or `enable`, `disable` and `include` of the \
             configuration. A newer voicelane may have newer ranges.",
        )];
    }
    let next = facts.policy.next_change(facts.today);
    let next = next.map_or_else(
        || "no date of change is known".to_owned(),
        |day| format!("the next change is on {day}"),
    );
    let mut findings = vec![Finding::ok(format!(
        "{} of {} services are active on {}; {next}.",
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
    let until = rule.service.valid_until?;
    let horizon = today.checked_add(NOTICE_DAYS.days()).ok()?;
    (until <= horizon).then(|| {
        Finding::warning(
            format!(
                "{} ends on {until}. From then on its media stays in the VPN.",
                rule.service.name
            ),
            "Before that day, install a newer voicelane or configure the vendor's new ranges.",
        )
    })
}
