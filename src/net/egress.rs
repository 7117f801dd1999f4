//! The two ways out of this machine.

use std::fmt;

/// The way that a socket's packets take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Egress {
    /// By the uplink, past the VPN.
    Direct,
    /// The way that the system would take without us: into the VPN, when there is one.
    Tunnel,
}

impl Egress {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Direct, Self::Tunnel];

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tunnel => "tunnel",
        }
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
