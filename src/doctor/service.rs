//! The status of the service.

use super::{Finding, SystemFacts};
use crate::control::{AskError, State};
use crate::nftables::BLOCKS;
use crate::text::{count, duration};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let status = match &facts.status {
        Ok(status) => status,
        Err(AskError::NotRunning(_)) => {
            let found = match &facts.options.last_error {
                Some(error) => format!("voicelane is not running. Its last error: {error}"),
                None => "voicelane is not running. The journal has no error of it that this user can read.".to_owned(),
            };
            let remedy = "Run: sudo systemctl start voicelane. If it does not start: sudo journalctl -u voicelane";
            return vec![Finding::fault(found, remedy)];
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
    let details = "`voicelane status` and `voicelane events` show details.";
    let reason = status.reason.clone().unwrap_or_default();
    let remedy = if reason.remedy.is_empty() {
        details
    } else {
        &reason.remedy
    };
    let found = |state: &str| format!("{state}: {}", reason.text);
    let state = match status.state {
        State::Working => Finding::ok(format!(
            "The service works (up {}, {}).",
            duration(status.uptime_seconds),
            count(status.mappings.len(), "mapping")
        )),
        State::Degraded => Finding::warning(found("The service is degraded"), remedy),
        State::NotWorking => Finding::fault(
            found("The service runs, but no media leaves through it"),
            remedy,
        ),
    };
    let state = match &*reason.code {
        "no_uplink" | "no_network" => state.because_of("uplink"),
        "firewall_blocked" => state.because_of("firewall"),
        "empty_policy" => state.because_of("policy"),
        _ => state,
    };
    let mut findings = vec![state];
    // The checks of firewall and uplink report these, and the state its reason.
    let is_other = |it: &&String| {
        let is_reason = !reason.text.is_empty() && it.starts_with(&reason.text);
        !it.starts_with(BLOCKS) && !is_reason
    };
    let warnings = status.warnings.iter().filter(is_other);
    findings.extend(warnings.map(|warning| Finding::warning(warning, details)));
    findings
}
