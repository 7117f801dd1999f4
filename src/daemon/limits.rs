//! Which of our own limits was reached, and what to do about it.

use std::collections::BTreeMap;
use std::time::Duration;

/// How long a limit that was reached is worth a warning.
const FRESH: Duration = Duration::from_mins(1);

/// A sentence for each limit that refused something a moment ago, with what to do.
pub(super) fn warnings(reached: &BTreeMap<&'static str, Duration>) -> Vec<String> {
    let fresh = reached.iter().filter(|(_, ago)| **ago < FRESH);
    fresh
        .map(|(label, _)| format!("a limit is reached ({label}): {}", advice(label)))
        .collect()
}

fn advice(label: &str) -> &'static str {
    match label {
        "too_many_mappings" | "too_many_mappings_of_address" => {
            "a program opens sockets without end: see which with `ss -uanp`, and end it"
        }
        "too_many_contacts" => {
            "a program sends to a great many hosts from one socket, as a scan does: see which with `ss -uanp`"
        }
        "too_many_connections" | "too_many_connections_of_address" => {
            "a program opens connections without end: see which with `ss -tanp`, and end it"
        }
        "too_many_fragments" => {
            "a program sends fragments that never become whole: see who sends large datagrams"
        }
        _ => "see the counters",
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
            ("too_many_contacts", ago(60)),
            ("too_many_fragments", ago(0)),
        ]);
        let warnings = warnings(&reached);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("`ss -tanp`"), "{warnings:?}");
        assert!(warnings[1].contains("never become whole"), "{warnings:?}");
    }
}
