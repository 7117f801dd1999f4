//! Sysctls of single interfaces below `/proc/sys/net`: IPsec, reverse-path filter, IPv6 autoconfiguration.
//!
//! [`SavedSysctls`] keeps the former values of settings that are not the TUN's, so that they are restored even after a
//! kill.

mod interfaces;
mod saved;

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::net::Family;

pub use interfaces::{prepare_tun, prepare_uplink};
pub use saved::{SavedSysctl, SavedSysctls, SavedSysctlsError};

/// A sysctl of one interface, or of "all" or "default".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SysctlKey {
    family: Family,
    interface: String,
    name: String,
}

/// The text names no sysctl of an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a sysctl of an interface: expected ipv4/INTERFACE/NAME or ipv6/INTERFACE/NAME"
)]
pub struct UnknownSysctlKey(String);

impl SysctlKey {
    /// Returns the key of a sysctl.
    ///
    /// # Panics
    /// If the kernel allows no such interface name: empty, "." or "..", or with a slash.
    #[must_use]
    pub fn new(family: Family, interface: &str, name: &str) -> Self {
        format!("{}/{interface}/{name}", directory(family))
            .try_into()
            .expect("the kernel gives no such interface names")
    }

    fn path(&self) -> PathBuf {
        [
            "/proc/sys/net",
            directory(self.family),
            "conf",
            &self.interface,
            &self.name,
        ]
        .iter()
        .collect()
    }
}

const fn directory(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

impl TryFrom<String> for SysctlKey {
    type Error = UnknownSysctlKey;

    /// Parses a key. The text comes from a file and must not lead out of the directory of sysctls.
    fn try_from(text: String) -> Result<Self, UnknownSysctlKey> {
        let is_name = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
        let parts: Vec<_> = text.split('/').collect();
        let [family, interface, name] = parts[..] else {
            return Err(UnknownSysctlKey(text));
        };
        let families = [Family::V4, Family::V6];
        match families.into_iter().find(|it| directory(*it) == family) {
            Some(family) if [interface, name].iter().all(is_name) => Ok(Self {
                family,
                interface: interface.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(UnknownSysctlKey(text)),
        }
    }
}

impl From<SysctlKey> for String {
    fn from(key: SysctlKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for SysctlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}",
            directory(self.family),
            self.interface,
            self.name
        )
    }
}

/// A sysctl could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the sysctl net/{key}")]
pub struct SysctlError {
    verb: &'static str,
    key: SysctlKey,
    source: io::Error,
}

impl SysctlError {
    /// Whether the sysctl does not exist: the interface was removed, or the kernel does not have the setting.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Reads a sysctl, without the trailing newline.
///
/// # Errors
/// [`SysctlError`].
pub fn read(key: &SysctlKey) -> Result<String, SysctlError> {
    fs::read_to_string(key.path())
        .map(|text| text.trim_end().to_owned())
        .map_err(|source| SysctlError {
            verb: "read",
            key: key.clone(),
            source,
        })
}

/// Writes a sysctl.
///
/// # Errors
/// [`SysctlError`].
pub fn write(key: &SysctlKey, value: &str) -> Result<(), SysctlError> {
    fs::write(key.path(), value).map_err(|source| SysctlError {
        verb: "write",
        key: key.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_restored_from_text_and_never_leads_elsewhere() {
        let key = SysctlKey::new(Family::V4, "eth0.100", "rp_filter");
        assert_eq!(SysctlKey::try_from(key.to_string()), Ok(key));
        for bad in [
            "",
            "ipv4/eth0",
            "ipv4/../x",
            "ipv4/eth0/..",
            "ipv5/eth0/x",
            "ipv4/a/b/c",
            "ipv4//x",
        ] {
            assert!(SysctlKey::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
