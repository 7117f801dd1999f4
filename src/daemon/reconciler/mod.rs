//! Reconciliation: reads the kernel's state, selects the uplink, and applies rules, routes and settings.
//!
//! # Theory of operation
//!
//! [`event_loop`] waits for events. For every event, [`Reconciler::reconcile`] reads the full state, plans
//! and applies. Thus a lost notification does no harm. [`attribution`] finds out which program changed the rules.
//! [`status`] describes the result. See [`crate::manual::laptop`] for states and timers.

mod attribution;
mod event_loop;
mod pause;
mod status;

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::civil::Date;
use tracing::debug;

use crate::config::{Config, VpnMark};
use crate::control::EventKind;
use crate::engine::TUN_MTU;
use crate::net::{IfIndex, PerFamily};
use crate::policy::Policy;
use crate::relay::TunnelLinks;
use crate::route::desired::{Desired, FirewallMarks, PortlessLookups, RoutingIds};
use crate::route::observed::Observed;
use crate::route::uplink::{self, UplinkPreferences};
use crate::steering::watch::{KernelChange, Watch};
use crate::steering::{SteeringErrors, SteeringReport, TrafficSteering};

use super::blocked_clients::BlockedClients;
use super::channel;
use super::component_settings::uplink_preferences;
use super::driver::DriverMessage;
use super::events::EventLog;
use super::firewall_state::FirewallState;
use super::last_good::{LastGood, LoadedConfig};
use super::reload::{ConfigSource, check_reloadable};
use super::today;
use super::uplink_binding;
use super::uplink_selector::{PendingEvent, UplinkSelector, UplinkSwitch};

use attribution::Attribution;
use pause::Pause;

pub(super) use event_loop::EventLoop;
pub(super) use status::StatusReporter;

/// The subject of events about rules and routes.
const SUBJECT: &str = "rules and routes";

/// Time after which a reconciliation reads the firewall's rules again, even without a notification.
const SEARCH_INTERVAL: Duration = Duration::from_secs(10);

/// The settings of the reconciler. A reload replaces `config` and `preferences`.
pub(super) struct ReconcilerConfig {
    pub(super) config: Config,
    pub(super) source: ConfigSource,
    pub(super) preferences: UplinkPreferences,
    pub(super) ids: RoutingIds,
    pub(super) tun: String,
    pub(super) tun_index: IfIndex,
    pub(super) last_good: Option<LastGood>,
}

/// The policy in force, and the day for which it was compiled.
pub(super) type DatedPolicy = (Arc<Policy>, Date);

/// The result of the last successful reconciliation.
#[derive(Default)]
struct Applied {
    desired: Option<Desired>,
    report: SteeringReport,
}

/// Owns the routing state of the kernel, and sends the driver its part of it.
pub(super) struct Reconciler {
    settings: ReconcilerConfig,
    steering: TrafficSteering,
    watch: Watch,
    driver: channel::Sender<DriverMessage>,
    policy: DatedPolicy,
    selector: UplinkSelector,
    firewall: FirewallState,
    clients: BlockedClients,
    attribution: Attribution,
    pause: Option<Pause>,
    /// Lookups without ports that other programs cause, and when they were searched for.
    lookups: Option<(PortlessLookups, Instant)>,
    applied: Applied,
    /// Families for which direct sockets bypass foreign IPsec policies.
    ipsec_bypass: PerFamily<bool>,
    tunnels: TunnelLinks,
    events: EventLog,
}

impl Reconciler {
    /// Subscribes to changes of the kernel; nothing is applied yet.
    ///
    /// # Errors
    /// When the subscription fails.
    pub(super) fn new(
        settings: ReconcilerConfig,
        steering: TrafficSteering,
        driver: channel::Sender<DriverMessage>,
        policy: DatedPolicy,
        events: EventLog,
    ) -> anyhow::Result<Self> {
        let watch = Watch::open(settings.ids, steering.port());
        Ok(Self {
            settings,
            steering,
            watch: watch.context("could not watch the kernel's routing")?,
            driver,
            policy,
            selector: UplinkSelector::default(),
            firewall: FirewallState::default(),
            clients: BlockedClients::default(),
            attribution: Attribution::default(),
            pause: None,
            lookups: None,
            applied: Applied::default(),
            ipsec_bypass: PerFamily::default(),
            tunnels: TunnelLinks::default(),
            events,
        })
    }

