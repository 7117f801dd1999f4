//! Warnings about limits of voicelane that were reached, with remedies.

use std::collections::BTreeMap;
use std::time::Duration;

/// The time that a warning about a limit lasts.
const DURATION: Duration = Duration::from_mins(1);

/// A warning for each limit that was reached recently.
pub(super) fn warnings(reached: &BTreeMap<&'static str, Duration>) -> Vec<String> {
    let recent = reached.iter().filter(|(_, ago)| **ago < DURATION);
    recent
        .map(|(label, _)| format!("Limit reached: {label}. {}", advice(label)))
        .collect()
}

fn advice(label: &str) -> &'static str {
    match label {
        "too_many_mappings" | "too_many_mappings_of_address" => {
            "A program opens too many sockets. Find it with `ss -uanp` and stop it."
        }
        "too_many_remotes" => {
            "A program sends to too many hosts from one socket, like a scan. Find it with `ss -uanp`."
        }
        "too_many_connections" | "too_many_connections_of_address" => {
            "A program opens too many connections. Find it with `ss -tanp` and stop it."
        }
        "too_many_fragments" => {
            "A program sends incomplete fragments. Find out which one sends large datagrams."
        }
        _ => "See the counters of `voicelane status --json`.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_lasts_for_a_minute() {
        let ago = |seconds| Duration::from_secs(seconds);
        let reached = BTreeMap::from([
            ("too_many_connections", ago(59)),
            ("too_many_remotes", ago(60)),
            ("too_many_fragments", ago(0)),
        ]);
        let warnings = warnings(&reached);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("`ss -tanp`"), "{warnings:?}");
        assert!(warnings[1].contains("incomplete fragments"), "{warnings:?}");
    }
}
