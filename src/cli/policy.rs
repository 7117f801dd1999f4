//! `voicelane policy`: what is active, what is not, and why; and the same in the words of other programs.

mod export;

use std::process::ExitCode;

use jiff::civil::Date;
use serde_json::{Value, json};

use super::sources::{Files, Overrides};
use crate::daemon;
use crate::policy::{InactiveReason, Policy, PolicyRule, RuleState};

/// What `voicelane policy` is asked.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PolicyArgs {
    /// What to do with the policy
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// The commands on a policy.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum PolicyCommand {
    /// List what is active today, and what is not and why
    Show(PolicyShowArgs),
    /// Write what IT sets up elsewhere: marking, firewalls, what a VPN leaves out
    Export(export::ExportArgs),
}

/// What `voicelane policy show` is asked.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PolicyShowArgs {
    /// The configuration
    #[command(flatten)]
    pub files: Files,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The day to answer for; without one, today (UTC)
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub date: Option<Date>,
}

/// Runs a command on the policy.
///
/// # Errors
/// When nothing can be printed. A bad configuration is reported and answered with exit code 2.
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

/// A stable word for why a rule is not active.
pub(super) const fn why_name(why: InactiveReason) -> &'static str {
    match why {
        InactiveReason::NotYetValid { .. } => "not-yet-valid",
        InactiveReason::Expired { .. } => "expired",
        InactiveReason::SwitchedOff => "switched-off",
    }
}

/// The day that makes a rule inactive.
pub(super) const fn why_date(why: InactiveReason) -> Option<Date> {
    match why {
        InactiveReason::NotYetValid { from: date } | InactiveReason::Expired { until: date } => {
            Some(date)
        }
        InactiveReason::SwitchedOff => None,
    }
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// Joins a list as a person writes it.
pub(super) fn join<T: ToString>(list: &[T]) -> String {
    texts(list).join(", ")
}

fn show(policy: &Policy, date: Date) -> String {
    let rules = policy.rules();
    let width = rules.iter().map(|rule| rule.name.len()).max().unwrap_or(0);
    let head = |rule: &PolicyRule| {
        let ports = format!("{} {}", rule.protocol, join(&rule.ports));
        format!("  {:width$}  {ports:21}", rule.name)
    };
    let (mut active, mut inactive) = (Vec::new(), Vec::new());
    for rule in rules {
        let (head, dscp) = (head(rule), format!("DSCP {}", rule.treatment.dscp));
        match rule.state {
            RuleState::Active => active.push(format!("{head}  {dscp:9}  {}", join(&rule.prefixes))),
            RuleState::Inactive(why) => inactive.push(format!("{head}  {why}")),
        }
    }
    let next = match policy.next_change(date) {
        Some(day) => format!("next change on {day}"),
        None => "no change ahead".into(),
    };
    let title = format!(
        "{date}: {} of {} services active, {next}",
        active.len(),
        rules.len()
    );
    let mut lines = vec![title];
    for (heading, list) in [
        ("Active: leaves the VPN", active),
        ("Inactive: stays in the VPN", inactive),
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
        let why = match rule.state {
            RuleState::Active => None,
            RuleState::Inactive(why) => Some(why),
        };
        json!({
            "name": rule.name,
            "description": rule.description,
            "role": rule.role.name(),
            "protocol": rule.protocol.to_string(),
            "prefixes": texts(&rule.prefixes),
            "ports": texts(&rule.ports),
            "dscp": rule.treatment.dscp.value(),
            "enabled": rule.enabled,
            "valid_from": rule.valid_from,
            "valid_until": rule.valid_until,
            "source": rule.source,
            "active": rule.is_active(),
            "why": why.map(why_name),
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
    fn what_is_active_and_what_is_not_and_why() {
        let (policy, date) = policy();
        assert_eq!(
            show(&policy, date),
            "\
2024-06-01: 1 of 4 services active, next change on 2024-07-01

Active: leaves the VPN
  voice      udp 3478-3481          DSCP EF    52.112.0.0/14, 2603:1063::/38

Inactive: stays in the VPN
  web        tcp 443                switched off
  voice-old  udp 3478-3481, 50000   expired on 2024-06-01
  voice-new  udp 3478-3481          not valid before 2024-07-01"
        );
    }

    #[test]
    fn the_same_as_data() {
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
            "why": "expired",
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
