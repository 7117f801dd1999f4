//! The status of the service.

use super::{Finding, SystemFacts};
use crate::control::{AskError, State};
use crate::nftables::BLOCKS;
use crate::text::count;

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let status = match &facts.status {
        Ok(status) => status,
        Err(AskError::NotRunning(_)) => {
            return vec![Finding::fault(
                "voicelane is not running. All media is in the VPN.",
                "Run: systemctl start voicelane. If it does not start: journalctl -u voicelane",
            )];
        }
        Err(AskError::Denied(_)) => {
            return vec![Finding::needs_root(
                "Not checked: only root and the groups in [control] may see the status.",
            )];
        }
        Err(error) => {
            return vec![Finding::unknown(
                format!("Not checked: {error}."),
                "Try again. `journalctl -u voicelane` shows the log.",
            )];
        }
    };
    let remedy = "`voicelane status` and `voicelane events` show details.";
    let mut findings = vec![match status.state {
        State::Working => Finding::ok(format!(
            "The service works (up {} s, {}).",
            status.uptime_seconds,
            count(status.mappings.len(), "mapping")
        )),
        State::Degraded => Finding::warning("The service works, but has warnings.", remedy),
        State::NotWorking => {
            Finding::fault("The service runs, but all media is in the VPN.", remedy)
        }
    }];
    // The firewall check reports these.
    let warnings = status.warnings.iter().filter(|it| !it.starts_with(BLOCKS));
    findings.extend(warnings.map(|warning| Finding::warning(warning, remedy)));
    findings
}
