//! The uplink that media uses, and the reason for it.

use super::{Finding, SystemFacts};
use crate::control::UplinkStatus;
use crate::net::Family;
use crate::route::desired::{Uplink, UplinkEvidence, UplinkGateway, Uplinks};
use crate::route::uplink::{self, UplinkPreferences};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let uplinks = match &facts.uplinks {
        Ok(uplinks) => uplinks,
        Err(error) => {
            return vec![Finding::fault(
                format!("{error}. All media is in the VPN."),
                "Connect to a network. If you are connected, name its interface: [uplink] interface, or --uplink IFACE.",
            )];
        }
    };
    if let Some(finding) = vpn_as_uplink(facts, uplinks) {
        return vec![finding];
    }
    let mut findings = match (&uplinks.v4, &uplinks.v6) {
        (Some(v4), Some(v6)) if v4.name != v6.name => {
            vec![
                Finding::ok(describe(v4, Family::V4)),
                Finding::ok(describe(v6, Family::V6)),
            ]
        }
        (v4, v6) => {
            let uplink = v4.as_ref().or(v6.as_ref());
            let gateways = [(Family::V4, v4), (Family::V6, v6)]
                .map(|(family, it)| gateway(it.as_ref(), family));
            let found = uplink.map(|uplink| {
                let gateways = gateways.join(", ");
                format!("{} ({}): {gateways}.", uplink.name, uplink.why)
            });
            found.map(Finding::ok).into_iter().collect()
        }
    };
    let status = facts.status.as_ref().ok();
    for family in Family::BOTH {
        let current = status.and_then(|status| {
            let v6_only = status.uplink_v6.as_ref().filter(|_| family == Family::V6);
            v6_only
                .or(status.uplink.as_ref())
                .filter(|it| serves(it, family))
        });
        if let Some((current, best)) = current.zip(facts.uplink(family))
            && current.interface != best.name
        {
            findings.push(Finding::ok(format!(
                "{family} media still uses {} ({}): a better uplink must be stable first.",
                current.interface, current.reason
            )));
        }
    }
    findings
}

/// Reports a configured uplink that is a tunnel although a physical uplink exists.
fn vpn_as_uplink(facts: &SystemFacts, uplinks: &Uplinks) -> Option<Finding> {
    let (_, pinned) = uplinks
        .present()
        .find(|it| it.1.why == UplinkEvidence::Pinned)?;
    let is_tunnel = facts.observed.link(pinned.index)?.is_tunnel();
    let own = facts.routing_ids.protocol;
    let physical = uplink::choose(&facts.observed, own, &UplinkPreferences::default()).ok()?;
    let (_, physical) = physical.present().find(|it| it.1.index != pinned.index)?;
    is_tunnel.then(|| {
        Finding::fault(
            format!(
                "The uplink {} is a VPN, so all media is in the VPN. {} is the physical uplink.",
                pinned.name, physical.name
            ),
            "Remove [uplink] interface so that voicelane selects the uplink, or name the physical one.",
        )
    })
}

fn serves(uplink: &UplinkStatus, family: Family) -> bool {
    match family {
        Family::V4 => uplink.gateway_v4.is_some(),
        Family::V6 => uplink.gateway_v6.is_some(),
    }
}

fn describe(uplink: &Uplink, family: Family) -> String {
    let gateway = gateway(Some(uplink), family);
    format!("{} ({}): {gateway}.", uplink.name, uplink.why)
}

fn gateway(uplink: Option<&Uplink>, family: Family) -> String {
    match uplink.map(|uplink| uplink.gateway) {
        Some(UplinkGateway::Via(router)) => format!("{family} via {router}"),
        Some(UplinkGateway::OnLink) => format!("{family} on-link"),
        None => format!("{family} stays in the VPN"),
    }
}
