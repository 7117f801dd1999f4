//! nftables, as a table of its own, and as a part of another table, which is what OpenWrt's firewall includes.

use super::{ExportFormat, ExportWriter, Selection, TrafficSelector};
use crate::net::Family;

/// A table of its own, for `nft -f`.
pub(super) const NFTABLES: ExportFormat = ExportFormat {
    name: "nftables",
    about: "nftables: marks the traffic both ways, and allows it. Load with nft -f",
    comment: Some("#"),
    write: |selection, out| {
        // Known or not, the table is new after the second line.
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
    about: "OpenWrt (fw4): marks the traffic both ways, and allows it. Save as /etc/nftables.d/10-voicelane.nft, then \
            fw4 reload. Leave flow offloading off: offloaded flows pass no rules",
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
        "An accept counts only in the table that would drop. Where one does, let its forward chain \
         jump to this one, within the same table.",
    );
    out.line("chain voicelane_allow {");
    rules(&selectors, out, |_, _, way| match way {
        Way::Up => "accept".to_owned(),
        Way::Down => "ct state established accept".to_owned(),
    });
    out.line("}");
}

/// A direction: to the servers, or from them.
#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

fn rules(
    selectors: &[TrafficSelector],
    out: &mut ExportWriter,
    action: impl Fn(&TrafficSelector, &str, Way) -> String,
) {
    for (way, addr, port) in [(Way::Up, "daddr", "dport"), (Way::Down, "saddr", "sport")] {
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
                    action(selector, word, way)
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
