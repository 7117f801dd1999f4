//! The Wi-Fi access category that this kernel gives to EF.
//!
//! Older kernels use the upper three bits of the DSCP as user priority: EF (46) becomes 5, video. RFC 8325 section 4
//! requires 6, voice. Linux 6.8 and later follow it ("wifi: cfg80211: Update the default DSCP-to-UP mapping").
//! Distributions may have backported that, and a QoS map of the access point overrides both.

use std::path::Path;

use super::{Finding, SystemFacts, kernel};

/// The first kernel that maps EF to voice.
const VOICE: (u32, u32) = (6, 8);

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let Some(uplink) = facts.uplink_name() else {
        return vec![Finding::no_uplink()];
    };
    let is_wifi = ["phy80211", "wireless"]
        .iter()
        .any(|file| Path::new("/sys/class/net").join(uplink).join(file).exists());
    if !is_wifi {
        return vec![Finding::ok(format!("{uplink} is not a Wi-Fi interface."))];
    }
    vec![match kernel::release() {
        None => Finding::unknown(
            "Not checked: the kernel version cannot be read.",
            "Run: uname -r",
        ),
        Some(release) => assess(uplink, release),
    }]
}

fn assess(uplink: &str, release: (u32, u32)) -> Finding {
    let (major, minor) = release;
    if release >= VOICE {
        return Finding::ok(format!(
            "{uplink} is Wi-Fi. Linux {major}.{minor} sends EF in the access category voice (user priority 6), unless \
             the access point announces another QoS map."
        ));
    }
    Finding::warning(
        format!(
            "{uplink} is Wi-Fi. Linux {major}.{minor} sends EF in the access category video (user priority 5), unless the \
             distribution or the access point changes that."
        ),
        "Use Linux 6.8 or newer, or configure a QoS map with EF as user priority 6 in the access point (RFC 8325).",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckVerdict;

    #[test]
    fn linux_6_8_and_newer_give_ef_the_voice_category() {
        assert_eq!(assess("wlan0", (6, 7)).verdict, CheckVerdict::Warning);
        assert!(assess("wlan0", (5, 15)).found.contains("video"));
        assert!(assess("wlan0", (6, 8)).found.contains("voice"));
        assert_eq!(assess("wlan0", (7, 0)).verdict, CheckVerdict::Ok);
    }
}
