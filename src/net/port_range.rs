//! A closed range of ports.

use std::fmt;
use std::str::FromStr;

/// Ports `first` to `last`, both included; never empty, never port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// An invalid port range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// The last port is below the first.
    #[error("the range {first}-{last} is empty: the first port is above the last")]
    Empty {
        /// The first port as written.
        first: u16,
        /// The last port as written.
        last: u16,
    },
    /// Port 0 is reserved (IANA) and matches no traffic.
    #[error("port 0 is reserved: expected 1 to 65535")]
    Zero,
    /// Not a port or two ports.
    #[error("{0:?} is no port range: expected a port such as 3478, or two such as 10000-60000")]
    Syntax(String),
}

impl PortRange {
    /// All ports.
    pub const ALL: Self = Self {
        first: 1,
        last: u16::MAX,
    };

    /// Creates a range.
    ///
    /// # Errors
    /// [`PortRangeError::Zero`] or [`PortRangeError::Empty`].
    pub const fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        match (first, last) {
            (0, _) => Err(PortRangeError::Zero),
            _ if first > last => Err(PortRangeError::Empty { first, last }),
            _ => Ok(Self { first, last }),
        }
    }

    /// Returns the lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Returns the highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether the range contains `port`.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether the two ranges share a port.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let port = |part: &str| {
            part.trim()
                .parse::<u16>()
                .map_err(|_| PortRangeError::Syntax(text.to_owned()))
        };
        match text.split_once('-') {
            Some((first, last)) => Self::new(port(first)?, port(last)?),
            None => port(text).and_then(|only| Self::new(only, only)),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_or_two() {
        assert_eq!("3478".parse(), PortRange::new(3478, 3478));
        assert_eq!("10000-60000".parse(), PortRange::new(10_000, 60_000));
        assert_eq!(" 10000 - 60000 ".parse(), PortRange::new(10_000, 60_000));
    }

    #[test]
    fn errors_are_distinguished() {
        assert_eq!("0".parse::<PortRange>(), Err(PortRangeError::Zero));
        assert_eq!(
            "9-8".parse::<PortRange>(),
            Err(PortRangeError::Empty { first: 9, last: 8 })
        );
        for bad in ["", "-", "1-", "-1", "65536", "1-2-3", "http"] {
            assert!(
                matches!(bad.parse::<PortRange>(), Err(PortRangeError::Syntax(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_range_includes_its_bounds() {
        let media = PortRange::new(10_000, 60_000).expect("a range");
        assert!(media.contains(10_000) && media.contains(60_000));
        assert!(!media.contains(9_999) && !media.contains(60_001));
    }
}
