//! Chrome and Edge: policies that let WebRTC follow the routing table, which is where a VPN's exclusions are.
//!
//! Left alone, a browser binds a socket to each interface and tries them all; one that is bound to the VPN's address
//! may keep to the VPN whatever the routes say (RFC 8828 section 5.2, modes 1 and 2).

use serde_json::{Value, json};

use super::{ExportFormat, ExportWriter};

/// A file for Chrome's managed policies.
pub(super) const CHROME: ExportFormat = ExportFormat {
    name: "chrome",
    about: "Chrome: WebRTC follows the routing table; a file for /etc/opt/chrome/policies/managed (JSON)",
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
    about: "Edge: WebRTC follows the routing table; a file for /etc/opt/edge/policies/managed (JSON)",
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
        "a browser's policies know no addresses, ports or DSCP: these settings hold for every site",
    );
    out.json(policies);
}
