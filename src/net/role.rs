//! The role of a service.

use std::fmt;
use std::str::FromStr;

use super::Dscp;

/// The role of a service in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Voice, video or screen media, with STUN and TURN.
    Media,
    /// A vendor's network test, which measures the media path.
    Test,
    /// Media over TCP or TLS, for networks where UDP does not pass.
    MediaFallback,
    /// Call control, logins, APIs.
    Signalling,
}

/// A text that names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: expected \"media\", \"test\", \"media-fallback\" or \"signalling\"")]
pub struct UnknownRole(String);

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [
        Self::Media,
        Self::Test,
        Self::MediaFallback,
        Self::Signalling,
    ];

    /// Returns the name in configuration files and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Media => "media",
            Self::Test => "test",
            Self::MediaFallback => "media-fallback",
            Self::Signalling => "signalling",
        }
    }

    /// Returns the default code point: EF for media and tests of its path (RFC 8837 section 5), CS5 for signalling (RFC 4594
    /// section 4.2).
    #[must_use]
    pub const fn dscp(self) -> Dscp {
        match self {
            Self::Media | Self::Test | Self::MediaFallback => Dscp::EF,
            Self::Signalling => Dscp::CS5,
        }
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("Media".parse::<Role>().is_err());
    }
}
