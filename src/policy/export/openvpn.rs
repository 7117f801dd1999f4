//! OpenVPN: routes by the gateway that was there before the VPN.

use super::{Format, Selection, Sheet};
use crate::net::{Family, Prefix};

/// Lines of a client's configuration.
pub(super) const CLIENT: Format = Format {
    name: "openvpn",
    about: "OpenVPN: routes past the VPN, for the client's configuration",
    comment: Some("#"),
    write: |selection, out| write(selection, out, |route| route),
};

/// The same, which the server tells its clients.
pub(super) const SERVER: Format = Format {
    name: "openvpn-server",
    about: "OpenVPN: routes past the VPN, pushed to the clients, for the server's configuration",
    comment: Some("#"),
    write: |selection, out| write(selection, out, |route| format!("push \"{route}\"")),
};

fn write(selection: &Selection<'_>, out: &mut Sheet, form: fn(String) -> String) {
    selection.note_addresses_only(out);
    for prefix in selection.prefixes() {
        out.line(form(route(prefix)));
    }
}

fn route(prefix: Prefix) -> String {
    match prefix.family() {
        Family::V4 => format!("route {} {} net_gateway", prefix.first(), prefix.netmask()),
        Family::V6 => format!("route-ipv6 {prefix} net_gateway_ipv6"),
    }
}
