//! GlobalProtect: excluded access routes of a gateway.

use super::{ExportFormat, ExportWriter, Selection};
use crate::net::Prefix;

/// A command of PAN-OS, which has no comments.
pub(super) const GLOBALPROTECT: ExportFormat = ExportFormat {
    name: "globalprotect",
    about: "GlobalProtect: excluded access routes, a set command of PAN-OS. Replace GATEWAY and CONFIG.",
    comment: None,
    write,
};

/// The largest number of routes. Clients before version 4.1 accept half of it.
const MOST_ROUTES: usize = 200;

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    selection.note_addresses_only(out);
    let prefixes = selection.prefixes();
    if prefixes.len() > MOST_ROUTES {
        let count = prefixes.len();
        out.note(format!(
            "GlobalProtect accepts {MOST_ROUTES} excluded routes. This export has {count}."
        ));
    }
    let prefixes: Vec<_> = prefixes.iter().map(Prefix::to_string).collect();
    out.line(format!(
        "set global-protect global-protect-gateway GATEWAY remote-user-tunnel-configs CONFIG split-tunneling \
         exclude-access-route [ {} ]",
        prefixes.join(" ")
    ));
}
