//! The kinds of configuration errors: message, expected value and advice of each.

use std::fmt::Display;

use jiff::civil::Date;

use super::special_purpose::PrefixRejection;
use crate::net::{Dscp, DscpError, Family, PortRange, PortRangeError, Prefix, PrefixError};

/// A configuration error without its position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message describes it")]
#[non_exhaustive]
pub enum DiagnosticKind {
    #[error("invalid TOML: {message}")]
    Syntax { message: String, expected: String },
    #[error("unsupported format version {0}")]
    Version(String),
    #[error("missing key")]
    Missing { example: String },
    #[error("unknown key")]
    UnknownKey {
        meant: Option<&'static str>,
        known: Vec<&'static str>,
    },
    #[error("wrong type: {found}")]
    Type {
        found: &'static str,
        expected: &'static str,
    },
    #[error("single brackets: [{name}]")]
    SingleBrackets { name: &'static str },
    #[error("empty list")]
    Empty { expected: &'static str },
    #[error("unknown value")]
    Choice {
        meant: Option<&'static str>,
        choices: Vec<&'static str>,
    },
    #[error("number out of range")]
    Number {
        min: u32,
        max: u32,
        advice: &'static str,
    },
    #[error("{0}")]
    Prefix(PrefixError),
    #[error("{0}")]
    Rejected(PrefixRejection),
    #[error("{0}")]
    Ports(PortRangeError),
    #[error("port 65535 cannot leave the VPN: kernel routing rules do not support it")]
    LastPort { first: u16 },
    #[error("{0}")]
    Dscp(DscpError),
    #[error("valid_from {from} is not before valid_until {until}, so the service is never active")]
    NeverValid { from: Date, until: Date },
    #[error("invalid service name")]
    ServiceName,
    #[error("invalid interface name")]
    InterfaceName,
    #[error("invalid interface name pattern")]
    InterfacePattern,
    #[error("invalid group name")]
    GroupName,
    #[error("invalid address for metrics")]
    MetricsAddress,
    #[error("the uplink and the TUN have the same name")]
    UplinkIsTun,
    #[error("no clients can be behind the uplink or the TUN")]
    ClientsAtUplink,
    #[error("duplicate service name in the same file")]
    DuplicateService,
    #[error("more than {max} services")]
    TooManyServices { max: u16 },
    #[error("no such {noun}")]
    UnknownName {
        noun: &'static str,
        meant: Option<String>,
        known: Vec<String>,
    },
    #[error("the service is both enabled and disabled")]
    EnabledAndDisabled,
    #[error("this policy needs the tables {base} to {last}, but the kernel reserves table {clash}")]
    ReservedTable { clash: u32, base: u32, last: u64 },
    #[error("this policy needs {needed} tables above {base}")]
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

/// Whether a text looks like a host name instead of an address.
fn is_host_name(text: &str) -> bool {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let last = text.rsplit('.').next().unwrap_or_default();
    text.bytes().all(is_name_byte) && last.bytes().any(|byte| byte.is_ascii_alphabetic())
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

impl DiagnosticKind {
    /// Whether a syntax error elsewhere in the file may cause this error.
    pub(super) const fn needs_whole_file(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. }
                | Self::UnknownKey { .. }
                | Self::Empty { .. }
                | Self::DuplicateService
        )
    }

    /// Whether a syntax error in any file may cause this error.
    pub(super) const fn needs_every_file(&self) -> bool {
        matches!(self, Self::UnknownName { .. } | Self::Contradiction { .. })
    }

    /// The stable name for programs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "syntax",
            Self::Version(_) => "version",
            Self::Missing { .. } => "missing-key",
            Self::UnknownKey { .. } => "unknown-key",
            Self::Type { .. } => "type",
            Self::SingleBrackets { .. } => "single-brackets",
            Self::Empty { .. } => "empty-list",
            Self::Choice { .. } => "choice",
            Self::Number { .. } => "number",
            Self::Prefix(PrefixError::HostBits { .. }) => "host-bits",
            Self::Prefix(_) => "prefix",
            Self::Rejected(PrefixRejection::TooWide { .. }) => "too-wide",
            Self::Rejected(PrefixRejection::SpecialPurpose { .. }) => "special-purpose",
            Self::Ports(_) | Self::LastPort { .. } => "ports",
            Self::Dscp(_) => "dscp",
            Self::NeverValid { .. } => "never-valid",
            Self::ServiceName => "service-name",
            Self::InterfaceName => "interface-name",
            Self::InterfacePattern => "interface-pattern",
            Self::GroupName => "group-name",
            Self::MetricsAddress => "metrics-span",
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

    /// The values that the key accepts.
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Syntax { expected, .. } => expected.clone(),
            Self::Version(_) => "1".into(),
            Self::Missing { example } => format!("a line such as {example}"),
            Self::UnknownKey { known, .. } => format!("one of {}", known.join(", ")),
            Self::Type { expected, .. } | Self::Empty { expected } => (*expected).into(),
            Self::SingleBrackets { name } => {
                format!("[[{name}]], in double brackets, for each {name}")
            }
            Self::Choice { choices, .. } => format!("one of {}", words(choices)),
            Self::Number { min, max, .. } => format!("{min} to {max}"),
            Self::Prefix(PrefixError::Length { family, .. }) => {
                format!("a length of at most {}", family.bits())
            }
            Self::Prefix(PrefixError::HostBits { .. }) => {
                "an address whose bits beyond the length are zero".into()
            }
            Self::Prefix(PrefixError::Syntax(_)) => {
                "ADDRESS/LENGTH, such as 168.86.128.0/18 or 2001:db8::/32".into()
            }
            Self::Rejected(PrefixRejection::TooWide { prefix, min_length }) => {
                format!("an {} prefix of /{min_length} or longer", prefix.family())
            }
            Self::Rejected(PrefixRejection::SpecialPurpose { .. }) => {
                "globally reachable unicast addresses".into()
            }
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
            Self::MetricsAddress => {
                "\"unix\", or a loopback address and a port, such as \"127.0.0.1:9764\"".into()
            }
            Self::UplinkIsTun => "two different interfaces".into(),
            Self::ClientsAtUplink => "an interface that clients are behind".into(),
            Self::DuplicateService => "a name that no other service of the file has".into(),
            Self::TooManyServices { max } => format!("at most {max}"),
            Self::UnknownName { noun, known, .. } if known.is_empty() => {
                format!("the name of a {noun}, but none is defined")
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

    /// The correction, for a person.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Syntax { .. } => "correct the line; https://toml.io explains the syntax".into(),
            Self::Version(_) => "write version = 1, or install a voicelane that knows the format".into(),
            Self::Missing { example } => format!("add {example}"),
            Self::UnknownKey { meant, .. } => did_you_mean(meant.as_ref(), "remove the key"),
            Self::Type { expected, .. } => format!("write {expected}"),
            Self::SingleBrackets { name } => format!("write [[{name}]]"),
            Self::Empty { .. } => "add an entry, or remove the whole service".into(),
            Self::Choice { meant, .. } => did_you_mean(meant.as_ref(), "choose one of these values"),
            Self::Number { advice, .. } => (*advice).into(),
            Self::Prefix(PrefixError::HostBits { meant }) => {
                format!("write \"{meant}\", or a longer prefix for fewer addresses")
            }
            Self::Prefix(PrefixError::Length { family, .. }) => {
                format!("for a single host write /{}", family.bits())
            }
            Self::Prefix(PrefixError::Syntax(text)) if is_host_name(text) => {
                "a host name is no prefix: its addresses may change, and DNS answers can be forged; list the prefixes \
                 that the vendor publishes"
                    .into()
            }
            Self::Prefix(PrefixError::Syntax(_)) => "write a prefix; for a single host /32 (IPv6: /128)".into(),
            Self::Rejected(PrefixRejection::TooWide { prefix, .. }) => match prefix.family() {
                Family::V4 => "list the vendor's own prefixes; the widest known is a /14".into(),
                Family::V6 => "list the vendor's own prefixes; the widest known is a /38".into(),
            },
            Self::Rejected(PrefixRejection::SpecialPurpose { block, .. }) if block.never => {
                "remove it: such addresses cannot be routed through a TUN".into()
            }
            Self::Rejected(PrefixRejection::SpecialPurpose { .. }) => {
                "remove it, or add allow_special_purpose = true to the service if these are media servers".into()
            }
            Self::Ports(PortRangeError::Empty { first, last }) => format!("write \"{last}-{first}\""),
            Self::Ports(PortRangeError::Zero) => "start at the vendor's first port".into(),
            Self::LastPort { first: u16::MAX } => "remove it".into(),
            Self::LastPort { first } => format!("write \"{first}-65534\""),
            Self::Ports(PortRangeError::Syntax(_)) => "use the ports that the vendor lists".into(),
            Self::Dscp(_) => "write \"EF\" for voice".into(),
            Self::NeverValid { .. } => "swap the dates, or remove the service".into(),
            Self::ServiceName => "rename the service, for example \"lab-media\"".into(),
            Self::InterfaceName => "use a name that `ip link` lists".into(),
            Self::InterfacePattern => "write a pattern such as \"eth*\"; `ip link` lists the names".into(),
            Self::GroupName => "use a name from /etc/group".into(),
            Self::MetricsAddress => {
                "write \"unix\"; for another machine, run a Prometheus agent on this one".into()
            }
            Self::UplinkIsTun => "name the physical interface, or remove the line so that voicelane selects it".into(),
            Self::ClientsAtUplink => "name the interfaces of the LAN".into(),
            Self::DuplicateService => {
                "rename this service; to override the other one, move this one to a drop-in in conf.d".into()
            }
            Self::TooManyServices { .. } => "merge services that differ only in their prefixes".into(),
            Self::UnknownName { meant, .. } => did_you_mean(meant.as_ref(), "remove the name; if `include` has an error, correct it first"),
            Self::EnabledAndDisabled => "remove the name from enable or from disable".into(),
            Self::ReservedTable { .. } => "choose another table, such as 30316".into(),
            Self::TablesExhausted { .. } => "choose a lower table, such as 30316".into(),
            Self::Mark { .. } => "write a mark such as 0x76000000".into(),
            Self::Contradiction { other, .. } => {
                format!("give both services the same dscp, or add one of them (such as \"{other}\") to disable")
            }
        }
    }
}