    /// Removes all rules, routes and settings.
    ///
    /// # Errors
    /// Everything that could not be removed; `voicelane cleanup` can retry.
    async fn revert(self) -> Result<(), SteeringErrors> {
        self.steering.revert().await
    }

    /// Recompiles the policy when the date has changed.
    async fn update_date(&mut self) {
        let today = today();
        if today == self.policy.1 {
            return;
        }
        self.policy = (
            Arc::new(Policy::compile(&self.settings.config, today)),
            today,
        );
        let reason = "recompiled because the date changed";
        self.events.record(EventKind::PolicyChanged, today, reason);
        self.send_policy().await;
    }

    /// Reads the configuration and applies it. If the kernel refuses, the previous configuration is restored.
    ///
    /// # Errors
    /// Errors of the configuration or of the kernel. After an error the caller reconciles again.
    async fn reload(&mut self) -> anyhow::Result<()> {
        // The user may have changed the firewall: clients' media is captured again at once.
        self.clients = BlockedClients::default();
        let LoadedConfig { config, documents } = (self.settings.source)()?;
        check_reloadable(&self.settings.config, &config)?;
        let today = today();
        let policy = (Arc::new(Policy::compile(&config, today)), today);
        let preferences = uplink_preferences(&config);
        let previous = (
            mem::replace(&mut self.settings.config, config),
            mem::replace(&mut self.settings.preferences, preferences),
            mem::replace(&mut self.policy, policy),
        );
        // The engine learns the policy before the kernel captures its packets.
        self.send_policy().await;
        let outcome = self.reconcile(&KernelChange::default()).await;
        if outcome.is_err() {
            (self.settings.config, self.settings.preferences, self.policy) = previous;
            self.applied.desired = None;
            self.send_policy().await;
        } else if let Some(last_good) = &self.settings.last_good {
            last_good.save(documents);
        }
        outcome
    }

    /// Reads the kernel's state, switches the uplink, and applies rules and routes.
    async fn reconcile(&mut self, change: &KernelChange) -> anyhow::Result<()> {
        if self.steering.is_closed() {
            self.steering.reconnect()?;
            self.watch.set_own_port(self.steering.port());
            let reason = "the connection to the kernel was closed and is open again";
            self.events
                .record(EventKind::NetlinkReconnected, "netlink", reason);
        }
        self.end_pause_when_due();
        let observed = self.steering.observe().await?;
        let marks = self.firewall_marks(&observed);
        self.update_tunnels(&observed).await;
        self.switch_uplinks(marks, &observed).await?;
        let lookups = self.portless_lookups(change)?;
        let uplinks = self.selector.uplinks();
        let gateway = self.settings.config.gateway();
        let clients = self
            .clients
            .capturable(gateway, Instant::now(), &self.events);
        let mut desired = Desired {
            tun: self.settings.tun_index,
            uplinks: PerFamily::new(|family| Some(uplinks[family].as_ref()?.uplink.clone())),
            captures: self.policy.0.captures().to_vec(),
            blocked: self.blocked(),
            marks,
            clients,
            lookups,
        };
        let mut report = self.steering.apply(&desired, &observed).await?;
        self.set_ipsec_bypass(report.foreign_ipsec).await;
        let uplinks = self.selector.uplinks();
        self.firewall
            .probe(&self.steering, uplinks, &self.policy.0, &self.events)?;
        let blocked = self.blocked();
        if blocked != desired.blocked {
            desired.blocked = blocked;
            let second = self.steering.reconcile(&desired).await?;
            let first = mem::replace(&mut report, second).changes;
            report.changes.splice(0..0, first);
        }
        for change in &report.changes {
            debug!("{change}");
        }
        let mut change = change.clone();
        let pending = self.watch.pending_offenders().await;
        let pending = pending.context("could not watch the kernel's routing")?;
        change.offenders.extend(pending.iter().cloned());
        let is_correction = self.applied.desired.as_ref() == Some(&desired);
        let foreign = observed.rules.into_iter();
        let foreign = foreign.filter(|rule| !rule.is_owned_by(&self.settings.ids));
        self.attribution.record(
            (report.changes.len(), is_correction),
            foreign.collect(),
            &change,
            &self.events,
        );
        self.applied = Applied {
            desired: Some(desired),
            report,
        };
        Ok(())
    }

