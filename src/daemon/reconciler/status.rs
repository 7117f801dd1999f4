//! The result of reconciliations in words: for the status, and for the service manager.

use crate::control::{EventKind, MediaStatus, StateReason};
use crate::net::{Egress, Family, PerFamily};
use crate::nftables::REMEDY;
use crate::route::desired::Desired;

use super::super::last_good::LastGood;
use super::super::service_state::{ServiceState, in_vpn};
use super::super::systemd::ServiceManager;
use super::super::uplink_binding;
use super::pause::Pause;
use super::{Reconciler, SUBJECT};

/// State of the status report beyond that of the reconciler.
#[derive(Debug, Default)]
pub(in crate::daemon) struct StatusReporter {
    is_ready: bool,
    /// The error of the last reconciliation.
    pub(super) reconcile_error: Option<String>,
    /// The error of the last reload.
    reload_error: Option<String>,
    /// The reason for a start with the last configuration that worked.
    start_error: Option<String>,
    /// Warnings that last until the end of the service.
    start_warnings: Vec<String>,
    pub(super) manager: ServiceManager,
}

impl StatusReporter {
    /// The state of a start.
    pub(in crate::daemon) fn of_start(error: Option<String>, warnings: Vec<String>) -> Self {
        Self {
            start_error: error,
            start_warnings: warnings,
            ..Self::default()
        }
    }

    /// Records the start with the last configuration that worked.
    pub(super) fn record_start(&self, reconciler: &Reconciler) {
        if let Some(error) = &self.start_error {
            let events = &reconciler.events;
            events.record(EventKind::LastGoodUsed, "configuration", error);
        }
    }

    /// Records the outcome of a reload.
    pub(super) fn on_reloaded(&mut self, error: Option<&str>) {
        if error.is_none() {
            self.start_error = None;
        }
        self.reload_error = error.map(str::to_owned);
    }

    /// Records that a reconciliation failed; the same error is one event.
    pub(super) fn on_reconcile_error(&mut self, error: String, reconciler: &Reconciler) {
        if self.reconcile_error.as_ref() != Some(&error) {
            let events = &reconciler.events;
            events.record(EventKind::ReconcileFailed, SUBJECT, &error);
        }
        self.reconcile_error = Some(error);
    }

    /// Notifies the service manager, records readiness, and returns the state for the status.
    pub(super) fn report(&mut self, reconciler: &Reconciler) -> ServiceState {
        let (uplinks, report) = (reconciler.selector.uplinks(), &reconciler.applied.report);
        self.record_ready(reconciler);
        let pause = reconciler.pause.as_ref();
        self.manager.notify_uplinks(uplinks, pause.is_some());
        let (uplink, uplink_v6) = uplink_binding::status(uplinks);
        let clients = reconciler.applied.desired.as_ref();
        ServiceState {
            tun: reconciler.settings.tun.clone(),
            media: PerFamily::new(|family| self.media(family, reconciler)),
            uplink,
            uplink_v6,
            vpns: report.vpns.clone(),
            paused_until: pause.map(|pause| pause.until),
            rule_priority: report.priority,
            clients: clients.map(Desired::captured_clients).unwrap_or_default(),
            warnings: self.warnings(reconciler),
        }
    }

