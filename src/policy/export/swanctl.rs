//! strongSwan: policies that let the traffic pass without IPsec.

use super::{Format, Selection, Sheet};
use crate::net::{Family, Prefix};

/// A file for /etc/swanctl/conf.d.
pub(super) const SWANCTL: Format = Format {
    name: "swanctl",
    about: "strongSwan: lets the traffic pass without IPsec. Save as /etc/swanctl/conf.d/voicelane.conf, then swanctl \
            --load-conns",
    comment: Some("#"),
    write,
};

fn write(selection: &Selection<'_>, out: &mut Sheet) {
    let lanes = selection.ranges();
    if lanes
        .iter()
        .any(|lane| lane.ports[0].first() != lane.ports[0].last())
    {
        out.note(
            "IPsec policies of Linux know single ports and no ranges: strongSwan takes a range for every port of the \
             same protocol and addresses",
        );
    }
    out.note("no DSCP is set");
    out.line("connections {");
    out.line("  voicelane {");
    out.comment("Never dialled.");
    out.line("    remote_addrs = 127.0.0.1");
    out.line("    children {");
    for (lane, number) in lanes.iter().zip(1..) {
        for (family, word, all) in [(Family::V4, "v4", "0.0.0.0/0"), (Family::V6, "v6", "::/0")] {
            let ports = lane.ports(",", "-");
            let selectors: Vec<_> = lane
                .of(family)
                .iter()
                .map(|prefix: &Prefix| format!("{prefix}[{}/{ports}]", lane.protocol))
                .collect();
            if selectors.is_empty() {
                continue;
            }
            out.line(format!("      voicelane-{number}-{word} {{"));
            out.line(format!("        local_ts = {all}[{}]", lane.protocol));
            out.line(format!("        remote_ts = {}", selectors.join(", ")));
            out.line("        mode = pass");
            out.line("        start_action = trap");
            out.line("      }");
        }
    }
    out.line("    }");
    out.line("  }");
    out.line("}");
}
