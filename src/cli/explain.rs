//! `voicelane explain`: shows the verdict for a packet and the rule that decides. Without a rule, shows the nearest one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use jiff::civil::Date;
use serde_json::{Value, json};

use super::policy::join;
use super::sources::{Files, Overrides};
use crate::config::Config;
use crate::daemon;
use crate::net::{Endpoint, Family, PolicyService, Protocol};
use crate::policy::{Action, InactiveReason, MissReason, NearMiss, Policy, PolicyRule, Verdict};

/// The arguments of `voicelane explain`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// Protocol: udp or tcp
    pub protocol: Protocol,
    /// Destination address and port; an IPv6 address in brackets
    #[arg(value_name = "ADDR:PORT", value_parser = socket_address)]
    pub destination: SocketAddr,
    /// Source address of the application
    #[arg(long, value_name = "ADDR")]
    pub from: Option<IpAddr>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The configuration
    #[command(flatten)]
    pub files: Files,
    /// Settings of the command line
    #[command(flatten)]
    pub overrides: Overrides,
    /// Day of the policy; default: today (UTC)
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub date: Option<Date>,
}

fn socket_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(
        |_| "expected an IP address and a port, such as 168.86.128.1:20000 or [2001:db8::1]:3478",
    )
}

/// Prints the explanation. `find_uplink` returns the interface that relayed packets would use.
///
/// # Errors
/// If standard output cannot be written. Errors of the configuration return exit code 2.
pub(super) fn run(
    args: &ExplainArgs,
    find_uplink: impl FnOnce(&Config, Family) -> Option<String>,
) -> anyhow::Result<ExitCode> {
    let config = match args.files.load(&args.overrides) {
        Ok(effective) => effective.into_config(),
        Err(error) => return Ok(error.report()),
    };
    let date = args.date.unwrap_or_else(daemon::today);
    let policy = Policy::compile(&config, date);
    let uplink = find_uplink(&config, Family::of(args.destination.ip()));
    let explanation = Explanation::of(&policy, args, date, uplink);
    if args.json {
        super::print(&format!("{:#}\n", explanation.json()))?;
    } else {
        super::print(&format!("{explanation}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A verdict with its rule, or with the nearest rule.
#[derive(Debug)]
struct Explanation<'a> {
    protocol: Protocol,
    destination: Endpoint,
    from: Option<IpAddr>,
    date: Date,
    verdict: Verdict,
    rule: Option<&'a PolicyRule>,
    near: Option<(NearMiss, &'a PolicyRule)>,
    uplink: Option<String>,
}

impl<'a> Explanation<'a> {
    fn of(policy: &'a Policy, args: &ExplainArgs, date: Date, uplink: Option<String>) -> Self {
        let destination = Endpoint::from(args.destination);
        let verdict = policy.evaluate(args.protocol, destination);
        let near = match verdict.action {
            Action::Relay => None,
            Action::Tunnel | Action::Return => policy.near_miss(args.protocol, destination),
        };
        Self {
            protocol: args.protocol,
            destination,
            from: args.from,
            date,
            verdict,
            rule: verdict.rule.and_then(|id| policy.rule(id)),
            near: near.and_then(|near| Some((near, policy.rule(near.rule)?))),
            uplink: uplink.filter(|_| verdict.action == Action::Relay),
        }
    }

    fn json(&self) -> Value {
        let treatment = self.verdict.treatment;
        json!({
            "version": 1,
            "date": self.date,
            "protocol": self.protocol.to_string(),
            "destination": self.destination.to_string(),
            "from": self.from,
            "action": match self.verdict.action {
                Action::Relay => "relay",
                Action::Tunnel => "tunnel",
                Action::Return => "return",
            },
            "rule": self.rule.map(|rule| &rule.service.name),
            "role": self.rule.map(|rule| rule.service.role.name()),
            "prefix": self.verdict.prefix.map(|prefix| prefix.to_string()),
            "treatment": self.rule.map(|_| json!({
                "dscp": treatment.dscp.value(),
                "dscp_name": treatment.dscp.to_string(),
                "priority": treatment.priority,
            })),
            "uplink": self.uplink,
            "near": self.near.as_ref().map(|(near, rule)| json!({
                "rule": rule.service.name,
                "prefix": near.prefix.to_string(),
                "reason": match near.reason {
                    MissReason::Port => "port",
                    MissReason::Protocol => "protocol",
                    MissReason::Inactive(reason) => super::policy::inactive_name(reason),
                },
                "date": match near.reason {
                    MissReason::Inactive(reason) => super::policy::inactive_date(reason),
                    MissReason::Port | MissReason::Protocol => None,
                },
            })),
        })
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.destination)?;
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        let (Some(rule), Some(prefix)) = (self.rule, self.verdict.prefix) else {
            f.write_str(": stays in the VPN\n")?;
            if self.verdict.action == Action::Return {
                f.write_str(
                    "  captured   with its whole prefix, then returned to the VPN (capture = \"prefix\")\n",
                )?;
            }
            return match &self.near {
                Some((near, rule)) => near_miss(f, near, rule),
                None => f.write_str("  reason     no rule has this address"),
            };
        };
        let treatment = self.verdict.treatment;
        f.write_str(": leaves the VPN\n")?;
        writeln!(
            f,
            "  rule       {}: {}",
            rule.service.name, rule.service.description
        )?;
        writeln!(f, "  role       {}", rule.service.role)?;
        writeln!(f, "  prefix     {prefix}")?;
        writeln!(
            f,
            "  ports      {} {}",
            rule.service.protocol,
            join(&rule.service.ports)
        )?;
        let (dscp, value) = (treatment.dscp, treatment.dscp.value());
        write!(
            f,
            "  treatment  DSCP {dscp} ({value}), priority {}",
            treatment.priority
        )?;
        if let Some(uplink) = &self.uplink {
            write!(f, "\n  uplink     {uplink}")?;
        }
        if let Some(source) = &rule.service.source {
            write!(f, "\n  source     {source}")?;
        }
        Ok(())
    }
}

fn near_miss(f: &mut fmt::Formatter<'_>, near: &NearMiss, rule: &PolicyRule) -> fmt::Result {
    let NearMiss { prefix, reason, .. } = near;
    let PolicyService { name, protocol, .. } = &rule.service;
    write!(f, "  reason     {name} has {prefix}, but ")?;
    match reason {
        MissReason::Port => write!(f, "only {protocol} ports {}", join(&rule.service.ports)),
        MissReason::Protocol => write!(f, "only {protocol}"),
        MissReason::Inactive(inactive @ InactiveReason::SwitchedOff) => {
            write!(
                f,
                "is {inactive}: {}\n  to enable  enable = [\"{name}\"]",
                rule.service.description
            )
        }
        MissReason::Inactive(inactive @ InactiveReason::NotYetValid { .. }) => {
            write!(f, "is {inactive}")
        }
        MissReason::Inactive(inactive @ InactiveReason::Expired { .. }) => write!(f, "{inactive}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn explain(protocol: Protocol, destination: &str) -> (String, Value) {
        let policy = Policy::compile(&Config::default(), jiff::civil::date(2024, 6, 1));
        let args = ExplainArgs {
            protocol,
            destination: destination.parse().expect("an endpoint"),
            from: Some("10.8.0.2".parse().expect("an address")),
            json: false,
            files: Files::of_file("it.toml".as_ref()),
            overrides: Overrides::default(),
            date: None,
        };
        let date = jiff::civil::date(2024, 6, 1);
        let explanation = Explanation::of(&policy, &args, date, Some("wlan0".into()));
        (explanation.to_string(), explanation.json())
    }

    #[test]
    fn media_leaves_the_vpn() {
        let (text, json) = explain(Protocol::Udp, "168.86.130.7:20000");
        assert_eq!(
            text,
            "\
udp 168.86.130.7:20000 from 10.8.0.2: leaves the VPN
  rule       talkdesk-media: Conversations voice: RTP of every region's WebRTC gateways
  role       media
  prefix     168.86.128.0/18
  ports      udp 10000-60000
  treatment  DSCP EF (46), priority 6
  uplink     wlan0
  source     https://support.talkdesk.com/hc/en-us/articles/8040747099419"
        );
        let wanted = json!({
            "version": 1,
            "date": "2024-06-01",
            "protocol": "udp",
            "destination": "168.86.130.7:20000",
            "from": "10.8.0.2",
            "action": "relay",
            "rule": "talkdesk-media",
            "role": "media",
            "prefix": "168.86.128.0/18",
            "treatment": {"dscp": 46, "dscp_name": "EF", "priority": 6},
            "uplink": "wlan0",
            "near": null,
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn packets_returned_to_the_vpn_are_named() {
        let text = "version = 1\n[route]\ncapture = 'prefix'";
        let config = Config::parse("prefix", text).expect("it is valid");
        let date = jiff::civil::date(2024, 6, 1);
        let policy = Policy::compile(&config, date);
        let args = ExplainArgs {
            protocol: Protocol::Udp,
            destination: "168.86.130.7:53".parse().expect("an endpoint"),
            from: None,
            json: false,
            files: Files::of_file("prefix.toml".as_ref()),
            overrides: Overrides::default(),
            date: None,
        };
        let explanation = Explanation::of(&policy, &args, date, None);
        assert_eq!(
            explanation.to_string(),
            "\
udp 168.86.130.7:53: stays in the VPN
  captured   with its whole prefix, then returned to the VPN (capture = \"prefix\")
  reason     talkdesk-media has 168.86.128.0/18, but only udp ports 10000-60000"
        );
        assert_eq!(explanation.json()["action"], "return");
    }

    #[test]
    fn a_switched_off_service_names_the_setting_that_enables_it() {
        let (text, json) = explain(Protocol::Tcp, "168.86.130.7:443");
        assert_eq!(
            text,
            "\
tcp 168.86.130.7:443 from 10.8.0.2: stays in the VPN
  reason     talkdesk-signalling has 168.86.128.0/18, but is switched off: HTTPS on the global media range. Off: \
             Talkdesk's IP allow-listing expects TCP 443 from the VPN, so agents could be locked out
  to enable  enable = [\"talkdesk-signalling\"]"
        );
        let near = json!({
            "rule": "talkdesk-signalling",
            "prefix": "168.86.128.0/18",
            "reason": "switched-off",
            "date": null,
        });
        assert_eq!((&json["action"], &json["near"]), (&json!("tunnel"), &near));
        assert_eq!(
            (&json["rule"], &json["treatment"], &json["uplink"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
    }

    #[test]
    fn other_near_misses_name_the_difference() {
        let reason = |protocol, destination| {
            let (text, json) = explain(protocol, destination);
            let line = text.lines().nth(1).expect("a reason").trim().to_owned();
            (
                line,
                json["near"]["reason"].as_str().map(str::to_owned),
                json["near"]["date"].clone(),
            )
        };
        assert_eq!(
            reason(Protocol::Udp, "168.86.130.7:53"),
            (
                "reason     talkdesk-media has 168.86.128.0/18, but only udp ports 10000-60000"
                    .into(),
                Some("port".into()),
                Value::Null
            )
        );
        assert_eq!(
            reason(Protocol::Tcp, "168.86.130.7:20000"),
            (
                "reason     talkdesk-media has 168.86.128.0/18, but only udp".into(),
                Some("protocol".into()),
                Value::Null
            )
        );
        assert_eq!(
            reason(Protocol::Udp, "3.122.181.9:15000"),
            (
                "reason     talkdesk-retired-germany has 3.122.181.0/24, but expired on 2024-01-23"
                    .into(),
                Some("expired".into()),
                json!("2024-01-23")
            )
        );
        assert_eq!(
            reason(Protocol::Udp, "[2606:4700::1111]:53"),
            (
                "reason     no rule has this address".into(),
                None,
                Value::Null
            )
        );
    }
}
