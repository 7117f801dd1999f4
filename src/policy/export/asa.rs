//! Cisco ASA: split-tunnel exclusions of a group policy.

use super::{ExportFormat, ExportWriter, Selection};
use crate::net::{Family, Prefix};

/// Commands of the configuration mode.
pub(super) const ASA: ExportFormat = ExportFormat {
    name: "cisco-asa",
    about: "Cisco ASA: split tunnelling that excludes these destinations. Replace GROUP-POLICY by its name.",
    comment: Some("!"),
    write,
};

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    selection.note_addresses_only(out);
    for prefix in selection.prefixes() {
        // The client reads the source of an entry as the excluded network.
        out.line(format!(
            "access-list VOICELANE-EXCLUDE extended permit ip {}",
            network(prefix)
        ));
    }
    out.line("group-policy GROUP-POLICY attributes");
    out.line(" split-tunnel-policy excludespecified");
    out.line(" ipv6-split-tunnel-policy excludespecified");
    out.line(" split-tunnel-network-list value VOICELANE-EXCLUDE");
}

fn network(prefix: Prefix) -> String {
    match prefix.family() {
        Family::V4 => format!("{} {} any4", prefix.first(), prefix.netmask()),
        Family::V6 => format!("{prefix} any6"),
    }
}
