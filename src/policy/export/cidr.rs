//! Plain prefixes, one a line.

use super::{ExportFormat, ExportWriter, Selection};

/// For everything that takes a list.
pub(super) const CIDR: ExportFormat = ExportFormat {
    name: "cidr",
    about: "Prefixes, one a line",
    comment: Some("#"),
    write,
};

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    selection.note_addresses_only(out);
    for prefix in selection.prefixes() {
        out.line(prefix.to_string());
    }
}
