//! Plain prefixes, one per line.

use super::{ExportFormat, ExportWriter, Selection};

/// A list for any product.
pub(super) const CIDR: ExportFormat = ExportFormat {
    name: "cidr",
    about: "Prefixes, one per line.",
    comment: Some("#"),
    write,
};

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    selection.note_addresses_only(out);
    for prefix in selection.prefixes() {
        out.line(prefix.to_string());
    }
}
