//! What the service says of itself.

use super::{Finding, SystemFacts};
use crate::control::{AskError, State};
use crate::nftables::BLOCKS;

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let status = match &facts.status {
        Ok(status) => status,
        Err(AskError::NotRunning(_)) => {
            return vec![Finding::fault(
                "voicelane is not running: all media is in the VPN",
                "systemctl start voicelane; or `voicelane run`, and see what it says",
            )];
        }
        Err(AskError::Denied(_)) => {
            return vec![Finding::for_root(
                "the service tells only root and the groups that [control] names",
            )];
        }
        Err(error) => {
            return vec![Finding::unknown(
                error.to_string(),
                "try again; `journalctl -u voicelane` says more",
            )];
        }
    };
    let remedy = "`voicelane status` and `voicelane events` say more";
    let mut findings = vec![match status.state {
        State::Working => Finding::ok(format!(
            "working for {} s, {} mappings",
            status.uptime_seconds,
            status.mappings.len()
        )),
        State::Degraded => Finding::warning("the service works, but has warnings", remedy),
        State::NotWorking => {
            Finding::fault("the service runs, but all media is in the VPN", remedy)
        }
    }];
    // What firewalls do has an examination of its own.
    let warnings = status.warnings.iter().filter(|it| !it.starts_with(BLOCKS));
    findings.extend(warnings.map(|warning| Finding::warning(warning, remedy)));
    findings
}
