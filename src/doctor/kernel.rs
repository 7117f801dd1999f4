//! Whether the kernel has the features that the service needs.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};
use nix::sys::utsname::uname;

use super::{Finding, SystemFacts};

/// The device of the TUN driver, and its number (linux/miscdevice.h).
const TUN_DRIVER: &str = "/dev/net/tun";
const TUN_NUMBER: (u64, u64) = (10, 200);

/// The first kernel whose routing rules match protocol and ports.
const PORTS_IN_RULES: (u32, u32) = (4, 17);
/// The first kernel with owned nftables tables (`NFT_TABLE_F_OWNER`).
const OWNED_TABLES: (u32, u32) = (5, 12);

pub(super) fn check(_: &SystemFacts) -> Vec<Finding> {
    let mut findings = vec![tun_driver()];
    findings.extend(match release() {
        Some(release) => version(release),
        None => vec![Finding::unknown(
            "Not checked: the kernel version cannot be read.",
            "Run: uname -r",
        )],
    });
    if !Path::new("/proc/net/if_inet6").exists() {
        findings.push(Finding::ok(
            "This kernel has no IPv6. Media uses IPv4 only.",
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
        Finding::ok(format!("The TUN driver ({TUN_DRIVER}) is available."))
    } else {
        Finding::fault(
            format!("{TUN_DRIVER} is missing or not the TUN driver. No media can be captured."),
            "Run: modprobe tun. In a container: docker run --device /dev/net/tun",
        )
    }
}

/// Returns major and minor version of the running kernel.
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
            format!(
                "Linux {major}.{minor} is too old. Its routing rules cannot match ports (needs 4.17)."
            ),
            "Install Linux 5.12 or newer.",
        )]
    } else if release < OWNED_TABLES {
        vec![Finding::warning(
            format!(
                "Linux {major}.{minor} has no owned nftables tables (needs 5.12). A VPN's firewall may drop incoming media \
                 to the VPN's address, and voicelane cannot detect a firewall that blocks the direct path."
            ),
            "Install Linux 5.12 or newer.",
        )]
    } else {
        vec![Finding::ok(format!(
            "Linux {major}.{minor} has everything voicelane needs."
        ))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckVerdict;

    #[test]
    fn kernel_releases_of_distributions_are_parsed() {
        assert_eq!(parse("6.18.0-rc3+"), Some((6, 18)));
        assert_eq!(parse("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(parse("2.6.78"), Some((2, 6)));
        assert_eq!(parse("linux"), None);
    }

    #[test]
    fn old_kernels_get_a_warning_or_a_fault() {
        let verdict = |release| version(release)[0].verdict;
        assert_eq!(verdict((4, 16)), CheckVerdict::Fault);
        assert_eq!(verdict((4, 17)), CheckVerdict::Warning);
        assert_eq!(verdict((5, 11)), CheckVerdict::Warning);
        assert_eq!(verdict((5, 12)), CheckVerdict::Ok);
    }
}
