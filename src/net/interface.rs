//! Patterns of interface names.

use std::fmt;
use std::str::FromStr;

/// An interface name, or a pattern in which each `*` matches any text, also an empty one: `eth*`, `*usb*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfacePattern(String);

/// An invalid pattern of interface names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no interface pattern: expected 1 to 15 of A-Z, a-z, 0-9, '-', '_' and '.', and any number of '*'"
)]
pub struct InterfacePatternError(String);

impl InterfacePattern {
    /// Whether a name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        matches(&self.0, name)
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    name.strip_prefix(head).is_some_and(|tail| {
        let ends = tail.char_indices().map(|(at, _)| at).chain([tail.len()]);
        ends.into_iter().any(|at| matches(rest, &tail[at..]))
    })
}

impl FromStr for InterfacePattern {
    type Err = InterfacePatternError;

    fn from_str(text: &str) -> Result<Self, InterfacePatternError> {
        let letters = text.bytes().filter(|letter| *letter != b'*');
        let known = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
        let fits = !text.is_empty() && text.len() <= 31 && letters.clone().count() <= 15;
        if fits && letters.clone().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InterfacePatternError(text.to_owned()))
        }
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_text() {
        let matches = |pattern: &str, name| {
            let pattern: InterfacePattern = pattern.parse().expect("a pattern");
            pattern.matches(name)
        };
        for (pattern, name) in [
            ("eth0", "eth0"),
            ("eth*", "eth0"),
            ("eth*", "eth"),
            ("*", "wlan0"),
            ("en*s0*", "enp0s31f6s0"),
            ("*usb*", "usb"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("eth", "eth0"), ("eth*", "veth0"), ("en*s0", "enp0s0f1")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        for bad in ["", "a b", "eth0/", "sixteen-letters-"] {
            assert!(bad.parse::<InterfacePattern>().is_err(), "{bad}");
        }
    }
}