    /// Searches for lookups without ports if the firewall may have changed: legacy iptables sends no notification.
    fn portless_lookups(&mut self, change: &KernelChange) -> anyhow::Result<PortlessLookups> {
        let has_changed = change.firewall || change.overrun;
        let known = self.lookups.filter(|_| !has_changed);
        if let Some((lookups, at)) = known
            && at.elapsed() < SEARCH_INTERVAL
        {
            return Ok(lookups);
        }
        let lookups = self.steering.portless_lookups();
        let lookups = lookups.context("could not read the firewall's rules")?;
        self.lookups = Some((lookups, Instant::now()));
        Ok(lookups)
    }

    /// Updates the IPsec bypass ahead of the schedule: the first foreign policy takes the media of direct sockets.
    async fn update_ipsec_bypass(&mut self, change: &KernelChange) {
        let all = PerFamily::new(|_| true);
        if (change.ipsec || change.overrun) && self.ipsec_bypass != all {
            // The reconciliation that follows reports an error.
            if let Ok(families) = self.steering.foreign_ipsec().await {
                self.set_ipsec_bypass(families).await;
            }
        }
    }

    async fn set_ipsec_bypass(&mut self, families: PerFamily<bool>) {
        if self.ipsec_bypass != families {
            self.ipsec_bypass = families;
            self.send(DriverMessage::IpsecBypass(families)).await;
        }
    }

    /// Sends the driver the tunnel links of other programs, so that a LAN host cannot send into a call in the VPN.
    async fn update_tunnels(&mut self, observed: &Observed) {
        let tunnels = uplink_binding::tunnel_links(
            observed,
            self.settings.tun_index,
            self.settings.ids.tunnel_mark(),
        );
        if self.tunnels != tunnels {
            self.tunnels.clone_from(&tunnels);
            self.send(DriverMessage::Tunnels(tunnels)).await;
        }
    }

    /// The marks with which media may pass the VPN's firewall, by the configuration.
    fn firewall_marks(&self, observed: &Observed) -> FirewallMarks {
        let uplink = self.settings.config.uplink();
        FirewallMarks {
            mark: uplink.vpn_mark.and_then(|mark| match mark {
                VpnMark::Is(mark) => Some(mark),
                VpnMark::Auto => observed.inverted_marks.first().copied(),
            }),
            conntrack_mark: uplink.conntrack_mark,
        }
    }

    /// Switches each family to its best uplink, or to none.
    async fn switch_uplinks(
        &mut self,
        marks: FirewallMarks,
        observed: &Observed,
    ) -> anyhow::Result<()> {
        let ReconcilerConfig {
            ids, preferences, ..
        } = &self.settings;
        let marks = (marks.mark.unwrap_or(ids.mark), ids.tunnel_mark());
        let ranked = uplink::rank(observed, ids.protocol, preferences);
        let uplinks = self
            .selector
            .select(ranked, observed, marks, Instant::now());
        let UplinkSwitch { events, messages } = self.selector.switch_to(uplinks)?;
        for PendingEvent {
            kind,
            subject,
            reason,
        } in events
        {
            self.events.record(kind, subject, reason);
        }
        for message in messages {
            self.send(message).await;
        }
        Ok(())
    }

    /// Sends the driver the results of the last reconciliation for the data path.
    async fn send_report(&self) {
        let report = &self.applied.report;
        let sources = report.reply_sources.clone();
        self.send(DriverMessage::ReplySources(sources)).await;
        let mtu = report.clients_mtu.unwrap_or(TUN_MTU);
        self.send(DriverMessage::Mtu(mtu)).await;
    }

    async fn send_policy(&self) {
        let policy = Arc::clone(&self.policy.0);
        self.send(DriverMessage::Policy(policy)).await;
    }

    async fn send(&self, message: DriverMessage) {
        // The end of the driver ends the service anyway.
        let _ = self.driver.send(message).await;
    }
}
