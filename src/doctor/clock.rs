//! Whether the clock can be trusted with the policy's dates.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use nix::libc;

use super::{Finding, SystemFacts};

/// By how much a clock may be behind the day on which this program was installed: a file's date may be another zone's.
const SLACK: Duration = Duration::from_hours(48);

/// How old a program may be before its policy is worth a look.
const OLD: Duration = Duration::from_hours(24 * 365);

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let now = SystemTime::now();
    let installed = fs::metadata("/proc/self/exe").and_then(|it| it.modified());
    let mut findings = Vec::new();
    match installed {
        Ok(installed) if installed > now + SLACK => findings.push(Finding::fault(
            format!(
                "the clock says {}, but this program was made later: the policy's dates are judged wrongly",
                facts.today
            ),
            "set the clock, and let it be kept right: timedatectl set-ntp true",
        )),
        Ok(installed) if now.duration_since(installed).is_ok_and(|age| age > OLD) => {
            findings.push(Finding::warning(
                "this program is more than a year old by the clock: the vendor may have other ranges meanwhile",
                "look for a newer voicelane; if the year is wrong, set the clock",
            ));
        }
        _ => findings.push(Finding::ok(format!("the clock says {} (UTC)", facts.today))),
    }
    findings.push(match is_synchronised() {
        Ok(true) => Finding::ok("the clock is kept right by the network"),
        Ok(false) => Finding::warning(
            "nothing keeps the clock right: a policy's dates and events have it for their only witness",
            "timedatectl set-ntp true, or install chrony; a virtual machine's host may do it as well",
        ),
        Err(error) => Finding::unknown(
            format!("the kernel does not tell whether the clock is kept right: {error}"),
            "timedatectl",
        ),
    });
    findings
}

/// Whether an NTP client has told the kernel that it keeps the clock (adjtimex(2), `STA_UNSYNC`).
#[allow(unsafe_code)]
fn is_synchronised() -> io::Result<bool> {
    // SAFETY: the struct is plain numbers, for which zeros are valid; with `modes` 0 the kernel only writes into it.
    let (state, status) = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut clock), clock.status)
    };
    if state == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(status & libc::STA_UNSYNC == 0)
}
