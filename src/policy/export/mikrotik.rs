//! MikroTik RouterOS: address lists, mangle rules and filter rules.

use super::{ExportFormat, ExportWriter, Selection, TrafficSelector};
use crate::net::Family;

/// A script for `/import`.
pub(super) const MIKROTIK: ExportFormat = ExportFormat {
    name: "mikrotik",
    about: "MikroTik RouterOS: marks the traffic in both directions, and accepts it. Load it with /import.",
    comment: Some("#"),
    write,
};

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    for line in [
        "FastTrack bypasses mangle rules. Exclude this traffic from the FastTrack rule.",
        "The filter rules are added at the end of their chain. Move them above the rules that drop.",
    ] {
        out.comment(line);
    }
    let ranges = selection.selectors_by_range();
    for (family, menu) in [(Family::V4, "/ip"), (Family::V6, "/ipv6")] {
        let selectors: Vec<_> = (1..)
            .zip(&ranges)
            .filter(|(_, selector)| !selector.of(family).is_empty())
            .collect();
        if selectors.is_empty() {
            continue;
        }
        // Removes the rules of an earlier import.
        for place in ["filter", "mangle"] {
            out.line(format!(
                "{menu} firewall {place} remove [find comment~\"^voicelane\"]"
            ));
        }
        out.line(format!(
            "{menu} firewall address-list remove [find list~\"^voicelane-\"]"
        ));
        for (number, selector) in &selectors {
            out.comment(&selector.services.join(", "));
            for prefix in selector.of(family) {
                out.line(format!(
                    "{menu} firewall address-list add list=voicelane-{number} address={prefix}"
                ));
            }
        }
        for side in ["dst", "src"] {
            for (number, selector) in &selectors {
                out.line(format!(
                    "{menu} firewall mangle add chain=postrouting {} action=change-dscp new-dscp={} passthrough=yes \
                     comment=voicelane",
                    matching(*number, selector, side),
                    selector.treatment.dscp.value()
                ));
            }
        }
        for (side, state) in [("dst", ""), ("src", " connection-state=established")] {
            for (number, selector) in &selectors {
                out.line(format!(
                    "{menu} firewall filter add chain=forward {}{state} action=accept comment=voicelane",
                    matching(*number, selector, side)
                ));
            }
        }
    }
}

fn matching(number: usize, selector: &TrafficSelector, side: &str) -> String {
    format!(
        "protocol={} {side}-address-list=voicelane-{number} {side}-port={}",
        selector.protocol,
        selector.ports(",", "-")
    )
}
