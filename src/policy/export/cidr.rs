//! Plain prefixes, one a line.

use super::{Format, Selection, Sheet};

/// For everything that takes a list.
pub(super) const CIDR: Format = Format {
    name: "cidr",
    about: "Prefixes, one a line",
    comment: Some("#"),
    write,
};

fn write(selection: &Selection<'_>, out: &mut Sheet) {
    selection.note_addresses_only(out);
    for prefix in selection.prefixes() {
        out.line(prefix.to_string());
    }
}
