//! Cloudflare WARP: the routes that a device profile excludes.

use serde_json::{Value, json};

use super::{ExportFormat, ExportWriter, Selection};
use crate::net::Prefix;

/// The body of a request.
pub(super) const WARP: ExportFormat = ExportFormat {
    name: "warp",
    about: "Cloudflare WARP: split tunnel entries, the body of PUT /accounts/{account_id}/devices/policy/exclude (JSON)",
    comment: None,
    write,
};

/// The longest description that the API takes, in characters.
const LONGEST: usize = 100;

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    selection.note_addresses_only(out);
    out.note("the PUT replaces the whole list of the profile: add what it has already");
    let entry = |prefix: Prefix| json!({ "address": prefix.to_string(), "description": description(selection, prefix) });
    let entries: Value = selection.prefixes().into_iter().map(entry).collect();
    out.json(&entries);
}

/// The services of a prefix, as many as fit.
fn description(selection: &Selection<'_>, prefix: Prefix) -> String {
    let serves = |its: &Prefix| prefix.covers(*its);
    let rules = selection.rules().iter();
    let names: Vec<_> = rules
        .filter(|rule| rule.prefixes.iter().any(serves))
        .map(|rule| rule.name.as_str())
        .collect();
    let all = names.join(", ");
    match &names[..] {
        [first, rest @ ..] if all.len() > LONGEST => format!("{first} and {} more", rest.len()),
        _ => all,
    }
}
