//! Whether the configuration could be in force.

use super::{Finding, SystemFacts};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    vec![match &facts.options.config_fault {
        None => Finding::ok("the configuration is valid"),
        Some(fault) => Finding::fault(
            format!("the configuration cannot be in force: {fault}"),
            "`voicelane check` shows every fault with its line; what follows here goes by the defaults",
        ),
    }]
}
