//! Settings of single interfaces below `/proc/sys/net`: IPsec, reverse-path filter, IPv6 chatter.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::saved_sysctls::{SavedSysctls, SavedSysctlsError};
use crate::net::Family;

/// A setting of one interface, or of "all" or "default".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key {
    family: Family,
    interface: String,
    name: String,
}

/// A text that names no setting of an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no interface setting: expected ipv4/INTERFACE/NAME or ipv6/INTERFACE/NAME")]
pub struct NoKey(String);

impl Key {
    /// Names a setting.
    ///
    /// # Panics
    /// When the interface's name is not one that the kernel gives: empty, "." or "..", or with a slash in it.
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

impl TryFrom<String> for Key {
    type Error = NoKey;

    /// Reads a name back. The journal is a file: what it says must not lead out of the directory of settings.
    fn try_from(text: String) -> Result<Self, NoKey> {
        let plain = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
        let parts: Vec<_> = text.split('/').collect();
        let [family, interface, name] = parts[..] else {
            return Err(NoKey(text));
        };
        let families = [Family::V4, Family::V6];
        match families.into_iter().find(|one| directory(*one) == family) {
            Some(family) if [interface, name].iter().all(plain) => Ok(Self {
                family,
                interface: interface.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(NoKey(text)),
        }
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

impl fmt::Display for Key {
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

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the setting net/{key}")]
pub struct SysctlError {
    verb: &'static str,
    key: Key,
    source: io::Error,
}

impl SysctlError {
    /// Whether there is no such setting: the interface is gone, or the kernel is older or was built without it.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Reads a setting, without the line's end.
///
/// # Errors
/// [`SysctlError`].
pub fn read(key: &Key) -> Result<String, SysctlError> {
    fs::read_to_string(key.path())
        .map(|text| text.trim_end().to_owned())
        .map_err(|source| SysctlError {
            verb: "read",
            key: key.clone(),
            source,
        })
}

/// Writes a setting.
///
/// # Errors
/// [`SysctlError`].
pub fn write(key: &Key, value: &str) -> Result<(), SysctlError> {
    fs::write(key.path(), value).map_err(|source| SysctlError {
        verb: "write",
        key: key.clone(),
        source,
    })
}

/// What our TUN needs. IPv6 has no `disable_xfrm`: see [`super::xfrm`].
///
/// - `disable_xfrm`, `disable_policy`: an IPsec VPN's policies take neither what is routed into the TUN nor refuse
///   what comes out of it.
/// - `rp_filter` 2: the kernel uses the greater of this and that of "all", so that 2, loose, is the one value that
///   keeps "all" = 1, strict, away. ICMP errors come from routers that no route of ours leads to. The loose filter
///   wants an IPv4 address on the link: see [`super::netlink::Kernel::bring_up`].
/// - `addr_gen_mode` 1, none: no link-local address, and with it no router or listener discovery on the TUN.
const TUN: [(Family, &str, &str); 7] = [
    (Family::V4, "disable_xfrm", "1"),
    (Family::V4, "disable_policy", "1"),
    (Family::V4, "rp_filter", "2"),
    (Family::V6, "disable_policy", "1"),
    (Family::V6, "addr_gen_mode", "1"),
    (Family::V6, "accept_ra", "0"),
    (Family::V6, "router_solicitations", "0"),
];

/// Sets up our TUN, before it is brought up. A setting that this kernel does not have is passed over.
///
/// # Errors
/// The first setting that could not be written.
pub fn prepare_tun(tun: &str) -> Result<(), SysctlError> {
    for (family, name, value) in TUN {
        match write(&Key::new(family, tun, name), value) {
            Err(error) if !error.is_missing() => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Lets replies to our own sockets in at the uplink.
///
/// The way back to a captured prefix leads into the TUN. A strict reverse-path filter (RFC 3704 section 2.2), and the
/// kernel uses the greater value of the interface's and of "all", therefore drops the answers; it becomes a loose one
/// (section 2.4). A filter that is off stays off. Other uplinks of before get their value back.
///
/// # Errors
/// [`SavedSysctlsError`].
pub fn prepare_uplink(journal: &mut SavedSysctls, uplink: &str) -> Result<(), SavedSysctlsError> {
    let filter = |interface| Key::new(Family::V4, interface, "rp_filter");
    journal.restore(|entry| entry.key != filter(uplink))?;
    let (own, all) = (read(&filter(uplink))?, read(&filter("all"))?);
    if own.as_str().max(&all) == "1" {
        journal.set(&filter(uplink), "2")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_the_journal_and_never_leads_elsewhere() {
        let key = Key::new(Family::V4, "eth0.100", "rp_filter");
        assert_eq!(Key::try_from(key.to_string()), Ok(key));
        for bad in [
            "",
            "ipv4/eth0",
            "ipv4/../x",
            "ipv4/eth0/..",
            "ipv5/eth0/x",
            "ipv4/a/b/c",
            "ipv4//x",
        ] {
            assert!(Key::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
