//! Whether only root can change the configuration files of the service.

use super::{Finding, SystemFacts};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let unsafe_permissions = match &facts.options.trust {
        Some(Ok(())) => {
            return vec![Finding::ok("Only root can change the configuration files.")];
        }
        Some(Err(unsafe_permissions)) => unsafe_permissions,
        None => {
            return vec![Finding::needs_root(
                "Not checked: the configuration files need root.",
            )];
        }
    };
    let whole = (
        unsafe_permissions.as_str(),
        "Check owner and mode of the file.",
    );
    let (found, remedy) = unsafe_permissions.rsplit_once(": ").unwrap_or(whole);
    vec![Finding::fault(
        format!("The service will refuse the configuration: {found}"),
        remedy,
    )]
}
