//! The families that a firewall of this machine blocks, found by probes. Blocked media stays in the VPN.

use crate::control::EventKind;
use crate::net::Family;
use crate::nftables::BlockedPath;
use crate::policy::Policy;
use crate::steering::TrafficSteering;

use super::events::EventLog;
use super::uplink_binding::UplinkBindings;

/// The result of the last probes.
#[derive(Debug)]
pub(super) struct FirewallState {
    /// Families that a firewall blocks; before the first probe, all.
    blocked: Vec<Family>,
    /// The blocked families of the last event.
    recorded: Vec<Family>,
    blocked_paths: Vec<BlockedPath>,
}

impl Default for FirewallState {
    fn default() -> Self {
        Self {
            blocked: Family::BOTH.to_vec(),
            recorded: Vec::new(),
            blocked_paths: Vec::new(),
        }
    }
}

impl FirewallState {
    /// The families that must not be captured.
    pub(super) fn blocked(&self) -> &[Family] {
        &self.blocked
    }

    /// The path that a firewall blocks for a family, if any.
    pub(super) fn blocked_path(&self, family: Family) -> Option<&BlockedPath> {
        self.blocked_paths.iter().find(|it| it.family == family)
    }

    /// A sentence for each blocked path.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.blocked_paths.iter().map(ToString::to_string)
    }

    /// Probes the firewall on the path of each uplink.
    ///
    /// # Errors
    /// When a socket or a chain for probes cannot be created. The previous result stays.
    pub(super) fn probe(
        &mut self,
        steering: &TrafficSteering,
        uplinks: &UplinkBindings,
        policy: &Policy,
        events: &EventLog,
    ) -> anyhow::Result<()> {
        let mut blocked_paths = Vec::new();
        if uplinks.present().next().is_none() {
            self.blocked_paths = blocked_paths;
            return Ok(());
        }
        if let Some(prober) = steering.prober()? {
            for (family, uplink) in uplinks.present() {
                let direct = uplink.open()?;
                let interface = (uplink.uplink.name.as_str(), uplink.sockets.mark);
                blocked_paths.extend(prober.probe(&direct, interface, &policy.samples(family)));
            }
        }
        self.blocked_paths = blocked_paths;
        let is_blocked = |family: &Family| self.blocked_paths.iter().any(|it| it.family == *family);
        self.blocked = Family::BOTH.into_iter().filter(is_blocked).collect();
        self.record_changes(events);
        Ok(())
    }

    /// Records an event for each family whose block started or ended.
    fn record_changes(&mut self, events: &EventLog) {
        for family in Family::BOTH {
            let is_blocked = self.blocked.contains(&family);
            if is_blocked == self.recorded.contains(&family) {
                continue;
            }
            let mut blocked_paths = self.blocked_paths.iter();
            if let Some(blocked_path) = blocked_paths.find(|it| it.family == family) {
                events.record(EventKind::FirewallBlocked, family, blocked_path);
            } else {
                let reason = "no firewall blocks its media any more";
                events.record(EventKind::FirewallUnblocked, family, reason);
            }
        }
        self.recorded.clone_from(&self.blocked);
    }
}
