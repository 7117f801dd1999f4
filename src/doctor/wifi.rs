//! Which Wi-Fi access category EF gets from this kernel.
//!
//! Old kernels take the upper three bits of the DSCP for the user priority, so that EF (46) is 5, video; RFC 8325 section 4
//! asks for 6, voice. Linux maps it so since 6.8 ("wifi: cfg80211: Update the default DSCP-to-UP mapping"); distributions
//! have taken that into older kernels, and an access point's QoS map comes before either.

use std::path::Path;

use super::{Finding, SystemFacts, kernel};

/// The first kernel that maps EF to voice.
const VOICE: (u32, u32) = (6, 8);

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let Some(uplink) = facts.uplink_name() else {
        return vec![Finding::unknown(
            "there is no uplink to look at",
            "see what is said of the uplink",
        )];
    };
    let is_wifi = ["phy80211", "wireless"]
        .iter()
        .any(|sign| Path::new("/sys/class/net").join(uplink).join(sign).exists());
    if !is_wifi {
        return vec![Finding::ok(format!("{uplink} is no Wi-Fi link"))];
    }
    vec![match kernel::release() {
        None => Finding::unknown("the kernel's version cannot be read", "uname -r"),
        Some(release) => judge(uplink, release),
    }]
}

fn judge(uplink: &str, release: (u32, u32)) -> Finding {
    let (major, minor) = release;
    if release >= VOICE {
        return Finding::ok(format!(
            "{uplink} is Wi-Fi, and Linux {major}.{minor} gives EF the access category voice (user priority 6), unless \
             the access point says otherwise"
        ));
    }
    Finding::warning(
        format!(
            "{uplink} is Wi-Fi, and Linux {major}.{minor} gives EF the access category video (user priority 5), unless the \
             distribution or the access point says otherwise"
        ),
        "use Linux 6.8 or newer, or let the access point announce a QoS map with EF as user priority 6 (RFC 8325)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckVerdict;

    #[test]
    fn the_kernel_decides_unless_the_access_point_does() {
        assert_eq!(judge("wlan0", (6, 7)).verdict, CheckVerdict::Warning);
        assert!(judge("wlan0", (5, 15)).found.contains("video"));
        assert!(judge("wlan0", (6, 8)).found.contains("voice"));
        assert_eq!(judge("wlan0", (7, 0)).verdict, CheckVerdict::Ok);
    }
}
