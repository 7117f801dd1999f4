//! `voicelane policy`: shows active and inactive services, and exports the policy for other products.

mod export;

use std::process::ExitCode;

use jiff::civil::Date;
use serde_json::{Value, json};

use super::sources::{Files, Overrides};
use crate::daemon;
use crate::policy::{InactiveReason, Policy, PolicyRule, RuleState};

/// The arguments of `voicelane policy`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PolicyArgs {
    /// Command
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// The commands on a policy.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum PolicyCommand {
    /// List the active services, and the inactive ones with the reason
    Show(PolicyShowArgs),
    /// Write the policy as configuration of a firewall, VPN, router or browser
    Export(export::ExportArgs),
}

/// The arguments of `voicelane policy show`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PolicyShowArgs {
    /// The configuration
    #[command(flatten)]
    pub files: Files,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Day of the policy; default: today (UTC)
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub date: Option<Date>,
}

/// Runs a policy command.
///
/// # Errors
/// If standard output cannot be written. Errors of the configuration return exit code 2.
pub(super) fn run(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        PolicyCommand::Show(args) => run_show(args),
        PolicyCommand::Export(args) => export::run(args),
    }
}

fn run_show(args: &PolicyShowArgs) -> anyhow::Result<ExitCode> {
    let config = match args.files.load(&Overrides::default()) {
        Ok(effective) => effective.into_config(),
        Err(error) => return Ok(error.report()),
    };
    let date = args.date.unwrap_or_else(daemon::today);
    let policy = Policy::compile(&config, date);
    if args.json {
        super::print(&format!("{:#}\n", show_json(&policy, date)))?;
    } else {
        super::print(&format!("{}\n", show(&policy, date)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the stable name of the reason why a rule is inactive.
pub(super) const fn inactive_name(reason: InactiveReason) -> &'static str {
    match reason {
        InactiveReason::NotYetValid { .. } => "not-yet-valid",
        InactiveReason::Expired { .. } => "expired",
        InactiveReason::SwitchedOff => "switched-off",
    }
}

/// Returns the date that makes a rule inactive.
pub(super) const fn inactive_date(reason: InactiveReason) -> Option<Date> {
    match reason {
        InactiveReason::NotYetValid { from: date } | InactiveReason::Expired { until: date } => {
            Some(date)
        }
        InactiveReason::SwitchedOff => None,
    }
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// Joins a list with commas.
pub(super) fn join<T: ToString>(list: &[T]) -> String {
    texts(list).join(", ")
}

fn show(policy: &Policy, date: Date) -> String {
    let rules = policy.rules();
    let width = rules
        .iter()
        .map(|rule| rule.service.name.len())
        .max()
        .unwrap_or(0);
    let head = |rule: &PolicyRule| {
        let ports = format!("{} {}", rule.service.protocol, join(&rule.service.ports));
        format!("  {:width$}  {ports:21}", rule.service.name)
    };
    let (mut active, mut inactive) = (Vec::new(), Vec::new());
    for rule in rules {
        let (head, dscp) = (head(rule), format!("DSCP {}", rule.treatment.dscp));
        match rule.state {
            RuleState::Active => active.push(format!(
                "{head}  {dscp:9}  {}",
                join(&rule.service.prefixes)
            )),
            RuleState::Inactive(reason) => inactive.push(format!("{head}  {reason}")),
        }
    }
    let next = match policy.next_change(date) {
        Some(day) => format!("next change on {day}"),
        None => "no date of change is known".into(),
    };
    let title = format!(
        "{date}: {} of {} services active, {next}",
        active.len(),
        rules.len()
    );
    let mut lines = vec![title];
    for (heading, list) in [
        ("Active (leaves the VPN):", active),
        ("Inactive (stays in the VPN):", inactive),
    ] {
        if !list.is_empty() {
            lines.extend([String::new(), heading.to_owned()]);
            lines.extend(list);
        }
    }
    lines.join("\n")
}

fn show_json(policy: &Policy, date: Date) -> Value {
    let service = |rule: &PolicyRule| {
        let reason = match rule.state {
            RuleState::Active => None,
            RuleState::Inactive(reason) => Some(reason),
        };
        json!({
            "name": rule.service.name,
            "description": rule.service.description,
            "role": rule.service.role.name(),
            "protocol": rule.service.protocol.to_string(),
            "prefixes": texts(&rule.service.prefixes),
            "ports": texts(&rule.service.ports),
            "dscp": rule.treatment.dscp.value(),
            "enabled": rule.service.enabled,
            "valid_from": rule.service.valid_from,
            "valid_until": rule.service.valid_until,
            "source": rule.service.source,
            "active": rule.is_active(),
            "inactive_reason": reason.map(inactive_name),
        })
    };
    json!({
        "version": 1,
        "date": date,
        "next_change": policy.next_change(date),
        "services": policy.rules().iter().map(service).collect::<Vec<_>>(),
        "captures": policy.captures().iter().map(|capture| json!({
            "protocol": capture.protocol.to_string(),
            "ports": capture.ports.to_string(),
            "prefixes": texts(&capture.prefixes),
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const FILE: &str = "\
version = 1
include = []
[[service]]
name = 'voice'
role = 'media'
protocol = 'udp'
prefixes = ['52.112.0.0/14', '2603:1063::/38']
ports = ['3478-3481']
[[service]]
name = 'web'
role = 'signalling'
protocol = 'tcp'
prefixes = ['52.112.0.0/14']
ports = [443]
enabled = false
[[service]]
name = 'voice-old'
role = 'media'
protocol = 'udp'
prefixes = ['13.107.64.0/18']
ports = ['3478-3481', 50000]
valid_until = 2024-06-01
[[service]]
name = 'voice-new'
role = 'media'
protocol = 'udp'
prefixes = ['52.122.0.0/15']
ports = ['3478-3481']
valid_from = 2024-07-01
";

    fn policy() -> (Policy, Date) {
        let date = jiff::civil::date(2024, 6, 1);
        let config = Config::parse("it.toml", FILE).expect("valid");
        (Policy::compile(&config, date), date)
    }

    #[test]
    fn the_text_lists_active_and_inactive_services() {
        let (policy, date) = policy();
        assert_eq!(
            show(&policy, date),
            "\
2024-06-01: 1 of 4 services active, next change on 2024-07-01

Active (leaves the VPN):
  voice      udp 3478-3481          DSCP EF    52.112.0.0/14, 2603:1063::/38

Inactive (stays in the VPN):
  web        tcp 443                switched off
  voice-old  udp 3478-3481, 50000   expired on 2024-06-01
  voice-new  udp 3478-3481          not valid before 2024-07-01"
        );
    }

    #[test]
    fn the_json_has_every_field() {
        let (policy, date) = policy();
        let shown = show_json(&policy, date);
        assert_eq!(
            (&shown["version"], &shown["next_change"]),
            (&json!(1), &json!("2024-07-01"))
        );
        let wanted = json!({
            "name": "voice-old",
            "description": "",
            "role": "media",
            "protocol": "udp",
            "prefixes": ["13.107.64.0/18"],
            "ports": ["3478-3481", "50000"],
            "dscp": 46,
            "enabled": true,
            "valid_from": null,
            "valid_until": "2024-06-01",
            "source": null,
            "active": false,
            "inactive_reason": "expired",
        });
        assert_eq!(shown["services"][2], wanted);
        let capture = json!({
            "protocol": "udp",
            "ports": "3478-3481",
            "prefixes": ["52.112.0.0/14", "2603:1063::/38"],
        });
        assert_eq!(shown["captures"], json!([capture]));
    }
}
