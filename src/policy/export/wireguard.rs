//! WireGuard: the AllowedIPs of a full tunnel, without the destinations of the policy.

use super::{ExportFormat, ExportWriter, Selection};
use crate::net::{Family, Prefix};

/// The AllowedIPs of a peer, and the rules that wg-quick does not create for such a list.
pub(super) const WIREGUARD: ExportFormat = ExportFormat {
    name: "wireguard",
    about: "WireGuard: AllowedIPs of a full tunnel, without these destinations.",
    comment: Some("#"),
    write,
};

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    selection.note_addresses_only(out);
    let inside: Vec<_> = complement(&selection.prefixes())
        .iter()
        .map(Prefix::to_string)
        .collect();
    for line in [
        "wg-quick on Linux keeps its own packets out of the tunnel only if AllowedIPs has a /0. With the list below, \
         the first section below does that. If rp_filter is 1, set it to 2.",
        "On other systems use AllowedIPs alone.",
    ] {
        out.comment(line);
    }
    for line in [
        "[Interface]",
        "Table = 51820",
        "FwMark = 51820",
        "PostUp = ip -4 rule add not fwmark 51820 table 51820; ip -4 rule add table main suppress_prefixlength 0",
        "PostUp = ip -6 rule add not fwmark 51820 table 51820; ip -6 rule add table main suppress_prefixlength 0",
        "PostDown = ip -4 rule del table 51820; ip -4 rule del table main suppress_prefixlength 0",
        "PostDown = ip -6 rule del table 51820; ip -6 rule del table main suppress_prefixlength 0",
        "",
        "[Peer]",
    ] {
        out.line(line);
    }
    out.line(format!("AllowedIPs = {}", inside.join(", ")));
}

/// Returns the fewest prefixes that cover all addresses outside these sorted and aggregated ones.
fn complement(outside: &[Prefix]) -> Vec<Prefix> {
    let mut inside = Vec::new();
    for family in [Family::V4, Family::V6] {
        let all = Prefix::new(family.unspecified(), 0).expect("no host bits");
        subtract(all, outside, &mut inside);
    }
    inside
}

fn subtract(from: Prefix, outside: &[Prefix], inside: &mut Vec<Prefix>) {
    if !outside.iter().any(|hole| hole.overlaps(from)) {
        inside.push(from);
    } else if !outside.iter().any(|hole| hole.covers(from)) {
        let halves = from.halves().expect("a hole lies within");
        for half in halves {
            subtract(half, outside, inside);
        }
    }
}
