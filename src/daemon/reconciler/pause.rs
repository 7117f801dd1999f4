//! A pause: for a time, all media stays in the VPN.
//!
//! It survives a reload and ends with the service. Time asleep counts.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::control::EventKind;
use crate::net::Family;
use crate::text::duration;

use super::Reconciler;

/// The end of a pause: the clock that is reached first ends it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    pub(super) until: Timestamp,
    pub(super) due: Instant,
}

impl Pause {
    fn of_seconds(seconds: u64) -> Self {
        let length = Duration::from_secs(seconds);
        Self {
            until: Timestamp::now() + length,
            due: Instant::now() + length,
        }
    }
}

impl Reconciler {
    /// Starts a pause of so many seconds, or ends it.
    pub(super) fn set_pause(&mut self, seconds: Option<u64>) {
        let previous = self.pause.take();
        self.pause = seconds.map(Pause::of_seconds);
        let (kind, reason) = match seconds {
            Some(seconds) => (
                EventKind::Paused,
                format!(
                    "media stays in the VPN for {}, as requested",
                    duration(seconds)
                ),
            ),
            None if previous.is_some() => (EventKind::PauseEnded, "as requested".to_owned()),
            None => return,
        };
        self.events.record(kind, "media", reason);
    }

    /// Ends a pause whose time has come.
    pub(super) fn end_pause_when_due(&mut self) {
        let is_due =
            |pause: &mut Pause| pause.due <= Instant::now() || pause.until <= Timestamp::now();
        if self.pause.take_if(is_due).is_some() {
            let reason = "its time is over";
            self.events.record(EventKind::PauseEnded, "media", reason);
        }
    }

    /// The families that are not captured: those that a firewall blocks, or all during a pause.
    pub(super) fn blocked(&self) -> Vec<Family> {
        match self.pause {
            Some(_) => Family::BOTH.to_vec(),
            None => self.firewall.blocked().to_vec(),
        }
    }
}
