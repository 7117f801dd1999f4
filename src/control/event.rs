//! Events: the form in which they are stored, requested and printed.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of the form of events. Within a version, fields and kinds are only added.
pub const EVENT_VERSION: u32 = 1;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The version of the form.
    pub version: u32,
    /// Its number. Numbers continue after a restart.
    pub sequence: u64,
    /// The time of this machine's clock.
    pub time: Timestamp,
    /// The kind of the event.
    pub kind: EventKind,
    /// The affected interface, mapping or family.
    pub subject: String,
    /// The reason, as a sentence.
    pub reason: String,
    /// Time from the notification to the end of the handling in microseconds, if measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
}

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The service started.
    Started,
    /// The service is stopping.
    Stopped,
    /// There is no uplink yet; media stays in the VPN.
    UplinkMissing,
    /// An uplink was selected, for the first time since the start or a loss.
    Ready,
    /// Another uplink was selected, or its addresses or gateways changed.
    UplinkChanged,
    /// The last uplink was lost; media stays in the VPN.
    UplinkLost,
    /// Rules or routes were restored after another program had changed them.
    RulesRestored,
    /// Rules or routes could not be updated.
    ReconcileFailed,
    /// Another program changes rules or routes too often.
    RulesContested,
    /// The other program has stopped changing them.
    RulesUncontested,
    /// A call failed over to the VPN.
    CallMovedToVpn,
    /// A call failed back to the direct path.
    CallMovedDirect,
    /// The uplink failed for a family; all its calls are in the VPN.
    UplinkFailed,
    /// The uplink recovered.
    UplinkRecovered,
    /// A firewall blocks media of a family, which stays in the VPN.
    FirewallBlocked,
    /// No firewall blocks it any more.
    FirewallUnblocked,
    /// The kernel lost notifications; the full state was read again.
    NotificationsLost,
    /// The netlink connection was closed and opened again.
    NetlinkReconnected,
    /// The machine is going to sleep.
    Sleeping,
    /// The machine resumed from sleep.
    Resumed,
    /// The policy changed with the date.
    PolicyChanged,
    /// The configuration was reloaded.
    Reloaded,
    /// The configuration was not reloaded; the previous one stays active.
    ReloadRefused,
    /// The configuration failed at the start; the last one that worked is active.
    LastGoodUsed,
    /// A pause began: all media stays in the VPN.
    Paused,
    /// The pause ended.
    PauseEnded,
    /// The state in the status changed.
    StateChanged,
    /// A warning appeared in the status.
    WarningStarted,
    /// A warning disappeared from the status.
    WarningEnded,
    /// Events were not saved; the store has a gap.
    EventsLost,
    /// A kind of a newer version.
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// Whether it requires attention.
    #[must_use]
    pub const fn is_alarming(self) -> bool {
        matches!(
            self,
            Self::UplinkLost
                | Self::UplinkFailed
                | Self::ReconcileFailed
                | Self::RulesContested
                | Self::FirewallBlocked
                | Self::ReloadRefused
                | Self::LastGoodUsed
                | Self::WarningStarted
        )
    }
}

impl fmt::Display for EventKind {
    /// Writes the stable name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Event {
    /// Writes a line of text: time, kind, subject, reason, duration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            time,
            kind,
            subject,
            reason,
            ..
        } = self;
        write!(f, "{time:.3}  {kind:<20} {subject}: {reason}")?;
        match self.duration_us {
            Some(micros) => write!(f, " ({}.{} ms)", micros / 1_000, micros / 100 % 10),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            version: EVENT_VERSION,
            sequence: 7,
            time: "2026-11-22T17:28:03.5Z".parse().expect("a time"),
            kind: EventKind::UplinkChanged,
            subject: "eth0".to_owned(),
            reason: "the default route".to_owned(),
            duration_us: Some(1_234),
        }
    }

    #[test]
    fn the_json_is_stable() {
        let json = serde_json::to_string(&event()).expect("plain data");
        assert_eq!(
            json,
            r#"{"version":1,"sequence":7,"time":"2026-11-22T17:28:03.5Z","kind":"uplink_changed","subject":"eth0","reason":"the default route","duration_us":1234}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&json).expect("ours"), event());
        let newer = json.replace("uplink_changed", "teleported");
        let read: Event = serde_json::from_str(&newer).expect("a newer one");
        assert_eq!(read.kind, EventKind::Unknown);
    }

    #[test]
    fn the_text_is_one_line() {
        assert_eq!(
            event().to_string(),
            "2026-11-22T17:28:03.500Z  uplink_changed       eth0: the default route (1.2 ms)"
        );
    }
}
