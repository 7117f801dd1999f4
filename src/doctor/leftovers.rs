//! Whether a killed service left rules, routes or settings behind.

use super::{Finding, SystemFacts};
use crate::route::plan;
use crate::sysctl::{SavedSysctls, SavedSysctlsError};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    if facts.is_running() {
        return vec![Finding::ok(
            "The service is running. The rules and routes of protocol 118 belong to it.",
        )];
    }
    let mut left: Vec<_> = plan::removal(&facts.routing_ids, &facts.observed)
        .iter()
        .map(|change| change.to_string().replacen("delete ", "", 1))
        .collect();
    let mut findings = Vec::new();
    match SavedSysctls::open(&facts.options.runtime_dir) {
        Ok(saved) => {
            let settings = saved.entries().iter();
            left.extend(settings.map(|entry| {
                format!("{} = {} (before: {})", entry.key, entry.after, entry.before)
            }));
        }
        Err(error @ SavedSysctlsError::Format { .. }) => {
            findings.push(Finding::warning(
                format!("The saved settings cannot be read: {error}."),
                "Read the file, remove it, and check rp_filter of the interfaces.",
            ));
        }
        Err(error) => findings.push(Finding::needs_root(format!("Not checked: {error}."))),
    }
    if let Some(first) = left.first() {
        findings.push(Finding::fault(
            match left.len() {
                1 => format!("A killed voicelane left one rule, route or setting behind: {first}"),
                count => {
                    format!("A killed voicelane left {count} rules, routes or settings behind: {first}, ...")
                }
            },
            "Run: sudo voicelane cleanup. Starting voicelane does the same.",
        ));
    } else if findings.is_empty() {
        findings.push(Finding::ok("No rules, routes or settings are left behind."));
    }
    findings
}
