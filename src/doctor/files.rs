//! Whether nobody but root can change what the service obeys.

use super::{Finding, SystemFacts};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let distrust = match &facts.options.trust {
        Some(Ok(())) => {
            return vec![Finding::ok(
                "nobody but root can change the configuration's files",
            )];
        }
        Some(Err(distrust)) => distrust,
        None => return vec![Finding::for_root("the configuration's files are hidden")],
    };
    let nothing = (distrust.as_str(), "see owner and mode of the file");
    let (found, remedy) = distrust.rsplit_once(": ").unwrap_or(nothing);
    vec![Finding::fault(
        format!("the service will not obey the configuration: {found}"),
        remedy,
    )]
}