    /// The path of a family's media; none if the policy has no prefix of the family.
    fn media(&self, family: Family, reconciler: &Reconciler) -> Option<MediaStatus> {
        let report = &reconciler.applied.report;
        let captures = reconciler.policy.0.captures().iter();
        let mut prefixes = captures.flat_map(|capture| &capture.prefixes);
        if !prefixes.any(|prefix| prefix.family() == family) {
            return None;
        }
        let reason = |code: &'static str, text: String, remedy: &str| StateReason {
            code: code.into(),
            text,
            remedy: remedy.to_owned(),
        };
        let reason = if let Some(pause) = &reconciler.pause {
            reason("paused", paused(pause), "")
        } else if reconciler.selector.uplinks()[family].is_none() {
            let text = match reconciler.selector.without_uplink() {
                Some(error) => error.to_string(),
                None => format!("no network connection with {family} found (Wi-Fi or cable)"),
            };
            let remedy = "Connect to a network. If one is connected, name its interface: [uplink] interface.";
            let mut vpns = report.vpns.iter();
            if !vpns.any(|vpn| {
                PerFamily {
                    v4: vpn.takes_v4,
                    v6: vpn.takes_v6,
                }[family]
            }) {
                return Some(MediaStatus {
                    egress: "none".into(),
                    reason: Some(reason("no_network", text, remedy)),
                });
            }
            reason("no_uplink", text, remedy)
        } else if let Some(blocked) = reconciler.firewall.blocked_path(family) {
            let text = blocked.to_string();
            let (text, remedy) = text.split_once(REMEDY).unwrap_or((&text, ""));
            reason(
                "firewall_blocked",
                text.to_owned(),
                &format!("Run as root: {remedy}"),
            )
        } else if report.priority.is_none() || reconciler.blocked().contains(&family) {
            let error = self.reconcile_error.as_ref();
            let text = error.map_or_else(
                || "The service is starting.".to_owned(),
                |it| not_applied(it),
            );
            reason(
                "not_applied",
                text,
                "`voicelane events` names the program that interferes.",
            )
        } else {
            return Some(MediaStatus {
                egress: Egress::Direct.name().into(),
                reason: None,
            });
        };
        Some(in_vpn(reason))
    }

    fn record_ready(&mut self, reconciler: &Reconciler) {
        let links = uplink_binding::names(reconciler.selector.uplinks());
        let was_ready = std::mem::replace(&mut self.is_ready, links.is_some());
        if let Some(links) = links.filter(|_| !was_ready) {
            let reason = if reconciler.pause.is_some() {
                "media stays in the VPN: paused".to_owned()
            } else if reconciler.firewall.blocked().is_empty() {
                format!("media leaves through {links}")
            } else {
                "media stays in the VPN: a firewall blocks the direct path".to_owned()
            };
            let tun = &reconciler.settings.tun;
            reconciler.events.record(EventKind::Ready, tun, reason);
        }
    }

    fn warnings(&self, reconciler: &Reconciler) -> Vec<String> {
        let report = &reconciler.applied.report;
        let reply_source = reconciler.steering.reply_source_error().map(|error| {
            format!("The VPN's firewall may drop replies to the VPN's own address: nftables is not available ({error})")
        });
        let no_uplink = reconciler.selector.without_uplink();
        let no_uplink = no_uplink.map(|error| format!("{error}; media stays in the VPN"));
        let reconcile_error = self.reconcile_error.as_ref().map(|it| not_applied(it));
        let reload_error = self.reload_error.as_ref().map(|error| {
            format!(
                "The configuration was not reloaded. The previous one stays active. Error: {error}"
            )
        });
        let last_good = reconciler.settings.last_good.as_ref();
        let warnings = report.warnings.iter().map(ToString::to_string);
        let start_error = self.start_error.iter().cloned();
        let pause = reconciler.pause.iter().map(paused);
        pause
            .chain(start_error)
            .chain(warnings)
            .chain(reconciler.firewall.warnings())
            .chain(reconciler.clients.warnings())
            .chain(report.unmet_prerequisites.iter().cloned())
            .chain(reply_source)
            .chain(no_uplink)
            .chain(reconcile_error)
            .chain(reload_error)
            .chain(reconciler.attribution.warning())
            .chain(self.start_warnings.iter().cloned())
            .chain(last_good.and_then(LastGood::warning))
            .collect()
    }
}

fn not_applied(error: &str) -> String {
    format!("Rules and routes could not be updated; retrying. Error: {error}")
}

fn paused(pause: &Pause) -> String {
    format!(
        "Paused until {:.0}: all media stays in the VPN. To end the pause: voicelane resume",
        pause.until
    )
}
