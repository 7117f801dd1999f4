//! Cisco IOS: access lists, a class map per DSCP, and a policy map that sets it.

use super::{ExportFormat, ExportWriter, Selection, TrafficSelector};
use crate::net::{Dscp, Family, Prefix};

/// Commands of the configuration mode.
pub(super) const IOS: ExportFormat = ExportFormat {
    name: "cisco-ios",
    about: "Cisco IOS: access lists, and a policy map that marks the traffic in both directions.",
    comment: Some("!"),
    write,
};

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    let ranges = selection.selectors_by_range();
    let mut marks: Vec<Dscp> = ranges
        .iter()
        .map(|selector| selector.treatment.dscp)
        .collect();
    marks.sort_unstable();
    marks.dedup();
    let mut classes = Vec::new();
    for dscp in marks {
        let mut lists = Vec::new();
        let selectors = || {
            ranges
                .iter()
                .filter(|selector| selector.treatment.dscp == dscp)
        };
        for direction in ["UP", "DOWN"] {
            for (family, word, head) in [
                (Family::V4, "V4", "ip access-list extended"),
                (Family::V6, "V6", "ipv6 access-list"),
            ] {
                let entries: Vec<_> = selectors()
                    .flat_map(|selector| {
                        let prefixes = selector.of(family).into_iter();
                        prefixes.map(|prefix| entry(selector, prefix, direction))
                    })
                    .collect();
                if entries.is_empty() {
                    continue;
                }
                let name = format!("VOICELANE-{dscp}-{direction}-{word}");
                out.line(format!("{head} {name}"));
                for entry in entries {
                    out.line(format!(" {entry}"));
                }
                lists.push(name);
            }
        }
        classes.push((dscp, lists));
    }
    for (dscp, lists) in &classes {
        out.line(format!("class-map match-any VOICELANE-{dscp}"));
        for list in lists {
            out.line(format!(" match access-group name {list}"));
        }
    }
    out.line("policy-map VOICELANE");
    for (dscp, _) in &classes {
        out.line(format!(" class VOICELANE-{dscp}"));
        out.line(format!("  set dscp {}", dscp.value()));
    }
    for line in [
        "On the interface to the agents and on the interface to the internet, configure: service-policy input VOICELANE",
        "If an access list filters: add the entries of the UP lists to the list of the agents' interface. Replies need \
         stateful inspection, or the entries of the DOWN lists.",
    ] {
        out.comment(line);
    }
}

fn entry(selector: &TrafficSelector, prefix: Prefix, direction: &str) -> String {
    let ports = match selector.ports[0] {
        port if port.first() == port.last() => format!("eq {port}"),
        range => format!("range {} {}", range.first(), range.last()),
    };
    let protocol = selector.protocol;
    match direction {
        "UP" => format!("permit {protocol} any {} {ports}", hosts(prefix)),
        _ => format!("permit {protocol} {} {ports} any", hosts(prefix)),
    }
}

/// Writes a prefix for an access list: with a wildcard mask in IPv4, with a length in IPv6.
fn hosts(prefix: Prefix) -> String {
    match prefix.family() {
        family if prefix.len() == family.bits() => format!("host {}", prefix.first()),
        Family::V4 => format!("{} {}", prefix.first(), prefix.hostmask()),
        Family::V6 => prefix.to_string(),
    }
}
