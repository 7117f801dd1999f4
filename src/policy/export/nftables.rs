//! nftables: a separate table, and the same content for another table, as OpenWrt's firewall includes it.

use super::{ExportFormat, ExportWriter, Selection, TrafficSelector};
use crate::net::Family;

/// A separate table, for `nft -f`.
pub(super) const NFTABLES: ExportFormat = ExportFormat {
    name: "nftables",
    about: "nftables: marks the traffic in both directions, and accepts it. Load it with nft -f.",
    comment: Some("#"),
    write: |selection, out| {
        // The first line creates the table if it is missing, so that the second one cannot fail.
        out.line("table inet voicelane");
        out.line("delete table inet voicelane");
        out.line("table inet voicelane {");
        contents(selection, out);
        out.line("}");
    },
};

/// A file for OpenWrt's /etc/nftables.d, or for the inside of any inet table.
pub(super) const OPENWRT: ExportFormat = ExportFormat {
    name: "openwrt",
    about: "OpenWrt (fw4): marks the traffic in both directions, and accepts it. Save it as \
            /etc/nftables.d/10-voicelane.nft, then run fw4 reload. Disable flow offloading: offloaded flows bypass \
            the rules.",
    comment: Some("#"),
    write: contents,
};

fn contents(selection: &Selection<'_>, out: &mut ExportWriter) {
    let selectors = selection.selectors();
    for (selector, number) in selectors.iter().zip(1..) {
        for (family, word) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
            let prefixes = selector.of(family);
            if prefixes.is_empty() {
                continue;
            }
            out.comment(&selector.services.join(", "));
            out.line(format!("set {} {{", set(number, family)));
            out.line(format!("\ttype {word}_addr; flags interval"));
            out.line("\telements = {");
            for prefix in prefixes {
                out.line(format!("\t\t{prefix},"));
            }
            out.line("\t}");
            out.line("}");
        }
    }
    out.line("chain voicelane_mark {");
    out.line("\ttype filter hook postrouting priority mangle; policy accept;");
    rules(&selectors, out, |selector, family, _| {
        let (dscp, priority) = (selector.treatment.dscp.value(), selector.treatment.priority);
        let queue = match priority {
            0 => String::new(),
            _ => format!(" meta priority set 0:{priority}"),
        };
        format!("{family} dscp set {dscp}{queue}")
    });
    out.line("}");
    out.comment(
        "An accept does not override a drop in another table. If another table drops, its forward chain must jump to \
         this chain, within the same table.",
    );
    out.line("chain voicelane_allow {");
    rules(&selectors, out, |_, _, direction| match direction {
        FlowDirection::ToServers => "accept".to_owned(),
        FlowDirection::FromServers => "ct state established accept".to_owned(),
    });
    out.line("}");
}

/// The direction of packets.
#[derive(Clone, Copy)]
enum FlowDirection {
    ToServers,
    FromServers,
}

fn rules(
    selectors: &[TrafficSelector],
    out: &mut ExportWriter,
    action: impl Fn(&TrafficSelector, &str, FlowDirection) -> String,
) {
    for (direction, addr, port) in [
        (FlowDirection::ToServers, "daddr", "dport"),
        (FlowDirection::FromServers, "saddr", "sport"),
    ] {
        for (selector, number) in selectors.iter().zip(1..) {
            for (family, word) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
                if selector.of(family).is_empty() {
                    continue;
                }
                let ports = match selector.ports[..] {
                    [one] => one.to_string(),
                    _ => format!("{{ {} }}", selector.ports(", ", "-")),
                };
                out.line(format!(
                    "\t{word} {addr} @{} {} {port} {ports} {}",
                    set(number, family),
                    selector.protocol,
                    action(selector, word, direction)
                ));
            }
        }
    }
}

fn set(number: usize, family: Family) -> String {
    match family {
        Family::V4 => format!("voicelane_{number}_v4"),
        Family::V6 => format!("voicelane_{number}_v6"),
    }
}
