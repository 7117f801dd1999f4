//! The policy's verdict for a packet, and the rule that decides. Without a rule, the nearest one.

use std::fmt;
use std::net::SocketAddr;

use jiff::civil::Date;
use serde_json::{Value, json};

use crate::cli::policy::{inactive_date, inactive_name, join};
use crate::net::{Endpoint, PolicyService, Protocol};
use crate::policy::{Action, InactiveReason, MissReason, NearMiss, Policy, PolicyRule, Verdict};

/// A verdict with its rule, or with the nearest rule.
#[derive(Debug)]
pub(super) struct PolicyVerdict<'a> {
    pub(super) to: SocketAddr,
    date: Date,
    pub(super) verdict: Verdict,
    pub(super) rule: Option<&'a PolicyRule>,
    near: Option<(NearMiss, &'a PolicyRule)>,
}

impl<'a> PolicyVerdict<'a> {
    pub(super) fn of(policy: &'a Policy, protocol: Protocol, to: SocketAddr, date: Date) -> Self {
        let destination = Endpoint::from(to);
        let verdict = policy.evaluate(protocol, destination);
        let near = match verdict.action {
            Action::Relay => None,
            Action::Tunnel | Action::Return => policy.near_miss(protocol, destination),
        };
        Self {
            to,
            date,
            verdict,
            rule: verdict.rule.and_then(|id| policy.rule(id)),
            near: near.and_then(|near| Some((near, policy.rule(near.rule)?))),
        }
    }

    /// The verdict as a phrase.
    pub(super) const fn phrase(&self) -> &'static str {
        match self.verdict.action {
            Action::Relay => "in the policy: leaves the VPN",
            Action::Tunnel => "not in the policy",
            Action::Return => {
                "not in the policy: captured with its whole prefix, then returned to the VPN"
            }
        }
    }

    pub(super) fn json(&self) -> Value {
        let treatment = self.verdict.treatment;
        json!({
            "date": self.date,
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
            "near": self.near.as_ref().map(|(near, rule)| json!({
                "rule": rule.service.name,
                "prefix": near.prefix.to_string(),
                "reason": match near.reason {
                    MissReason::Port => "port",
                    MissReason::Protocol => "protocol",
                    MissReason::Inactive(reason) => inactive_name(reason),
                },
                "date": match near.reason {
                    MissReason::Inactive(reason) => inactive_date(reason),
                    MissReason::Port | MissReason::Protocol => None,
                },
            })),
        })
    }
}

/// Writes the rule or the nearest rule, each line indented.
impl fmt::Display for PolicyVerdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(rule), Some(prefix)) = (self.rule, self.verdict.prefix) else {
            return match &self.near {
                Some((near, rule)) => near_miss(f, near, rule),
                None => f.write_str("  policy     no rule has this address"),
            };
        };
        let treatment = self.verdict.treatment;
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
        if let Some(source) = &rule.service.source {
            write!(f, "\n  source     {source}")?;
        }
        Ok(())
    }
}

fn near_miss(f: &mut fmt::Formatter<'_>, near: &NearMiss, rule: &PolicyRule) -> fmt::Result {
    let NearMiss { prefix, reason, .. } = near;
    let PolicyService { name, protocol, .. } = &rule.service;
    write!(f, "  policy     {name} has {prefix}, but ")?;
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

    const DATE: Date = jiff::civil::date(2024, 6, 1);

    fn explain(config: &Config, protocol: Protocol, destination: &str) -> (String, Value) {
        let policy = Policy::compile(config, DATE);
        let to = destination.parse().expect("an endpoint");
        let explanation = PolicyVerdict::of(&policy, protocol, to, DATE);
        (
            format!("{}\n{explanation}", explanation.phrase()),
            explanation.json(),
        )
    }

    #[test]
    fn media_leaves_the_vpn() {
        let (text, json) = explain(&Config::default(), Protocol::Udp, "168.86.130.7:20000");
        assert_eq!(
            text,
            "\
in the policy: leaves the VPN
  rule       talkdesk-media: Conversations voice: RTP of every region's WebRTC gateways
  role       media
  prefix     168.86.128.0/18
  ports      udp 10000-60000
  treatment  DSCP EF (46), priority 6
  source     https://support.talkdesk.com/hc/en-us/articles/8040747099419"
        );
        let wanted = json!({
            "date": "2024-06-01",
            "action": "relay",
            "rule": "talkdesk-media",
            "role": "media",
            "prefix": "168.86.128.0/18",
            "treatment": {"dscp": 46, "dscp_name": "EF", "priority": 6},
            "near": null,
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn packets_returned_to_the_vpn_are_named() {
        let text = "version = 1\n[route]\ncapture = 'prefix'";
        let config = Config::parse("prefix", text).expect("it is valid");
        let (text, json) = explain(&config, Protocol::Udp, "168.86.130.7:53");
        assert_eq!(
            text,
            "\
not in the policy: captured with its whole prefix, then returned to the VPN
  policy     talkdesk-media has 168.86.128.0/18, but only udp ports 10000-60000"
        );
        assert_eq!(json["action"], "return");
    }

    #[test]
    fn a_switched_off_service_names_the_setting_that_enables_it() {
        let (text, json) = explain(&Config::default(), Protocol::Tcp, "168.86.130.7:443");
        assert_eq!(
            text,
            "\
not in the policy
  policy     talkdesk-signalling has 168.86.128.0/18, but is switched off: HTTPS on the global media range. Off: \
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
            (&json["rule"], &json["treatment"]),
            (&Value::Null, &Value::Null)
        );
    }

    #[test]
    fn other_near_misses_name_the_difference() {
        for (protocol, destination, expected, name, date) in [
            (
                Protocol::Udp,
                "168.86.130.7:53",
                "talkdesk-media has 168.86.128.0/18, but only udp ports 10000-60000",
                json!("port"),
                Value::Null,
            ),
            (
                Protocol::Tcp,
                "168.86.130.7:20000",
                "talkdesk-media has 168.86.128.0/18, but only udp",
                json!("protocol"),
                Value::Null,
            ),
            (
                Protocol::Udp,
                "3.122.181.9:15000",
                "talkdesk-retired-germany has 3.122.181.0/24, but expired on 2024-01-23",
                json!("expired"),
                json!("2024-01-23"),
            ),
            (
                Protocol::Udp,
                "[2606:4700::1111]:53",
                "no rule has this address",
                Value::Null,
                Value::Null,
            ),
        ] {
            let (text, json) = explain(&Config::default(), protocol, destination);
            assert_eq!(
                text.lines().nth(1),
                Some(format!("  policy     {expected}").as_str())
            );
            assert_eq!(
                (&json["near"]["reason"], &json["near"]["date"]),
                (&name, &date)
            );
        }
    }
}
