//! A service of the policy as it is configured.

use jiff::civil::Date;

use super::{Dscp, PortRange, Prefix, Protocol, Role};

/// A valid service: it has prefixes and ports, and `valid_from` is before `valid_until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyService {
    /// The name, unique in the configuration.
    pub name: String,
    /// The description in one sentence; may be empty.
    pub description: String,
    /// The role in a call.
    pub role: Role,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The prefixes of the servers.
    pub prefixes: Vec<Prefix>,
    /// The ports of the servers.
    pub ports: Vec<PortRange>,
    /// The DSCP of the packets.
    pub dscp: Dscp,
    /// Whether the service is enabled.
    pub enabled: bool,
    /// The first day on which the service is active.
    pub valid_from: Option<Date>,
    /// The first day on which the service is not active any more.
    pub valid_until: Option<Date>,
    /// The address at which the vendor publishes the prefixes and ports.
    pub source: Option<String>,
}
