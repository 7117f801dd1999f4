//! Notifications for the service manager (sd_notify(3)): readiness, uplinks, reloads, the end and the watchdog.
//!
//! Without a service manager they do nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

use super::uplink_binding::{UplinkBindings, names};

/// The last status that the service manager received.
#[derive(Debug, Default)]
pub(super) struct ServiceManager {
    status: Option<String>,
}

impl ServiceManager {
    /// Notifies readiness, the uplinks and a pause. The service is ready even while it waits for an uplink.
    pub(super) fn notify_uplinks(&mut self, uplinks: &UplinkBindings, is_paused: bool) {
        let status = match names(uplinks) {
            _ if is_paused => "paused; media stays in the VPN".to_owned(),
            None => "waiting for an uplink; media stays in the VPN".to_owned(),
            Some(links) => format!("media leaves through {links}"),
        };
        if self.status.as_ref() == Some(&status) {
            return;
        }
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.status = Some(status);
    }

    /// Notifies the start of a reload. [`ServiceManager::notify_uplinks`] ends it.
    pub(super) fn notify_reloading(&mut self) {
        let mut states = vec![NotifyState::Reloading];
        // systemd distinguishes reloads by this time.
        states.extend(NotifyState::monotonic_usec_now());
        notify(&states);
        self.status = None;
    }
}

/// Notifies that the service is stopping.
pub(super) fn notify_stopping() {
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("removing rules, routes and settings"),
    ]);
}

/// Notifies the watchdog.
pub(super) fn notify_alive() {
    notify(&[NotifyState::Watchdog]);
}

/// The interval of watchdog notifications, half of the manager's time-out; none without a watchdog.
pub(super) fn heartbeat() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 2)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "could not notify the service manager");
    }
}
