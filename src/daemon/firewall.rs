//! The barrier: of which families this machine's firewall forbids media, as probes find out.
//!
//! What it would refuse is better in the VPN.

use crate::control::EventKind;
use crate::net::Family;
use crate::nftables::BlockedPath;
use crate::policy::Policy;
use crate::steering::TrafficSteering;

use super::events::Events;
use super::uplink_binding::UplinkBindings;

/// What a firewall forbids.
#[derive(Debug)]
pub(super) struct FirewallState {
    /// Families whose media a firewall was found to forbid; before the first probe, all.
    barred: Vec<Family>,
    /// The ones of which an event has told.
    noted: Vec<Family>,
    obstacles: Vec<BlockedPath>,
}

impl Default for FirewallState {
    fn default() -> Self {
        Self {
            barred: Family::BOTH.to_vec(),
            noted: Vec::new(),
            obstacles: Vec::new(),
        }
    }
}

impl FirewallState {
    /// Families whose media is not to be captured.
    pub(super) fn barred(&self) -> &[Family] {
        &self.barred
    }

    /// What stands in the way, a sentence each.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.obstacles.iter().map(ToString::to_string)
    }

    /// Finds out whom a firewall forbids a way.
    ///
    /// # Errors
    /// When there is no socket or no chain to probe with; what was found before stays.
    pub(super) fn probe(
        &mut self,
        steering: &TrafficSteering,
        ways: &UplinkBindings,
        policy: &Policy,
        events: &Events,
    ) -> anyhow::Result<()> {
        let mut obstacles = Vec::new();
        if ways.present().next().is_none() {
            self.obstacles = obstacles;
            return Ok(());
        }
        if let Some(prober) = steering.prober()? {
            for (family, way) in ways.present() {
                let direct = way.open()?;
                let by = (way.uplink.name.as_str(), way.binder.mark);
                obstacles.extend(prober.probe(&direct, by, &policy.samples(family)));
            }
        }
        self.obstacles = obstacles;
        let forbidden = |family: &Family| self.obstacles.iter().any(|it| it.family == *family);
        self.barred = Family::BOTH.into_iter().filter(forbidden).collect();
        self.note(events);
        Ok(())
    }

    /// Tells of each family that a firewall keeps in the VPN from now on, or no longer.
    fn note(&mut self, events: &Events) {
        for family in Family::BOTH {
            let is_barred = self.barred.contains(&family);
            if is_barred == self.noted.contains(&family) {
                continue;
            }
            let mut obstacles = self.obstacles.iter();
            if let Some(obstacle) = obstacles.find(|it| it.family == family) {
                events.record(EventKind::FirewallBlocked, family, obstacle);
            } else {
                let reason = "no firewall blocks its media any more";
                events.record(EventKind::FirewallUnblocked, family, reason);
            }
        }
        self.noted.clone_from(&self.barred);
    }
}
