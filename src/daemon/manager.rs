//! What the service manager is told (sd_notify(3)): readiness, and how media goes.

use sd_notify::NotifyState;
use tracing::debug;

use super::way::Way;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub(super) struct Manager {
    said: Option<String>,
}

impl Manager {
    /// Says that the service is ready, which it also is while it waits for an uplink, and by which way media goes.
    pub(super) fn tell(&mut self, way: Option<&Way>) {
        let status = way.map_or_else(
            || "waiting for an uplink: media stays in the VPN".to_owned(),
            |way| format!("media leaves by {}", way.uplink.name),
        );
        if self.said.as_ref() == Some(&status) {
            return;
        }
        let told = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        if let Err(error) = told {
            debug!(%error, "the service manager could not be told");
        }
        self.said = Some(status);
    }
}
