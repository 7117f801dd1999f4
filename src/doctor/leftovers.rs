//! Whether a service that was killed has left something.

use super::{Finding, SystemFacts};
use crate::route::plan;
use crate::sysctl::{SavedSysctls, SavedSysctlsError};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    if facts.is_running() {
        return vec![Finding::ok(
            "the service runs: rules and routes of protocol 118 are its own",
        )];
    }
    let mut left: Vec<_> = plan::removal(&facts.numbers, &facts.observed)
        .iter()
        .map(|change| change.to_string().replacen("delete ", "", 1))
        .collect();
    let mut findings = Vec::new();
    match SavedSysctls::open(&facts.options.runtime_dir) {
        Ok(journal) => {
            let settings = journal.entries().iter();
            left.extend(settings.map(|entry| {
                format!("{} = {}, formerly {}", entry.key, entry.after, entry.before)
            }));
        }
        Err(error @ SavedSysctlsError::Format { .. }) => {
            findings.push(Finding::warning(
                error.to_string(),
                "read it, remove it, and look at rp_filter of your links",
            ));
        }
        Err(error) => findings.push(Finding::for_root(error.to_string())),
    }
    if let Some(first) = left.first() {
        findings.push(Finding::fault(
            format!(
                "a killed voicelane has left {} rules, routes and settings: {first}{}",
                left.len(),
                if left.len() > 1 { ", ..." } else { "" }
            ),
            "sudo voicelane cleanup; a start does the same",
        ));
    } else if findings.is_empty() {
        findings.push(Finding::ok("nothing was left behind"));
    }
    findings
}
