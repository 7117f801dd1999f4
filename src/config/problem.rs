//! What can be wrong with a file: each problem with its message, what was expected and what to do about it.

use std::fmt::Display;

use jiff::civil::Date;

use super::space::Block;
use crate::net::{Dscp, DscpError, Family, PortRange, PortRangeError, Prefix, PrefixError};

/// One thing that is wrong, without where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says what it is")]
#[non_exhaustive]
pub enum Problem {
    #[error("not TOML: {message}")]
    Syntax { message: String, expected: String },
    #[error("this file is of format version {0}, which this program does not know")]
    Version(String),
    #[error("the key is missing")]
    Missing { example: &'static str },
    #[error("unknown key")]
    UnknownKey {
        meant: Option<&'static str>,
        known: Vec<&'static str>,
    },
    #[error("this is of type {found}")]
    Type {
        found: &'static str,
        expected: &'static str,
    },
    #[error("the list is empty")]
    Empty { expected: &'static str },
    #[error("not one of the possible words")]
    Choice {
        meant: Option<&'static str>,
        choices: Vec<&'static str>,
    },
    #[error("the number is out of range")]
    Number {
        least: u32,
        most: u32,
        reason: &'static str,
    },
    #[error("{0}")]
    Prefix(PrefixError),
    #[error("{prefix} is too wide to be taken out of a VPN")]
    TooWide { prefix: Prefix, shortest: u8 },
    #[error("{prefix} overlaps {} ({}, {})", block.prefix, block.name, block.source)]
    SpecialPurpose { prefix: Prefix, block: Block },
    #[error("{0}")]
    Ports(PortRangeError),
    #[error("port 65535 cannot be taken out of the VPN: the kernel's rules cannot name it")]
    LastPort { first: u16 },
    #[error("{0}")]
    Dscp(DscpError),
    #[error("valid_from {from} is not before valid_until {until}, so the service is never active")]
    NeverValid { from: Date, until: Date },
    #[error("not a possible name for a service")]
    ServiceName,
    #[error("not a possible name for a network interface")]
    InterfaceName,
    #[error("not a pattern of network interfaces' names")]
    InterfacePattern,
    #[error("not a possible name for a group")]
    GroupName,
    #[error("metrics cannot be read there")]
    MetricsPlace,
    #[error("the uplink and the TUN have the same name")]
    UplinkIsTun,
    #[error("the uplink and the TUN have no clients")]
    ClientsAtUplink,
    #[error("a service of this name stands in the same file")]
    DuplicateService,
    #[error("more than {most} services")]
    TooManyServices { most: u16 },
    #[error("there is no {noun} of this name")]
    UnknownName {
        noun: &'static str,
        meant: Option<String>,
        known: Vec<String>,
    },
    #[error("the service is both enabled and disabled")]
    EnabledAndDisabled,
    #[error("table {clash} is the kernel's own, and this policy needs the tables {base} to {last}")]
    ReservedTable { clash: u32, base: u32, last: u64 },
    #[error("too few tables above {base}: this policy needs {needed}")]
    TablesExhausted { base: u32, needed: u32 },
    #[error("the mark sets no bit, or bits outside the mask {mask:#010x}")]
    Mark { mask: u32 },
    #[error(
        "contradicts service {other:?}: both apply to {prefix} {ports}, one with DSCP {mine}, one with {theirs}"
    )]
    Contradiction {
        other: String,
        prefix: Prefix,
        ports: PortRange,
        mine: Dscp,
        theirs: Dscp,
    },
}

fn words<T: Display>(list: &[T]) -> String {
    let quoted: Vec<_> = list.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(", ")
}

fn did_you_mean<T: Display>(meant: Option<&T>, otherwise: impl Into<String>) -> String {
    meant.map_or_else(
        || otherwise.into(),
        |word| format!("did you mean \"{word}\"?"),
    )
}

