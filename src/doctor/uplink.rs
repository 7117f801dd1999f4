//! Which way media leaves this machine, and why.

use super::{Finding, SystemFacts};
use crate::control::UplinkStatus;
use crate::net::Family;
use crate::route::desired::{Uplink, UplinkGateway};

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let uplinks = match &facts.uplinks {
        Ok(uplinks) => uplinks,
        Err(error) => {
            return vec![Finding::fault(
                format!("{error}; all media is in the VPN"),
                "connect a network; if one is, name it: [uplink] interface, or --uplink IFACE",
            )];
        }
    };
    let mut findings = match (&uplinks.v4, &uplinks.v6) {
        (Some(v4), Some(v6)) if v4.name != v6.name => {
            vec![
                Finding::ok(way(v4, Family::V4)),
                Finding::ok(way(v6, Family::V6)),
            ]
        }
        (v4, v6) => {
            let uplink = v4.as_ref().or(v6.as_ref());
            let words = [(Family::V4, v4), (Family::V6, v6)]
                .map(|(family, it)| onwards(it.as_ref(), family));
            let link = uplink.map(|it| format!("{} ({}); {}", it.name, it.why, words.join(", ")));
            link.map(Finding::ok).into_iter().collect()
        }
    };
    let status = facts.status.as_ref().ok();
    for family in Family::BOTH {
        let told = status.and_then(|status| {
            let own = status.uplink_v6.as_ref().filter(|_| family == Family::V6);
            own.or(status.uplink.as_ref())
                .filter(|it| serves(it, family))
        });
        if let Some((told, best)) = told.zip(facts.uplink(family))
            && told.interface != best.name
        {
            findings.push(Finding::ok(format!(
                "media of {family} still leaves by {} ({}): a better uplink must prove itself first",
                told.interface, told.reason
            )));
        }
    }
    findings
}

fn serves(uplink: &UplinkStatus, family: Family) -> bool {
    match family {
        Family::V4 => uplink.gateway_v4.is_some(),
        Family::V6 => uplink.gateway_v6.is_some(),
    }
}

fn way(uplink: &Uplink, family: Family) -> String {
    let onwards = onwards(Some(uplink), family);
    format!("{} ({}); {onwards}", uplink.name, uplink.why)
}

fn onwards(uplink: Option<&Uplink>, family: Family) -> String {
    match uplink.map(|uplink| uplink.gateway) {
        Some(UplinkGateway::Via(router)) => format!("{family} by way of {router}"),
        Some(UplinkGateway::OnLink) => format!("{family} on the link"),
        None => format!("{family} stays in the VPN"),
    }
}
