//! Cloudflare WARP: excluded routes of a device profile.

use serde_json::{Value, json};

use super::{ExportFormat, ExportWriter, Selection};
use crate::net::Prefix;

/// The body of a request.
pub(super) const WARP: ExportFormat = ExportFormat {
    name: "warp",
    about: "Cloudflare WARP: split-tunnel entries, the body of PUT /accounts/{account_id}/devices/policy/exclude (JSON).",
    comment: None,
    write,
};

/// The longest description that the API accepts, in characters.
const LONGEST: usize = 100;

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    selection.note_addresses_only(out);
    out.note("The PUT replaces the whole list of the profile. Add the existing entries first.");
    let entry = |prefix: Prefix| json!({ "address": prefix.to_string(), "description": description(selection, prefix) });
    let entries: Value = selection.prefixes().into_iter().map(entry).collect();
    out.json(&entries);
}

/// Names the services of a prefix, as far as the length permits.
fn description(selection: &Selection<'_>, prefix: Prefix) -> String {
    let serves = |its: &Prefix| prefix.covers(*its);
    let rules = selection.rules().iter();
    let names: Vec<_> = rules
        .filter(|rule| rule.service.prefixes.iter().any(serves))
        .map(|rule| rule.service.name.as_str())
        .collect();
    let all = names.join(", ");
    match &names[..] {
        [first, rest @ ..] if all.len() > LONGEST => format!("{first} and {} more", rest.len()),
        _ => all,
    }
}
