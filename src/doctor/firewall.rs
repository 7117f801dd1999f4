//! Whether a firewall on this machine forbids the direct way.
//!
//! A running service probes that at each change, and its word is taken: two that probe at once would find each other.
//! Without one, a probe is sent here, which never leaves the machine (see [`crate::nftables`]).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{Finding, SystemFacts};
use crate::control::Status;
use crate::net::{Dscp, Egress, Endpoint, Family, Inside, Protocol, Role, Treatment};
use crate::nftables::{BLOCKS, Firewall, REMEDY};
use crate::policy::Policy;
use crate::relay::SocketFactory;

/// What our chains are called while we probe.
const NAME: &str = "doctor";

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    match &facts.status {
        Ok(status) => told(status),
        Err(_) if facts.is_running() => vec![Finding::for_root(
            "the service knows, and tells only root and the groups that [control] names",
        )],
        Err(_) if !facts.may_administer => {
            vec![Finding::for_root(
                "only root may probe what a firewall forbids",
            )]
        }
        Err(_) => probe(facts),
    }
}

fn told(status: &Status) -> Vec<Finding> {
    let obstacles = status.warnings.iter().filter(|it| it.starts_with(BLOCKS));
    let mut findings: Vec<_> = obstacles.map(|obstacle| finding(obstacle)).collect();
    if findings.is_empty() {
        findings.push(match &status.uplink {
            Some(_) => {
                Finding::ok("the service has probed both ways: no firewall here forbids them")
            }
            None => Finding::unknown(
                "without an uplink there is no way to probe",
                "see what is said of the uplink",
            ),
        });
    }
    findings
}

/// A sentence on an obstacle, parted into what is and what to do.
fn finding(obstacle: &str) -> Finding {
    let (found, remedy) = obstacle.split_once(REMEDY).unwrap_or((obstacle, "ask IT"));
    Finding::fault(found, remedy)
}

fn probe(facts: &SystemFacts) -> Vec<Finding> {
    let Ok(uplinks) = &facts.uplinks else {
        return vec![Finding::unknown(
            "without an uplink there is no way to probe",
            "see what is said of the uplink",
        )];
    };
    let firewall = match Firewall::open(NAME) {
        Ok(firewall) => firewall,
        Err(error) => {
            return vec![Finding::unknown(
                format!("{error}: what a firewall forbids cannot be found out"),
                "load nf_tables (modprobe nf_tables)",
            )];
        }
    };
    let prober = match firewall.prober() {
        Ok(prober) => prober,
        Err(error) => {
            return vec![Finding::unknown(
                format!("{error}: what a firewall forbids cannot be found out"),
                "look at nft list ruleset, and try again",
            )];
        }
    };
    let mark = facts.numbers.mark;
    let (mut findings, mut names) = (Vec::new(), BTreeSet::new());
    for (family, uplink) in uplinks.present() {
        names.insert(uplink.name.as_str());
        let binder = SocketFactory {
            device: uplink.name.clone(),
            addresses: Vec::new(),
            mark,
            tunnel_mark: facts.numbers.tunnel_mark(),
        };
        let any = Inside(Endpoint::new(family.unspecified(), 0));
        match binder.open_udp(Egress::Direct, any, Treatment::of(Dscp::EF), true) {
            Ok((direct, _)) => {
                let obstacles =
                    prober.probe(&direct, (&uplink.name, mark), &facts.policy.samples(family));
                findings.extend(obstacles.iter().map(|it| finding(&it.to_string())));
            }
            Err(error) => findings.push(Finding::fault(
                format!("no socket for {family} media can be opened: {error}"),
                "see what is said of privileges and of the kernel",
            )),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(format!(
            "no firewall here forbids the direct way by {}",
            names.into_iter().collect::<Vec<_>>().join(" and ")
        )));
    }
    findings
}

/// Where media of a family goes, if anywhere: to the media servers themselves rather than to what helps them.
pub(super) fn target(policy: &Policy, family: Family) -> Option<SocketAddr> {
    let meant = policy
        .rules()
        .iter()
        .filter(|rule| rule.is_active() && rule.protocol == Protocol::Udp);
    let of_family = meant.filter_map(|rule| {
        let prefix = rule.prefixes.iter().find(|it| it.family() == family)?;
        let widest = rule.ports.iter().max_by_key(|it| it.last() - it.first())?;
        let is_media = rule.role == Role::Media;
        let to = SocketAddr::new(prefix.first(), widest.first());
        Some(((is_media, widest.last() - widest.first()), to))
    });
    of_family.max_by_key(|(rank, _)| *rank).map(|(_, to)| to)
}
