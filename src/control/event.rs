//! What happened and why, in the form in which it is kept, asked for and printed.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of an event's form. Within one, fields and kinds are only added.
pub const EVENT_VERSION: u32 = 1;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The version of the form.
    pub version: u32,
    /// Its number: each event has the next one, also after a restart.
    pub sequence: u64,
    /// When it happened, by this machine's clock.
    pub time: Timestamp,
    /// What happened.
    pub kind: EventKind,
    /// What it happened to: an interface, an endpoint, a table.
    pub subject: String,
    /// Why, as a sentence for a person.
    pub reason: String,
    /// How long it took to deal with it, in microseconds since it was noticed, where that is a figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The service has begun.
    Started,
    /// The service ends, and takes back what it set.
    Stopped,
    /// There is no uplink yet: media is in the VPN.
    UplinkMissing,
    /// Media leaves by an uplink, for the first time since the start or since there was none.
    Ready,
    /// Media leaves by another uplink, or by the same one with other addresses or gateways.
    UplinkChanged,
    /// There is no uplink any more: media is in the VPN.
    UplinkLost,
    /// Rules or routes of ours were brought back or moved, since something had changed.
    RulesRestored,
    /// Rules or routes could not be brought into force.
    ReconcileFailed,
    /// Another program takes away what we put back, again and again.
    RulesContested,
    /// The other program has given up, or has what it wants.
    RulesUncontested,
    /// A call's direct way fails: it goes on in the VPN.
    CallMovedToVpn,
    /// A call has left the VPN again.
    CallMovedDirect,
    /// The uplink fails in a family: all its calls go on in the VPN.
    UplinkFailed,
    /// The uplink is trusted again.
    UplinkRecovered,
    /// A firewall forbids the direct path to media of a family, which is in the VPN therefore.
    FirewallBlocked,
    /// No firewall forbids it any more.
    FirewallUnblocked,
    /// More changed than the kernel could tell: everything was read anew.
    NotificationsLost,
    /// The exchange with the kernel was cut off, and goes on by a new connection.
    NetlinkReconnected,
    /// The machine is about to sleep.
    Sleeping,
    /// The machine has slept.
    Resumed,
    /// The policy is another one.
    PolicyChanged,
    /// The configuration was read anew, and is in force.
    Reloaded,
    /// The configuration was read anew, and is not fit to be in force: what was stays.
    ReloadRefused,
    /// The state in the status changed.
    StateChanged,
    /// A warning appeared in the status.
    WarningStarted,
    /// A warning disappeared from the status.
    WarningEnded,
    /// A kind that this program does not know yet: the store was written by a newer one.
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// Whether a person should look at it.
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
    /// Writes a line for a person: time, kind, subject, reason, figure.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            time,
            kind,
            subject,
            reason,
            ..
        } = self;
        write!(f, "{time:.3}  {kind:<17} {subject}: {reason}")?;
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
    fn a_person_reads_one_line() {
        assert_eq!(
            event().to_string(),
            "2026-11-22T17:28:03.500Z  uplink_changed    eth0: the default route (1.2 ms)"
        );
    }
}
