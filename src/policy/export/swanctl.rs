//! strongSwan: bypass policies, which exempt the traffic from IPsec.

use super::{ExportFormat, ExportWriter, Selection};
use crate::net::{Family, Prefix};

/// A file for /etc/swanctl/conf.d.
pub(super) const SWANCTL: ExportFormat = ExportFormat {
    name: "swanctl",
    about: "strongSwan: exempts the traffic from IPsec. Save it as /etc/swanctl/conf.d/voicelane.conf, then run swanctl \
            --load-conns.",
    comment: Some("#"),
    write,
};

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    let selectors = selection.selectors_by_range();
    if selectors
        .iter()
        .any(|selector| selector.ports[0].first() != selector.ports[0].last())
    {
        out.note(
            "IPsec policies of Linux have single ports and no ranges. strongSwan replaces a range by every port of the \
             same protocol and addresses.",
        );
    }
    out.note("No DSCP is set.");
    out.line("connections {");
    out.line("  voicelane {");
    out.comment("This connection is never initiated.");
    out.line("    remote_addrs = 127.0.0.1");
    out.line("    children {");
    for (selector, number) in selectors.iter().zip(1..) {
        for (family, word, all) in [(Family::V4, "v4", "0.0.0.0/0"), (Family::V6, "v6", "::/0")] {
            let ports = selector.ports(",", "-");
            let selectors: Vec<_> = selector
                .of(family)
                .iter()
                .map(|prefix: &Prefix| format!("{prefix}[{}/{ports}]", selector.protocol))
                .collect();
            if selectors.is_empty() {
                continue;
            }
            out.line(format!("      voicelane-{number}-{word} {{"));
            out.line(format!("        local_ts = {all}[{}]", selector.protocol));
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
