//! Meraki MX: requests of the Dashboard API for VPN exclusions, traffic shaping and firewall.

use serde_json::{Value, json};

use super::{ExportFormat, ExportWriter, Selection, TrafficSelector, generator};
use crate::net::{Family, PortRange, Prefix};

/// A document of three requests.
pub(super) const MERAKI: ExportFormat = ExportFormat {
    name: "meraki",
    about: "Meraki MX: VPN exclusions, traffic shaping and firewall rules, as requests of the Dashboard API (JSON).",
    comment: None,
    write,
};

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    let (selectors, ranges) = (
        only_v4(selection.selectors()),
        only_v4(selection.selectors_by_range()),
    );
    let left_out: Vec<_> = selection
        .prefixes()
        .iter()
        .filter(|prefix| prefix.family() == Family::V6)
        .map(Prefix::to_string)
        .collect();
    if !left_out.is_empty() {
        out.note(format!(
            "These requests accept IPv4 only. Left out: {}.",
            left_out.join(", ")
        ));
    }
    if ranges
        .iter()
        .any(|selector| single(selector.ports[0]).is_none())
    {
        out.note(
            "VPN exclusions and traffic shaping accept single ports only. A port range becomes every port of the same \
             addresses: for exclusions of the same protocol, for shaping of both. Firewall rules keep the ranges.",
        );
    }
    out.note("Each PUT replaces the whole list of the network. Add the existing entries first.");

    let mut exclusions: Vec<Value> = Vec::new();
    for next in ranges.iter().flat_map(exclusions_of) {
        // Two port ranges of the same addresses become the same exclusion.
        if !exclusions.contains(&next) {
            exclusions.push(next);
        }
    }
    let requests = [
        (
            "trafficShaping/vpnExclusions",
            json!({ "custom": exclusions, "majorApplications": [] }),
        ),
        (
            "trafficShaping/rules",
            json!({
                "defaultRulesEnabled": true,
                "rules": selectors.iter().map(shaping).collect::<Vec<_>>(),
            }),
        ),
        (
            "firewall/l3FirewallRules",
            json!({ "rules": selectors.iter().map(allowance).collect::<Vec<_>>() }),
        ),
    ];
    let requests = requests.map(|(path, body)| {
        let path = format!("/networks/{{networkId}}/appliance/{path}");
        json!({ "method": "PUT", "path": path, "body": body })
    });
    let services = selection.rules().iter().map(
        |rule| json!({ "name": rule.service.name, "description": rule.service.description, "source": rule.service.source }),
    );
    let document = json!({
        "generator": generator(),
        "policy": selection.identity(),
        "date": selection.date(),
        "services": services.collect::<Vec<_>>(),
        "notes": out.notes(),
        "requests": requests,
    });
    out.json(&document);
}

fn only_v4(mut selectors: Vec<TrafficSelector>) -> Vec<TrafficSelector> {
    for selector in &mut selectors {
        selector
            .prefixes
            .retain(|prefix| prefix.family() == Family::V4);
    }
    selectors.retain(|selector| !selector.prefixes.is_empty());
    selectors
}

fn single(ports: PortRange) -> Option<u16> {
    (ports.first() == ports.last()).then_some(ports.first())
}

fn exclusions_of(selector: &TrafficSelector) -> impl Iterator<Item = Value> {
    let port = single(selector.ports[0]).map_or_else(|| "any".to_owned(), |port| port.to_string());
    selector.prefixes.iter().map(move |prefix| {
        json!({
            "protocol": selector.protocol.to_string(),
            "destination": prefix.to_string(),
            "port": port,
        })
    })
}

fn shaping(selector: &TrafficSelector) -> Value {
    let ports: Option<Vec<_>> = selector.ports.iter().map(|ports| single(*ports)).collect();
    let mut definitions = Vec::new();
    for prefix in &selector.prefixes {
        match &ports {
            Some(ports) => definitions.extend(ports.iter().map(|port| format!("{prefix}:{port}"))),
            None => definitions.push(prefix.to_string()),
        }
    }
    let definition = |value: String| json!({ "type": "ipRange", "value": value });
    json!({
        "definitions": definitions.into_iter().map(definition).collect::<Vec<_>>(),
        "perClientBandwidthLimits": { "settings": "network default" },
        "dscpTagValue": selector.treatment.dscp.value(),
        "priority": "high",
    })
}

fn allowance(selector: &TrafficSelector) -> Value {
    let prefixes: Vec<_> = selector.prefixes.iter().map(Prefix::to_string).collect();
    json!({
        "comment": format!("voicelane: {}", selector.services.join(", ")),
        "policy": "allow",
        "protocol": selector.protocol.to_string(),
        "srcCidr": "Any",
        "srcPort": "Any",
        "destCidr": prefixes.join(","),
        "destPort": selector.ports(",", "-"),
        "syslogEnabled": false,
    })
}
