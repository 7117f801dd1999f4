//! Values that only settings have, and the conversions that several settings share.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde_json::json;
use toml::de::DeValue;

use super::diagnostic_kind::DiagnosticKind;
use super::value_type::{Choice, Number, Scalar, text, wrong_type};
use crate::net::{Dscp, Fwmark, InterfacePattern};

/// A network interface name: 1 to 15 letters, digits, '-', '_' and '.'.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceName(String);

/// The error for an invalid interface name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid interface name {0:?}: expected 1 to 15 of A-Z, a-z, 0-9, '-', '_' and '.', other than \".\" and \"..\""
)]
pub struct InterfaceNameError(String);

impl InterfaceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InterfaceNameError;

    /// Rejects some names that the kernel accepts (`dev_valid_name`), such as `%`, a template for TUN names.
    fn from_str(name: &str) -> Result<Self, InterfaceNameError> {
        let fits = (1..=15).contains(&name.len()) && is_word(name) && name != "." && name != "..";
        if fits {
            Ok(Self(name.to_owned()))
        } else {
            Err(InterfaceNameError(name.to_owned()))
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn is_word(text: &str) -> bool {
    text.bytes()
        .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

/// The mark of a VPN's own packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VpnMark {
    /// The mark that a rule of the VPN excepts, as wg-quick's does. Without such a rule there is no mark.
    Auto,
    /// This mark.
    Is(Fwmark),
}

/// The address of the metrics. Never reachable from another machine, because metrics show who is in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsListen {
    /// A socket in the runtime directory, for the members of the control groups.
    Unix,
    /// A loopback address, for every user of this machine.
    Loopback(SocketAddr),
}

pub(super) const INTERFACE: Scalar<InterfaceName> = Scalar {
    convert: |value| {
        let name = text(value, "an interface's name, such as \"wlan0\"")?;
        name.parse().map_err(|_| DiagnosticKind::InterfaceName)
    },
    schema: || json!({ "type": "string", "pattern": "^(?!\\.\\.?$)[A-Za-z0-9_.-]{1,15}$" }),
    syntax: "an interface name",
};

pub(super) const PATTERN: Scalar<InterfacePattern> = Scalar {
    convert: |value| {
        let pattern = text(value, "a pattern of interface names, such as \"eth*\"")?;
        pattern
            .parse()
            .map_err(|_| DiagnosticKind::InterfacePattern)
    },
    schema: || {
        let pattern = "^\\**([A-Za-z0-9_.-]\\**){0,15}$";
        json!({ "type": "string", "pattern": pattern, "minLength": 1, "maxLength": 31 })
    },
    syntax: "a pattern of interface names",
};

pub(super) const GROUP: Scalar<String> = Scalar {
    convert: |value| {
        let name = text(value, "a group's name, such as \"voicelane\"")?;
        let fits =
            (1..=32).contains(&name.len()) && is_word(&name) && !name.starts_with(['-', '.']);
        fits.then_some(name).ok_or(DiagnosticKind::GroupName)
    },
    schema: || json!({ "type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$" }),
    syntax: "a group name",
};

pub(super) const METRICS_LISTEN: Scalar<MetricsListen> = Scalar {
    convert: |value| {
        let expected = "\"unix\", or an address and port such as \"127.0.0.1:9764\"";
        let listen = text(value, expected)?;
        if listen == "unix" {
            return Ok(MetricsListen::Unix);
        }
        let address = listen.parse::<SocketAddr>().ok();
        address
            .filter(|address| address.ip().is_loopback() && address.port() != 0)
            .map(MetricsListen::Loopback)
            .ok_or(DiagnosticKind::MetricsAddress)
    },
    schema: || {
        let pattern = "^(unix|127(\\.[0-9]{1,3}){3}:[0-9]{1,5}|\\[::1\\]:[0-9]{1,5})$";
        json!({ "type": "string", "pattern": pattern })
    },
    syntax: "\"unix\", or a loopback address and a port",
};

pub(super) const DSCP: Scalar<Dscp> = Scalar {
    convert: dscp,
    schema: || json!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 63 }, { "type": "string" }] }),
    syntax: "a name, such as \"EF\", or 0 to 63",
};

fn dscp(value: &DeValue<'_>) -> Result<Dscp, DiagnosticKind> {
    let name = match value {
        DeValue::Integer(number) => number.to_string(),
        DeValue::String(name) => name.to_string(),
        other => {
            let expected = "a DSCP, 0 to 63 or a name such as \"EF\"";
            return Err(wrong_type(other, expected));
        }
    };
    name.parse().map_err(DiagnosticKind::Dscp)
}

pub(super) const REMARK: Scalar<Option<Dscp>> = Scalar {
    convert: |value| match value {
        DeValue::String(word) if word == "keep" => Ok(None),
        value => dscp(value).map(Some),
    },
    schema: DSCP.schema,
    syntax: "\"keep\", a name such as \"EF\", or 0 to 63",
};

pub(super) const ANY_MARK: Number<Fwmark> = Number {
    min: 1,
    max: u32::MAX,
    advice: "0 is no mark; `wg show IFACE fwmark` and `ip rule` show the VPN's",
    convert: Fwmark,
};

pub(super) const VPN_MARK: Scalar<VpnMark> = Scalar {
    convert: |value| match value {
        DeValue::String(_) => Choice {
            words: &[("auto", VpnMark::Auto)],
            expected: "a mark, such as 0xca6c, or \"auto\"",
        }
        .convert(value),
        number => ANY_MARK.convert(number).map(VpnMark::Is),
    },
    schema: || json!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": u32::MAX }] }),
    syntax: "\"auto\", or 1 to 4294967295",
};

/// The bits of a mark that voicelane may set: the upper octet, which Tailscale's mask leaves free.
pub(super) const MARK_MASK: Fwmark = Fwmark(0xff00_0000);

pub(super) const OWN_MARK: Scalar<Fwmark> = Scalar {
    convert: |value| {
        let (mask, advice) = (MARK_MASK.0, "write a mark such as 0x76000000");
        let any = Number {
            min: 0,
            max: u32::MAX,
            advice,
            convert: Fwmark,
        };
        let mark = any.convert(value)?;
        let fits = mark.0 != 0 && mark.0 & !mask == 0;
        fits.then_some(mark).ok_or(DiagnosticKind::Mark { mask })
    },
    schema: || json!({ "type": "integer", "minimum": 1 << 24, "maximum": MARK_MASK.0 }),
    syntax: "a number other than 0 within 0xff000000",
};
