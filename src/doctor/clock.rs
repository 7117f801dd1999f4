//! Whether the clock is right, because the policy has dates.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use nix::libc;

use super::{Finding, SystemFacts};

/// Tolerance when the clock is compared with the date of the installed program: the date may be of another time zone.
const SLACK: Duration = Duration::from_hours(48);

/// Age from which a program may have an outdated policy.
const OLD: Duration = Duration::from_hours(24 * 365);

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let now = SystemTime::now();
    let installed = fs::metadata("/proc/self/exe").and_then(|it| it.modified());
    let mut findings = Vec::new();
    match installed {
        Ok(installed) if installed > now + SLACK => findings.push(Finding::fault(
            format!(
                "The clock shows {}, but this program was installed later. The policy uses wrong dates.",
                facts.today
            ),
            "Set the clock, and synchronise it: timedatectl set-ntp true",
        )),
        Ok(installed) if now.duration_since(installed).is_ok_and(|age| age > OLD) => {
            findings.push(Finding::warning(
                "This program is more than a year old by the clock. Its address ranges may be outdated.",
                "Install a newer voicelane. If the year is wrong, set the clock.",
            ));
        }
        _ => findings.push(Finding::ok(format!("The clock shows {} (UTC).", facts.today))),
    }
    findings.push(match is_synchronised() {
        Ok(true) => Finding::ok("The clock is synchronised (NTP)."),
        Ok(false) => Finding::warning(
            "The clock is not synchronised (no NTP). A wrong clock may select an outdated policy.",
            "Run: timedatectl set-ntp true, or install chrony. On a virtual machine, the host may synchronise it.",
        ),
        Err(error) => Finding::unknown(
            format!("Not checked: whether the clock is synchronised: {error}."),
            "Run: timedatectl",
        ),
    });
    findings
}

/// Returns whether an NTP client keeps the clock synchronised (adjtimex(2), `STA_UNSYNC`).
#[allow(unsafe_code)]
fn is_synchronised() -> io::Result<bool> {
    // SAFETY: zeros are valid for every field of the struct. With `modes` 0 the kernel only writes into it.
    let (state, status) = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut clock), clock.status)
    };
    if state == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(status & libc::STA_UNSYNC == 0)
}
