//! GlobalProtect: the access routes that a gateway's clients exclude.

use super::{ExportFormat, ExportWriter, Selection};
use crate::net::Prefix;

/// A command for PAN-OS. Its shell has no comments.
pub(super) const GLOBALPROTECT: ExportFormat = ExportFormat {
    name: "globalprotect",
    about: "GlobalProtect: excluded access routes, a set command of PAN-OS; put in GATEWAY and CONFIG",
    comment: None,
    write,
};

/// The most routes that a configuration takes; before version 4.1 of the client half as many.
const MOST: usize = 200;

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    selection.note_addresses_only(out);
    let prefixes = selection.prefixes();
    if prefixes.len() > MOST {
        let count = prefixes.len();
        out.note(format!(
            "GlobalProtect takes {MOST} excluded routes; these are {count}"
        ));
    }
    let prefixes: Vec<_> = prefixes.iter().map(Prefix::to_string).collect();
    out.line(format!(
        "set global-protect global-protect-gateway GATEWAY remote-user-tunnel-configs CONFIG split-tunneling \
         exclude-access-route [ {} ]",
        prefixes.join(" ")
    ));
}
