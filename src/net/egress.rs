//! The two paths out of this machine.

use std::fmt;

/// The path of a socket's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Egress {
    /// On the uplink, outside the VPN.
    Direct,
    /// As the system routes: into the VPN, if there is one.
    Tunnel,
}

impl Egress {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Direct, Self::Tunnel];

    /// Returns the stable name.
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
