//! OpenVPN: routes through the gateway of the physical network (`net_gateway`).

use super::{ExportFormat, ExportWriter, Selection};
use crate::net::{Family, Prefix};

/// Lines of a client configuration.
pub(super) const CLIENT: ExportFormat = ExportFormat {
    name: "openvpn",
    about: "OpenVPN: routes past the VPN, for the client configuration.",
    comment: Some("#"),
    write: |selection, out| write(selection, out, |route| route),
};

/// The same routes, pushed by the server.
pub(super) const SERVER: ExportFormat = ExportFormat {
    name: "openvpn-server",
    about: "OpenVPN: routes past the VPN, pushed to the clients, for the server configuration.",
    comment: Some("#"),
    write: |selection, out| write(selection, out, |route| format!("push \"{route}\"")),
};

fn write(selection: &Selection<'_>, out: &mut ExportWriter, form: fn(String) -> String) {
    selection.note_addresses_only(out);
    let (v4, v6): (Vec<_>, Vec<_>) = selection
        .prefixes()
        .into_iter()
        .partition(|prefix| prefix.family() == Family::V4);
    if !v6.is_empty() {
        let v6: Vec<_> = v6.iter().map(Prefix::to_string).collect();
        // OpenVPN 2.6.14 cannot parse `net_gateway_ipv6` and routes the prefix into the tunnel.
        out.note(format!(
            "OpenVPN 2.6 has no net_gateway for IPv6. These prefixes stay in the VPN: {}.",
            v6.join(", ")
        ));
    }
    for prefix in v4 {
        let (net, mask) = (prefix.first(), prefix.netmask());
        out.line(form(format!("route {net} {mask} net_gateway")));
    }
}
