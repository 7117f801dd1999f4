//! iptables and ip6tables: one file for both, because each skips the rules of the other family (`-4`, `-6`).

use super::{ExportFormat, ExportWriter, Selection, TrafficSelector};
use crate::net::Family;

/// A file for `iptables-restore --noflush`.
pub(super) const IPTABLES: ExportFormat = ExportFormat {
    name: "iptables",
    about: "iptables and ip6tables: chains that mark the traffic in both directions, and accept it.",
    comment: Some("#"),
    write,
};

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    for line in [
        "Load with iptables-restore --noflush and ip6tables-restore --noflush. Without --noflush, all other rules of \
         these two tables are lost.",
        "Run once, with iptables and with ip6tables: -t mangle -A POSTROUTING -j voicelane-mark; -I FORWARD -j voicelane-allow",
    ] {
        out.comment(line);
    }
    let ranges = selection.selectors_by_range();
    out.line("*mangle");
    out.line(":voicelane-mark - [0:0]");
    rules(&ranges, out, "voicelane-mark", |selector| {
        let target = format!("-j DSCP --set-dscp {}", selector.treatment.dscp.value());
        [target.clone(), target]
    });
    out.line("COMMIT");
    out.line("*filter");
    out.line(":voicelane-allow - [0:0]");
    rules(&ranges, out, "voicelane-allow", |_| {
        [
            "-j ACCEPT".to_owned(),
            "-m conntrack --ctstate ESTABLISHED -j ACCEPT".to_owned(),
        ]
    });
    out.line("COMMIT");
}

/// Writes the rules to the servers, then the rules from the servers, each with its target.
fn rules(
    ranges: &[TrafficSelector],
    out: &mut ExportWriter,
    chain: &str,
    targets: impl Fn(&TrafficSelector) -> [String; 2],
) {
    for (direction, (addr, port)) in [("-d", "--dport"), ("-s", "--sport")]
        .into_iter()
        .enumerate()
    {
        for selector in ranges {
            let (ports, target) = (selector.ports(",", ":"), &targets(selector)[direction]);
            for prefix in &selector.prefixes {
                let family = match prefix.family() {
                    Family::V4 => "-4",
                    Family::V6 => "-6",
                };
                out.line(format!(
                    "-A {chain} {family} {addr} {prefix} -p {} {port} {ports} {target}",
                    selector.protocol
                ));
            }
        }
    }
}
