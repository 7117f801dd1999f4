//! Meraki: bodies for the Dashboard API's VPN exclusions, traffic shaping and firewall of an MX.

use serde_json::{Value, json};

use super::{Format, Lane, Selection, Sheet, generator};
use crate::net::{Family, PortRange, Prefix};

/// A document of three requests.
pub(super) const MERAKI: Format = Format {
    name: "meraki",
    about: "Meraki MX: VPN exclusions, traffic shaping and firewall, as requests of the Dashboard API (JSON)",
    comment: None,
    write,
};

fn write(selection: &Selection<'_>, out: &mut Sheet) {
    let lanes = selection.lanes();
    let v6: Vec<_> = selection
        .prefixes()
        .into_iter()
        .filter(|prefix| prefix.family() == Family::V6)
        .map(|prefix| prefix.to_string())
        .collect();
    if !v6.is_empty() {
        out.note(format!(
            "these requests take IPv4 only; left out: {}",
            v6.join(", ")
        ));
    }
    if lanes
        .iter()
        .flat_map(|lane| &lane.ports)
        .any(|ports| single(*ports).is_none())
    {
        out.note(
            "VPN exclusions and traffic shaping take single ports: where the policy has a range, they take every port \
             of the same addresses (exclusions of the same protocol, shaping of both); the firewall has the ranges",
        );
    }
    out.note("each PUT replaces the whole list of the network: add what it has already");

    let document = |notes: &[String]| {
        json!({
            "generator": generator(),
            "policy": selection.identity(),
            "date": selection.date(),
            "services": selection.rules().iter().map(|rule| json!({
                "name": rule.name,
                "description": rule.description,
                "source": rule.source,
            })).collect::<Vec<_>>(),
            "notes": notes,
            "requests": [
                request("trafficShaping/vpnExclusions", json!({
                    "custom": per_prefix(&selection.ranges(), exclusion),
                    "majorApplications": [],
                })),
                request("trafficShaping/rules", json!({
                    "defaultRulesEnabled": true,
                    "rules": lanes.iter().filter(|lane| has_v4(lane)).map(shaping).collect::<Vec<_>>(),
                })),
                request("firewall/l3FirewallRules", json!({
                    "rules": lanes.iter().filter(|lane| has_v4(lane)).map(allowance).collect::<Vec<_>>(),
                })),
            ],
        })
    };
    let document = document(out.notes());
    out.json(&document);
}

fn request(path: &str, body: Value) -> Value {
    let path = format!("/networks/{{networkId}}/appliance/{path}");
    json!({ "method": "PUT", "path": path, "body": body })
}

fn has_v4(lane: &&Lane) -> bool {
    !lane.of(Family::V4).is_empty()
}

fn single(ports: PortRange) -> Option<u16> {
    (ports.first() == ports.last()).then_some(ports.first())
}

/// The entries of every lane's prefixes, each once.
fn per_prefix(lanes: &[Lane], entry: impl Fn(&Lane, Prefix) -> Value) -> Vec<Value> {
    let mut entries = Vec::new();
    for lane in lanes {
        for prefix in lane.of(Family::V4) {
            let next = entry(lane, prefix);
            if !entries.contains(&next) {
                entries.push(next);
            }
        }
    }
    entries
}

fn exclusion(lane: &Lane, prefix: Prefix) -> Value {
    let port = single(lane.ports[0]).map_or_else(|| "any".to_owned(), |port| port.to_string());
    json!({
        "protocol": lane.protocol.to_string(),
        "destination": prefix.to_string(),
        "port": port,
    })
}

fn shaping(lane: &Lane) -> Value {
    let ports: Option<Vec<_>> = lane.ports.iter().map(|ports| single(*ports)).collect();
    let values = lane
        .of(Family::V4)
        .into_iter()
        .flat_map(|prefix| match &ports {
            Some(ports) => ports
                .iter()
                .map(|port| format!("{prefix}:{port}"))
                .collect(),
            None => vec![prefix.to_string()],
        });
    json!({
        "definitions": values
            .map(|value| json!({ "type": "ipRange", "value": value }))
            .collect::<Vec<_>>(),
        "perClientBandwidthLimits": { "settings": "network default" },
        "dscpTagValue": lane.treatment.dscp.value(),
        "priority": "high",
    })
}

fn allowance(lane: &Lane) -> Value {
    let prefixes: Vec<_> = lane.of(Family::V4).iter().map(Prefix::to_string).collect();
    json!({
        "comment": format!("voicelane: {}", lane.services.join(", ")),
        "policy": "allow",
        "protocol": lane.protocol.to_string(),
        "srcCidr": "Any",
        "srcPort": "Any",
        "destCidr": prefixes.join(","),
        "destPort": lane.ports(",", "-"),
        "syslogEnabled": false,
    })
}
