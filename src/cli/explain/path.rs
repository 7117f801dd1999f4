//! The path that packets of an application take now: the kernel's routing decision first, then the running service.

use std::io;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::policy::PolicyVerdict;
use crate::control::{AskError, MediaStatus, Status};
use crate::net::{Family, IfIndex};
use crate::policy::Action;
use crate::route::lookup::{RouteKind, RoutingDecision};
use crate::route::observed::Observed;
use crate::route::rule_owner::RuleOwner;
use crate::route::vpn::Vpn;
use crate::text::duration;

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathVerdict {
    /// Past the VPN, through the service's uplink.
    Direct,
    /// Into a VPN.
    InVpn,
    /// Neither: a local network, this machine, an interface without a VPN, or nowhere.
    Elsewhere,
    /// Not measured.
    Unknown,
}

impl PathVerdict {
    /// The stable name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::InVpn => "vpn",
            Self::Elsewhere => "elsewhere",
            Self::Unknown => "not_measured",
        }
    }
}

/// The facts about a packet.
pub(super) struct PathFacts<'a> {
    /// The application's endpoint, if it is known.
    pub(super) from: SocketAddr,
    /// The kernel's decision for a packet of an application.
    pub(super) route: &'a io::Result<RoutingDecision>,
    /// The kernel's decision for a packet of the service's sockets on the direct path, and into the VPN.
    pub(super) direct: Option<RoutingDecision>,
    pub(super) tunnel: Option<RoutingDecision>,
    /// The policy of the files.
    pub(super) policy: &'a PolicyVerdict<'a>,
    pub(super) status: Result<&'a Status, &'a AskError>,
    pub(super) observed: &'a Observed,
    pub(super) vpns: &'a [Vpn],
    /// The name of the TUN.
    pub(super) tun: &'a str,
    /// Seconds since the uplink of the family failed, if it has.
    pub(super) failed_seconds: Option<u64>,
    /// Whether IPsec policies of other programs exist for the family; none if that was not measured.
    pub(super) has_ipsec: Option<bool>,
}

/// The path of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) verdict: PathVerdict,
    /// The interface by which the packet leaves, if it does.
    pub(super) interface: Option<String>,
    /// The stable name of the reason.
    pub(super) reason: &'static str,
    /// The verdict and the reason in words.
    pub(super) text: String,
    pub(super) remedy: Option<String>,
    /// What was not measured, and what it needs.
    pub(super) not_measured: Option<String>,
}

impl Path {
    fn new(
        verdict: PathVerdict,
        interface: Option<String>,
        reason: &'static str,
        text: impl Into<String>,
    ) -> Self {
        Self {
            verdict,
            interface,
            reason,
            text: text.into(),
            remedy: None,
            not_measured: None,
        }
    }

    fn with_remedy(self, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into()).filter(|remedy| !remedy.is_empty());
        Self { remedy, ..self }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "verdict": self.verdict.name(),
            "interface": self.interface,
            "reason": self.reason,
            "text": self.text,
            "remedy": self.remedy,
            "not_measured": self.not_measured,
        })
    }
}

/// Why a packet is not captured, or not sent directly.
struct Cause {
    reason: &'static str,
    text: String,
    remedy: String,
}