impl Problem {
    /// Whether the problem shows only when the whole file was understood, so that a syntax error elsewhere may have
    /// made it up.
    pub(super) const fn needs_whole_file(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. }
                | Self::UnknownKey { .. }
                | Self::Empty { .. }
                | Self::DuplicateService
        )
    }

    /// Whether the problem shows only when every file was understood.
    pub(super) const fn needs_every_file(&self) -> bool {
        matches!(self, Self::UnknownName { .. } | Self::Contradiction { .. })
    }

    /// A stable word for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "syntax",
            Self::Version(_) => "version",
            Self::Missing { .. } => "missing-key",
            Self::UnknownKey { .. } => "unknown-key",
            Self::Type { .. } => "type",
            Self::Empty { .. } => "empty-list",
            Self::Choice { .. } => "choice",
            Self::Number { .. } => "number",
            Self::Prefix(PrefixError::HostBits { .. }) => "host-bits",
            Self::Prefix(_) => "prefix",
            Self::TooWide { .. } => "too-wide",
            Self::SpecialPurpose { .. } => "special-purpose",
            Self::Ports(_) | Self::LastPort { .. } => "ports",
            Self::Dscp(_) => "dscp",
            Self::NeverValid { .. } => "never-valid",
            Self::ServiceName => "service-name",
            Self::InterfaceName => "interface-name",
            Self::InterfacePattern => "interface-pattern",
            Self::GroupName => "group-name",
            Self::MetricsPlace => "metrics-place",
            Self::UplinkIsTun => "uplink-is-tun",
            Self::ClientsAtUplink => "clients-at-uplink",
            Self::DuplicateService => "duplicate-service",
            Self::TooManyServices { .. } => "too-many-services",
            Self::UnknownName { .. } => "unknown-name",
            Self::EnabledAndDisabled => "enabled-and-disabled",
            Self::ReservedTable { .. } => "reserved-table",
            Self::TablesExhausted { .. } => "tables-exhausted",
            Self::Mark { .. } => "mark",
            Self::Contradiction { .. } => "contradiction",
        }
    }

    /// What belongs at the place instead.
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Syntax { expected, .. } => expected.clone(),
            Self::Version(_) => "1".into(),
            Self::Missing { example } => format!("a line such as {example}"),
            Self::UnknownKey { known, .. } => format!("one of {}", known.join(", ")),
            Self::Type { expected, .. } | Self::Empty { expected } => (*expected).into(),
            Self::Choice { choices, .. } => format!("one of {}", words(choices)),
            Self::Number { least, most, .. } => format!("{least} to {most}"),
            Self::Prefix(PrefixError::Length { family, .. }) => {
                format!("a length of at most {}", family.bits())
            }
            Self::Prefix(PrefixError::HostBits { .. }) => {
                "an address whose bits beyond the length are zero".into()
            }
            Self::Prefix(PrefixError::Syntax(_)) => {
                "ADDRESS/LENGTH, such as 168.86.128.0/18 or 2001:db8::/32".into()
            }
            Self::TooWide { prefix, shortest } => {
                format!("an {} prefix of /{shortest} or longer", prefix.family())
            }
            Self::SpecialPurpose { .. } => "globally reachable unicast addresses".into(),
            Self::Ports(PortRangeError::Empty { .. }) => "the lower port first".into(),
            Self::Ports(PortRangeError::Zero) => "1 to 65534".into(),
            Self::LastPort { .. } => "ports up to 65534".into(),
            Self::Ports(PortRangeError::Syntax(_)) => {
                "a port such as 3478, or two such as \"10000-60000\"".into()
            }
            Self::Dscp(_) => "0 to 63, or a name such as \"EF\", \"AF41\", \"CS5\", \"DF\"".into(),
            Self::NeverValid { .. } => "valid_from before valid_until".into(),
            Self::ServiceName => {
                "1 to 64 of a-z, 0-9, '-', '_' and '.', a letter or digit first".into()
            }
            Self::InterfaceName => {
                "1 to 15 of A-Z, a-z, 0-9, '-', '_' and '.', other than \".\" and \"..\"".into()
            }
            Self::InterfacePattern => {
                "1 to 15 of A-Z, a-z, 0-9, '-', '_' and '.', and any number of '*'".into()
            }
            Self::GroupName => {
                "1 to 32 of A-Z, a-z, 0-9, '-', '_' and '.', no '-' or '.' first".into()
            }
            Self::MetricsPlace => {
                "\"unix\", or a loopback address and a port, such as \"127.0.0.1:9764\"".into()
            }
            Self::UplinkIsTun => "two different interfaces".into(),
            Self::ClientsAtUplink => "an interface that clients are behind".into(),
            Self::DuplicateService => "a name that no other service of the file has".into(),
            Self::TooManyServices { most } => format!("at most {most}"),
            Self::UnknownName { known, .. } if known.is_empty() => {
                "nothing: there is none to name".into()
            }
            Self::UnknownName { known, .. } => format!("one of {}", words(known)),
            Self::EnabledAndDisabled => "each service in one of the two lists".into(),
            Self::ReservedTable { .. } => "a range of tables without 0, 253, 254 and 255".into(),
            Self::TablesExhausted { needed, .. } => format!("at most {}", u32::MAX - needed),
            Self::Mark { mask } => format!("a number other than 0 whose bits lie in {mask:#010x}"),
            Self::Contradiction { theirs, .. } => {
                format!("DSCP {theirs}, or services that do not overlap")
            }
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Syntax { .. } => "correct the line; https://toml.io has the rules".into(),
            Self::Version(_) => "write version = 1, or install a voicelane that knows the format".into(),
            Self::Missing { example } => format!("add {example}"),
            Self::UnknownKey { meant, .. } => did_you_mean(meant.as_ref(), "remove the key"),
            Self::Type { expected, .. } => format!("write {expected}"),
            Self::Empty { .. } => "add an entry, or remove the whole service".into(),
            Self::Choice { meant, .. } => did_you_mean(meant.as_ref(), "choose one of them"),
            Self::Number { reason, .. } => (*reason).into(),
            Self::Prefix(PrefixError::HostBits { meant }) => {
                format!("write \"{meant}\", or a longer prefix if you mean fewer addresses")
            }
            Self::Prefix(PrefixError::Length { family, .. }) => {
                format!("for a single host write /{}", family.bits())
            }
            Self::Prefix(PrefixError::Syntax(_)) => "write a prefix; for a single host /32 (IPv6: /128)".into(),
            Self::TooWide { prefix, .. } => match prefix.family() {
                Family::V4 => "list the vendor's own ranges; none known is wider than /14".into(),
                Family::V6 => "list the vendor's own ranges; none known is wider than /38".into(),
            },
            Self::SpecialPurpose { block, .. } if block.never => {
                "remove it: such addresses cannot be routed through a TUN".into()
            }
            Self::SpecialPurpose { .. } => {
                "remove it, or add allow_special_purpose = true to the service if these really are media servers".into()
            }
            Self::Ports(PortRangeError::Empty { first, last }) => format!("write \"{last}-{first}\""),
            Self::Ports(PortRangeError::Zero) => "begin at port 1, better at the vendor's first port".into(),
            Self::LastPort { first: u16::MAX } => "remove it".into(),
            Self::LastPort { first } => format!("write \"{first}-65534\""),
            Self::Ports(PortRangeError::Syntax(_)) => "take the ports from the vendor's list".into(),
            Self::Dscp(_) => "write \"EF\" for voice".into(),
            Self::NeverValid { .. } => "swap the dates, or remove the service".into(),
            Self::ServiceName => "rename the service, e.g. \"lab-media\"".into(),
            Self::InterfaceName => "take the name from `ip link`".into(),
            Self::InterfacePattern => "write e.g. \"eth*\"; `ip link` lists the names".into(),
            Self::GroupName => "take the name from /etc/group".into(),
            Self::MetricsPlace => {
                "write \"unix\"; to read from another machine, let a Prometheus agent here forward them".into()
            }
            Self::UplinkIsTun => "name the physical interface as uplink, or remove the line to have it found".into(),
            Self::ClientsAtUplink => "name the interfaces of the LAN".into(),
            Self::DuplicateService => {
                "rename this one; to replace the other, put this one into a file of its own in conf.d".into()
            }
            Self::TooManyServices { .. } => "join services that differ only in their prefixes".into(),
            Self::UnknownName { meant, .. } => did_you_mean(meant.as_ref(), "remove the name"),
            Self::EnabledAndDisabled => "remove the name from enable or from disable".into(),
            Self::ReservedTable { .. } => "choose another base, e.g. 30316".into(),
            Self::TablesExhausted { .. } => "choose a lower base, e.g. 30316".into(),
            Self::Mark { .. } => "write e.g. mark = 0x76000000".into(),
            Self::Contradiction { other, .. } => {
                format!("give both the same dscp, narrow one, or put one of them (e.g. \"{other}\") in disable = [...]")
            }
        }
    }
}

/// The candidate that `word` is probably a slip of.
pub(super) fn closest<T: AsRef<str>>(
    word: &str,
    candidates: impl IntoIterator<Item = T>,
) -> Option<T> {
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(word, candidate.as_ref()),
                candidate,
            )
        })
        .filter(|(edits, candidate)| *edits <= candidate.as_ref().len().max(3) / 3)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let keys = ["prefixes", "ports", "dscp"];
        assert_eq!(closest("prefxies", keys), Some("prefixes"));
        assert_eq!(closest("port", keys), Some("ports"));
        assert_eq!(closest("colour", keys), None);
        assert_eq!(closest("x", keys), None);
    }
}
