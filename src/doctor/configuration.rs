//! Whether the configuration is valid.

use super::{Finding, SystemFacts};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    vec![match &facts.options.config_fault {
        None => Finding::ok("The configuration is valid."),
        Some(fault) => Finding::fault(
            format!("The configuration has errors: {fault}"),
            "`voicelane check` shows every error with its line. The checks below use the default configuration.",
        ),
    }]
}