impl PathFacts<'_> {
    /// Returns the path of the packet.
    pub(super) fn path(&self) -> Path {
        let decision = match self.route {
            Ok(decision) => decision,
            Err(error) => {
                let text = format!("goes nowhere: the kernel has no route ({error})");
                return Path::new(PathVerdict::Elsewhere, None, "no_route", text)
                    .with_remedy("Connect to a network.");
            }
        };
        let Some(link) = decision.link else {
            let text = format!("goes nowhere: a route of table {} drops it", decision.table);
            return Path::new(PathVerdict::Elsewhere, None, "dropped", text);
        };
        if decision.kind == RouteKind::Local {
            let text = "not in any VPN: an address of this machine";
            return Path::new(PathVerdict::Elsewhere, None, "this_machine", text);
        }
        if self.name(link) == self.tun {
            return self.captured();
        }
        self.not_captured(*decision, link, self.cause(decision))
    }

    /// The path of a packet that enters the TUN.
    fn captured(&self) -> Path {
        let status = match self.status {
            Ok(status) => status,
            Err(AskError::NotRunning(_)) => {
                let text = format!(
                    "goes nowhere: {} is left over, and no service reads it",
                    self.tun
                );
                return Path::new(PathVerdict::Elsewhere, None, "leftover", text).with_remedy(
                    "Run: sudo systemctl start voicelane, or: sudo voicelane cleanup",
                );
            }
            Err(error) => {
                let text = "captured by voicelane; not measured: whether it leaves directly";
                let path = Path::new(PathVerdict::Unknown, None, "not_measured", text);
                return Path {
                    not_measured: Some(error.to_string()),
                    ..path
                };
            }
        };
        let mut mappings = status.mappings.iter();
        let mapping = mappings.find(|mapping| mapping.inside == self.from);
        if let Some(cause) = mapping.and_then(|mapping| mapping.failover_cause.as_deref()) {
            let text = format!("the direct path of this call failed ({cause})");
            return self.failed_over("call_failed_over", text, "");
        }
        let media = self.media(status);
        if let Some(MediaStatus {
            reason: Some(reason),
            ..
        }) = media
        {
            if let Some(seconds) = self.failed_seconds {
                let text = format!("the direct path failed {} ago", duration(seconds));
                return self.failed_over("uplink_failed", text, &reason.remedy);
            }
            return self.failed_over("failed_over", reason.text.clone(), &reason.remedy);
        }
        if self.policy.verdict.action == Action::Return {
            let text = "captured with its whole prefix, then returned".to_owned();
            return self.failed_over("returned", text, "");
        }
        let uplink = self
            .direct
            .and_then(|it| it.link)
            .map(|link| self.name(link));
        let Some(uplink) = uplink else {
            let text = "captured by voicelane, but the kernel has no route for its direct path";
            return Path::new(PathVerdict::Elsewhere, None, "no_route", text)
                .with_remedy("`voicelane doctor` examines the uplink.");
        };
        if self.is_vpn(&uplink) {
            let text = format!("in the VPN ({uplink}): the service's uplink is the VPN itself");
            return Path::new(PathVerdict::InVpn, Some(uplink), "uplink_is_vpn", text)
                .with_remedy("Correct [uplink] interface, and run: sudo voicelane reload");
        }
        let treatment = self.policy.verdict.treatment;
        if self.policy.verdict.action == Action::Relay {
            let text = format!("leaves directly by {uplink}, marked {}", treatment.dscp);
            return Path::new(PathVerdict::Direct, Some(uplink), "captured", text);
        }
        let text = format!(
            "leaves directly by {uplink}: the running service has another policy than these files"
        );
        Path::new(PathVerdict::Direct, Some(uplink), "other_policy", text)
            .with_remedy("Run: sudo voicelane reload")
    }

    /// The path of a captured packet that the service sends on like an ordinary program.
    fn failed_over(&self, reason: &'static str, text: String, remedy: &str) -> Path {
        let cause = Cause {
            reason,
            text,
            remedy: remedy.to_owned(),
        };
        let Some(decision) = self.tunnel else {
            let text = format!("goes nowhere: {}, and there is no other route", cause.text);
            return Path::new(PathVerdict::Elsewhere, None, reason, text);
        };
        match decision.link {
            Some(link) => self.not_captured(decision, link, Some(cause)),
            None => Path::new(
                PathVerdict::Elsewhere,
                None,
                reason,
                "goes nowhere: its route drops it",
            ),
        }
    }

    /// The path of a packet that leaves by its ordinary route.
    fn not_captured(&self, decision: RoutingDecision, link: IfIndex, cause: Option<Cause>) -> Path {
        let name = self.name(link);
        let (verdict, place) = if self.is_vpn(&name) {
            (PathVerdict::InVpn, format!("in the VPN ({name})"))
        } else if decision.kind == RouteKind::Multicast {
            (
                PathVerdict::Elsewhere,
                format!("not in any VPN: multicast or broadcast on {name}"),
            )
        } else if decision.has_gateway {
            (
                PathVerdict::Elsewhere,
                format!("not in any VPN: goes by {name}, not marked"),
            )
        } else {
            (
                PathVerdict::Elsewhere,
                format!("not in any VPN: local network ({name})"),
            )
        };
        let (reason, text, remedy) = match cause {
            Some(cause) => (
                cause.reason,
                format!("{place}: {}", cause.text),
                cause.remedy,
            ),
            None => ("not_in_policy", place, String::new()),
        };
        let not_measured = match self.has_ipsec {
            Some(false) => None,
            _ if verdict == PathVerdict::InVpn || !decision.has_gateway => None,
            Some(true) => {
                Some("Whether an IPsec policy takes it: `ip xfrm policy` lists them.".to_owned())
            }
            None => Some("Whether an IPsec policy takes it: needs root.".to_owned()),
        };
        let path = Path::new(verdict, Some(name), reason, text).with_remedy(remedy);
        Path {
            not_measured,
            ..path
        }
    }

    /// Why a packet of the policy is not captured; none if the policy does not have it.
    fn cause(&self, decision: &RoutingDecision) -> Option<Cause> {
        if self.policy.verdict.action != Action::Relay {
            return None;
        }
        let cause = |reason, text: &str, remedy: &str| {
            Some(Cause {
                reason,
                text: text.to_owned(),
                remedy: remedy.to_owned(),
            })
        };
        let status = match self.status {
            Ok(status) => status,
            Err(AskError::NotRunning(_)) => {
                let remedy = "Run: sudo systemctl start voicelane";
                return cause("not_running", "voicelane is not running", remedy);
            }
            Err(error) => {
                return cause(
                    "not_measured",
                    "not captured; the reason was not measured",
                    &error.to_string(),
                );
            }
        };
        match self.media(status) {
            Some(MediaStatus {
                reason: Some(reason),
                ..
            }) => cause(reason_name(&reason.code), &reason.text, &reason.remedy),
            Some(_) => {
                let family = Family::of(self.policy.to.ip());
                let mut rules = self.observed.rules.iter();
                let rule = rules.find(|rule| rule.family == family && rule.table == decision.table);
                let rule = rule.map_or_else(
                    || "another rule".to_owned(),
                    |rule| RuleOwner(rule).to_string(),
                );
                cause(
                    "foreign_rule",
                    &format!("{rule} decides"),
                    "`voicelane doctor` names the remedy.",
                )
            }
            None => cause(
                "other_policy",
                "the running service has another policy than these files",
                "Run: sudo voicelane reload",
            ),
        }
    }

    fn media<'s>(&self, status: &'s Status) -> Option<&'s MediaStatus> {
        let family = Family::of(self.policy.to.ip()).to_string().to_lowercase();
        status.media.get(&family)
    }

    fn name(&self, link: IfIndex) -> String {
        let found = self.observed.link(link);
        found.map_or_else(|| format!("link #{}", link.0), |link| link.name.clone())
    }

    /// Whether a link is a VPN or another tunnel.
    fn is_vpn(&self, name: &str) -> bool {
        self.vpns.iter().any(|vpn| vpn.name == name)
            || self
                .observed
                .links
                .iter()
                .any(|link| link.name == name && link.is_tunnel())
    }
}

/// The reasons of the status that a path repeats.
fn reason_name(code: &str) -> &'static str {
    let names = [
        "starting",
        "no_uplink",
        "no_network",
        "firewall_blocked",
        "not_applied",
        "uplink_failed",
        "paused",
    ];
    let found = names.into_iter().find(|name| *name == code);
    found.unwrap_or("not_captured")
}
