//! The five-tuple of a flow.

use std::fmt;
use std::str::FromStr;

use super::{Endpoint, Inside};

/// A transport protocol of policy rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// UDP (IP protocol 17): media, STUN, TURN.
    Udp,
    /// TCP (IP protocol 6): signalling, media over TCP.
    Tcp,
}

/// A text that names neither UDP nor TCP.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no protocol: expected \"udp\" or \"tcp\"")]
pub struct UnknownProtocol(String);

impl Protocol {
    /// Returns the IP protocol number (IANA "Assigned Internet Protocol Numbers").
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
        }
    }
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        match text {
            _ if text.eq_ignore_ascii_case("udp") => Ok(Self::Udp),
            _ if text.eq_ignore_ascii_case("tcp") => Ok(Self::Tcp),
            _ => Err(UnknownProtocol(text.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

/// A flow as the application sees it: protocol, its own endpoint, the remote endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The application's endpoint, on the TUN side.
    pub inside: Inside<Endpoint>,
    /// The remote endpoint.
    pub remote: Endpoint,
}
