//! Which of our own limits was reached, and what to do about it.

use std::collections::BTreeMap;
use std::time::Duration;

/// How long a limit that was reached is worth a warning.
const FRESH: Duration = Duration::from_mins(1);

/// A sentence for each limit that refused something a moment ago, with what to do.
pub(super) fn warnings(reached: &BTreeMap<&'static str, Duration>) -> Vec<String> {
    let fresh = reached.iter().filter(|(_, ago)| **ago < FRESH);
    fresh
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
    fn a_limit_is_named_while_it_is_fresh() {
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
