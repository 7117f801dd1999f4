//! Which way media leaves this machine, and why.

use super::{Finding, Scene};
use crate::net::Family;
use crate::route::uplink::{Gateway, Uplink};

pub(super) fn examine(scene: &Scene) -> Vec<Finding> {
    let uplink = match &scene.uplink {
        Ok(uplink) => uplink,
        Err(error) => {
            return vec![Finding::fault(
                format!("{error}; all media is in the VPN"),
                "connect a network; if one is, name it: [uplink] interface, or --uplink IFACE",
            )];
        }
    };
    let mut findings = vec![Finding::ok(ways(uplink))];
    let told = scene.status.as_ref().ok();
    let told = told.and_then(|status| status.uplink.as_ref());
    if let Some(told) = told.filter(|told| told.interface != uplink.name) {
        findings.push(Finding::ok(format!(
            "media still leaves by {} ({}): a better uplink must prove itself first",
            told.interface, told.why
        )));
    }
    findings
}

fn ways(uplink: &Uplink) -> String {
    let ways = [Family::V4, Family::V6].map(|family| match uplink.gateway(family) {
        Some(Gateway::Via(router)) => format!("{family} by way of {router}"),
        Some(Gateway::OnLink) => format!("{family} on the link"),
        None => format!("{family} stays in the VPN"),
    });
    format!("{} ({}); {}", uplink.name, uplink.why, ways.join(", "))
}
