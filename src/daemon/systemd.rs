//! What the service manager is told (sd_notify(3)): readiness, how media goes, reloads, the end, and that we live.
//!
//! Without a manager that listens, nothing is told, and nothing is missed.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

use super::uplink_binding::{UplinkBindings, names};

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub(super) struct Manager {
    said: Option<String>,
}

impl Manager {
    /// Says that the service is ready, which it also is while it waits for an uplink, and by which way media goes.
    pub(super) fn tell(&mut self, ways: &UplinkBindings) {
        let status = names(ways).map_or_else(
            || "waiting for an uplink; media stays in the VPN".to_owned(),
            |links| format!("media leaves through {links}"),
        );
        if self.said.as_ref() == Some(&status) {
            return;
        }
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.said = Some(status);
    }

    /// Says that the configuration is being read anew. The next [`Manager::tell`] says that this is over.
    pub(super) fn reloading(&mut self) {
        let mut states = vec![NotifyState::Reloading];
        // The manager wants to know which of two reloads is meant.
        states.extend(NotifyState::monotonic_usec_now());
        notify(&states);
        self.said = None;
    }
}

/// Says that the service takes everything back, and then ends.
pub(super) fn stopping() {
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("removing rules, routes and settings"),
    ]);
}

/// Says that packets are being carried.
pub(super) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// How often the manager wants to hear that we live, if it does: twice in the time after which it would kill us.
pub(super) fn heartbeat() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|patience| patience / 2)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "could not notify the service manager");
    }
}
