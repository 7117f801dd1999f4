//! The summary of the state, which every user may read.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::control::Summary;

/// Returns the summary as text.
pub(super) fn text(summary: &Summary) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        writeln!(out, "{name:<10} {value}").expect("a string takes everything");
    };
    line("state", summary.state.phrase());
    for reason in &summary.reasons {
        line("warning", reason);
    }
    line("voicelane", &summary.program_version);
    line(
        "uplink",
        &list(&summary.uplinks, "none: all media is in the VPN"),
    );
    line("vpn", &list(&summary.vpns, "none found"));
    line(
        "",
        "This is a summary. Root and members of a group in [control] see addresses and calls.",
    );
    out
}

fn list(names: &BTreeSet<String>, none: &str) -> String {
    if names.is_empty() {
        return none.to_owned();
    }
    names
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use crate::control::State;

    use super::*;

    #[test]
    fn the_verdict_is_the_first_line() {
        let summary = Summary {
            program_version: "0.1.0".to_owned(),
            state: State::NotWorking,
            vpns: ["tun0".to_owned()].into(),
            reasons: vec!["No network connection.".to_owned()],
            ..Summary::default()
        };
        let text = text(&summary);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("state      not working"), "{text}");
        assert_eq!(lines[1], "warning    No network connection.");
        assert_eq!(
            lines[3..5],
            [
                "uplink     none: all media is in the VPN",
                "vpn        tun0"
            ]
        );
    }
}
