//! Whether a firewall on this machine blocks the direct path of media.
//!
//! A running service probes firewalls at each change, so the check uses its result: two probes would detect each other.
//! Without a service, the check sends a probe itself. It never leaves the machine (see [`crate::route::firewall`]).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{Finding, SystemFacts};
use crate::control::Status;
use crate::net::{Dscp, Egress, Endpoint, Family, Inside, Protocol, Role, Treatment};
use crate::nftables::{BLOCKS, Firewall, REMEDY};
use crate::policy::Policy;
use crate::relay::SocketFactory;

/// The name of the nftables chains of the probe.
const NAME: &str = "doctor";

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    match &facts.status {
        Ok(status) => from_status(status),
        Err(_) if facts.is_running() => vec![Finding::needs_root(
            "Not checked: only root and the groups in [control] may query the service.",
        )],
        Err(_) if !facts.may_administer => {
            vec![Finding::needs_root(
                "Not checked: probing a firewall needs root.",
            )]
        }
        Err(_) => probe(facts),
    }
}

fn from_status(status: &Status) -> Vec<Finding> {
    let blocked = status.warnings.iter().filter(|it| it.starts_with(BLOCKS));
    let mut findings: Vec<_> = blocked.map(|warning| finding(warning)).collect();
    if findings.is_empty() {
        findings.push(match &status.uplink {
            Some(_) => {
                Finding::ok("No firewall on this machine blocks media (probed by the service).")
            }
            None => Finding::no_uplink(),
        });
    }
    findings
}

/// Splits the warning of the service into observation and remedy.
fn finding(warning: &str) -> Finding {
    let (found, remedy) = warning.split_once(REMEDY).unwrap_or((warning, "Ask IT."));
    Finding::fault(found, remedy)
}

fn probe(facts: &SystemFacts) -> Vec<Finding> {
    let Ok(uplinks) = &facts.uplinks else {
        return vec![Finding::no_uplink()];
    };
    let firewall = match Firewall::open(NAME) {
        Ok(firewall) => firewall,
        Err(error) => {
            return vec![Finding::unknown(
                format!("Not checked: {error}."),
                "Run: modprobe nf_tables",
            )];
        }
    };
    let prober = match firewall.prober() {
        Ok(prober) => prober,
        Err(error) => {
            return vec![Finding::unknown(
                format!("Not checked: {error}."),
                "Look at `nft list ruleset`, and run the doctor again.",
            )];
        }
    };
    let mark = facts.routing_ids.mark;
    let (mut findings, mut names) = (Vec::new(), BTreeSet::new());
    for (family, uplink) in uplinks.present() {
        names.insert(uplink.name.as_str());
        let sockets = SocketFactory {
            device: uplink.name.clone(),
            mark,
            tunnel_mark: facts.routing_ids.tunnel_mark(),
        };
        let any = Inside(Endpoint::new(family.unspecified(), 0));
        match sockets.open_udp(Egress::Direct, any, None, Treatment::of(Dscp::EF), true) {
            Ok((direct, _)) => {
                let obstacles =
                    prober.probe(&direct, (&uplink.name, mark), &facts.policy.samples(family));
                findings.extend(obstacles.iter().map(|it| finding(&it.to_string())));
            }
            Err(error) => findings.push(Finding::fault(
                format!("A socket for {family} media cannot be opened: {error}."),
                "See the checks of privileges and of the kernel.",
            )),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(format!(
            "No firewall on this machine blocks the direct path through {}.",
            names.into_iter().collect::<Vec<_>>().join(" and ")
        )));
    }
    findings
}

/// Returns a media destination of a family: preferably of a media server, in its widest port range.
pub(super) fn target(policy: &Policy, family: Family) -> Option<SocketAddr> {
    let active = policy
        .rules()
        .iter()
        .filter(|rule| rule.is_active() && rule.service.protocol == Protocol::Udp);
    let of_family = active.filter_map(|rule| {
        let prefix = rule
            .service
            .prefixes
            .iter()
            .find(|it| it.family() == family)?;
        let widest = rule
            .service
            .ports
            .iter()
            .max_by_key(|it| it.last() - it.first())?;
        let is_media = rule.service.role == Role::Media;
        let to = SocketAddr::new(prefix.first(), widest.first());
        Some(((is_media, widest.last() - widest.first()), to))
    });
    of_family.max_by_key(|(rank, _)| *rank).map(|(_, to)| to)
}
