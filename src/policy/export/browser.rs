//! Chrome and Edge: policies that make WebRTC follow the routing table, and so the exclusions of a VPN.
//!
//! By default a browser binds a socket to each interface and tries all of them. A socket bound to the VPN's address may
//! stay in the VPN whatever the routes are (RFC 8828 section 5.2, modes 1 and 2).

use serde_json::{Value, json};

use super::{ExportFormat, ExportWriter};

/// A file for Chrome's managed policies.
pub(super) const CHROME: ExportFormat = ExportFormat {
    name: "chrome",
    about: "Chrome: WebRTC follows the routing table (JSON). Save it in /etc/opt/chrome/policies/managed.",
    comment: None,
    write: |_, out| {
        write(
            out,
            &json!({ "WebRtcIPHandling": "default_public_and_private_interfaces" }),
        );
    },
};

/// A file for Edge's managed policies.
pub(super) const EDGE: ExportFormat = ExportFormat {
    name: "edge",
    about: "Edge: WebRTC follows the routing table (JSON). Save it in /etc/opt/edge/policies/managed.",
    comment: None,
    write: |_, out| {
        write(
            out,
            &json!({
                "WebRtcLocalhostIpHandling": "default_public_and_private_interfaces",
                "WebRtcRespectOsRoutingTableEnabled": true,
            }),
        );
    },
};

fn write(out: &mut ExportWriter, policies: &Value) {
    out.note(
        "Browser policies have no addresses, ports or DSCP. These settings apply to every site.",
    );
    out.json(policies);
}
