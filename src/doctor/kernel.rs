//! Whether the kernel has what the service needs.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};
use nix::sys::utsname::uname;

use super::{Finding, SystemFacts};

/// The device by which TUNs are made, and its number (linux/miscdevice.h).
const TUN_DRIVER: &str = "/dev/net/tun";
const TUN_NUMBER: (u64, u64) = (10, 200);

/// The first kernel whose rules name transport and ports.
const PORTS_IN_RULES: (u32, u32) = (4, 17);
/// The first kernel whose nftables tables can be owned.
const OWNED_TABLES: (u32, u32) = (5, 12);

pub(super) fn check(_: &SystemFacts) -> Vec<Finding> {
    let mut findings = vec![tun_driver()];
    findings.extend(match release() {
        Some(release) => version(release),
        None => vec![Finding::unknown(
            "the kernel's version cannot be read",
            "uname -r",
        )],
    });
    if !Path::new("/proc/net/if_inet6").exists() {
        findings.push(Finding::ok(
            "this kernel has no IPv6: media is route_lookups in IPv4 alone",
        ));
    }
    findings
}

fn tun_driver() -> Finding {
    let is_driver = fs::metadata(TUN_DRIVER).is_ok_and(|found| {
        let number = (major(found.rdev()), minor(found.rdev()));
        found.file_type().is_char_device() && number == TUN_NUMBER
    });
    if is_driver {
        Finding::ok(format!("{TUN_DRIVER} is there"))
    } else {
        Finding::fault(
            format!("{TUN_DRIVER} is missing or no TUN driver: no media can be captured"),
            "modprobe tun; or give the container the device (docker run --device /dev/net/tun)",
        )
    }
}

/// Major and minor number of the running kernel.
pub(super) fn release() -> Option<(u32, u32)> {
    let name = uname().ok()?;
    parse(name.release().to_str()?)
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn version(release: (u32, u32)) -> Vec<Finding> {
    let (major, minor) = release;
    if release < PORTS_IN_RULES {
        vec![Finding::fault(
            format!("Linux {major}.{minor}: its routing rules know no ports, which came with 4.17"),
            "install a newer kernel",
        )]
    } else if release < OWNED_TABLES {
        vec![Finding::warning(
            format!(
                "Linux {major}.{minor}: its nftables tables have no owner, which came with 5.12; a VPN's firewall may \
                 drop answers to the VPN's address, and one that forbids the direct way is not found out"
            ),
            "install a newer kernel",
        )]
    } else {
        vec![Finding::ok(format!(
            "Linux {major}.{minor}: rules with ports and nftables with owned tables came before it"
        ))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckVerdict;

    #[test]
    fn a_release_is_read_as_distributions_write_it() {
        assert_eq!(parse("6.18.0-rc3+"), Some((6, 18)));
        assert_eq!(parse("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(parse("2.6.78"), Some((2, 6)));
        assert_eq!(parse("linux"), None);
    }

    #[test]
    fn old_kernels_are_told_what_they_lack() {
        let verdict = |release| version(release)[0].verdict;
        assert_eq!(verdict((4, 16)), CheckVerdict::Fault);
        assert_eq!(verdict((4, 17)), CheckVerdict::Warning);
        assert_eq!(verdict((5, 11)), CheckVerdict::Warning);
        assert_eq!(verdict((5, 12)), CheckVerdict::Ok);
    }
}
