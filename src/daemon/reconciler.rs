//! The steward: keeps what surrounds the data path as it should be.
//!
//! # Theory of operation
//!
//! One loop, level-triggered: whatever happens (a notice of the kernel, a new day, the end of a sleep, a time that has
//! come), the answer is to observe everything anew, to choose the uplink, to plan and to apply. See
//! [`crate::manual::laptop`] for the states and timers.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::civil::Date;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Interval;
use tracing::debug;

use crate::config::{Config, VpnMark};
use crate::control::{Body, EventKind};
use crate::engine::TUN_MTU;
use crate::net::{Family, IfIndex, PerFamily};
use crate::policy::Policy;
use crate::route::desired::{Desired, FirewallMarks, RoutingIds};
use crate::route::observed::{Observed, RoutingRule};
use crate::route::rule_owner::RuleOwner;
use crate::route::uplink::{self, UplinkPreferences};
use crate::steering::watch::{KernelChange, Watch};
use crate::steering::{SteeringErrors, SteeringReport, TrafficSteering};

use super::channel;
use super::clients::Clients;
use super::conflict::{ConflictBackoff, Turn};
use super::driver::Message;
use super::events::Events;
use super::firewall::FirewallState;
use super::lifecycle::preferences;
use super::reload::{Source, can_follow};
use super::schedule::{LONGEST_RETRY, REST, RETRY, Schedule, processor_time, rest_after};
use super::service_state::ServiceState;
use super::sleep::{Notice, SleepWatch};
use super::systemd::{self, Manager};
use super::uplink_binding;
use super::uplink_selector::{News, Noted, UplinkSelector};
use super::{counted, today};

/// How often everything is looked at without a notice. A policy's dates are days; and legacy iptables gives no notice, so
/// that only a look finds what it no longer forbids. (What it does forbid, the driver notices.)
const CALENDAR: Duration = Duration::from_mins(1);

/// What events about them name.
const SUBJECT: &str = "rules and routes";

/// What the steward needs to know; a reload changes it as a whole.
pub(super) struct ReconcilerConfig {
    pub(super) config: Config,
    pub(super) source: Source,
    pub(super) preferences: UplinkPreferences,
    pub(super) numbers: RoutingIds,
    pub(super) tun: String,
    pub(super) tun_index: IfIndex,
}

/// Owns the steering of the kernel and tells the driver what it must know.
pub(super) struct Reconciler {
    charge: ReconcilerConfig,
    steering: TrafficSteering,
    watch: Watch,
    sleep: SleepWatch,
    signals: [Signal; 3],
    driver: channel::Sender<Message>,
    reloads: mpsc::Receiver<oneshot::Sender<Body>>,
    /// Comes when the driver is refused what a firewall would refuse.
    alarm: Arc<Notify>,
    policy: Arc<Policy>,
    compiled_for: Date,
    pilot: UplinkSelector,
    barrier: FirewallState,
    clients: Clients,
    desired: Option<Desired>,
    /// Of which families direct sockets are exempt from IPsec policies.
    exempt: PerFamily<bool>,
    foreign_rules: BTreeSet<RoutingRule>,
    contest: ConflictBackoff,
    /// Who is on the other side of the contest, as far as is known.
    opponent: Option<String>,
    ready_since: Option<Instant>,
    is_ready: bool,
    report: SteeringReport,
    /// Why the last reconciliation failed, if it did.
    fault: Option<String>,
    /// Why the last reload was refused, if it was.
    refused: Option<String>,
    events: Events,
    manager: Manager,
}

impl Reconciler {
    /// Subscribes to signals and to the kernel's changes; nothing is in force yet.
    ///
    /// # Errors
    /// When there is nothing to subscribe to.
    pub(super) fn new(
        charge: ReconcilerConfig,
        steering: TrafficSteering,
        (driver, reloads, alarm): (
            channel::Sender<Message>,
            mpsc::Receiver<oneshot::Sender<Body>>,
            Arc<Notify>,
        ),
        policy: Arc<Policy>,
        compiled_for: Date,
        events: Events,
    ) -> anyhow::Result<Self> {
        let watch = Watch::open(charge.numbers, steering.port());
        Ok(Self {
            charge,
            steering,
            watch: watch.context("could not watch the kernel's routing")?,
            sleep: SleepWatch::open().context("could not watch the clock")?,
            signals: [
                signal(SignalKind::interrupt()).context("could not catch SIGINT")?,
                signal(SignalKind::terminate()).context("could not catch SIGTERM")?,
                signal(SignalKind::hangup()).context("could not catch SIGHUP")?,
            ],
            driver,
            reloads,
            alarm,
            policy,
            compiled_for,
            pilot: UplinkSelector::default(),
            barrier: FirewallState::default(),
            clients: Clients::default(),
            desired: None,
            exempt: PerFamily::default(),
            foreign_rules: BTreeSet::new(),
            contest: ConflictBackoff::default(),
            opponent: None,
            ready_since: None,
            is_ready: false,
            report: SteeringReport::default(),
            fault: None,
            refused: None,
            events,
            manager: Manager::default(),
        })
    }

    /// Brings the policy into force and keeps it there until a signal comes.
    ///
    /// # Errors
    /// When the kernel refuses at the start, or can no longer be watched.
    pub(super) async fn attend(&mut self) -> anyhow::Result<()> {
        self.reconcile(&KernelChange::default()).await?;
        self.tell().await;
        let mut agenda = Schedule::default();
        let mut calendar = tokio::time::interval(CALENDAR);
        let mut heartbeat = systemd::heartbeat().map(tokio::time::interval);
        loop {
            let due = self.due(&agenda);
            let [interrupt, terminate, hangup] = &mut self.signals;
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = hangup.recv() => {
                    self.reload(&mut agenda).await;
                }
                Some(reply) = self.reloads.recv() => {
                    // Who hung up meanwhile wants no answer.
                    let _ = reply.send(self.reload(&mut agenda).await);
                }
                changed = self.watch.next_change() => {
                    let change = changed.context("could not watch the kernel's routing")?;
                    self.hurry_exemptions(&change).await;
                    agenda.add(change);
                }
                noticed = self.sleep.next() => {
                    if self.has_slept(noticed.context("could not watch the clock")?) {
                        agenda.add_now();
                    }
                }
                () = self.alarm.notified() => agenda.doubt(),
                _ = calendar.tick() => {
                    self.turn_the_page().await;
                    agenda.add_now();
                }
                refusal = self.steering.next_blocked() => {
                    let obstacle = refusal.context("could not watch the firewall")?;
                    self.clients.refuse(obstacle, Instant::now(), &self.events);
                    agenda.add_now();
                }
                () = next(&mut heartbeat) => self.send(Message::Heartbeat).await,
                () = until(due) => self.attend_to(&mut agenda).await,
            }
        }
    }

    /// Takes everything back.
    ///
    /// # Errors
    /// What could not be taken back; `voicelane cleanup` can try again.
    pub(super) async fn revert(self) -> Result<(), SteeringErrors> {
        self.steering.revert().await
    }

    /// When there is something to do next.
    fn due(&self, agenda: &Schedule) -> Option<Instant> {
        let now = Instant::now();
        let asked = agenda.change.as_ref().map(|_| now);
        let retry = agenda.retry.map(|(at, _)| at);
        let next = [
            asked,
            retry,
            agenda.doubt,
            self.pilot.again(),
            self.contest.ends(),
            self.clients.due(),
        ];
        let next = next.into_iter().flatten().min()?;
        Some(agenda.rest.map_or(next, |rest| next.max(rest)))
    }

    /// Does what is on the agenda.
    async fn attend_to(&mut self, agenda: &mut Schedule) {
        let change = agenda.change.take().unwrap_or_default();
        if change.overrun {
            self.events.record(
                EventKind::NotificationsLost,
                "netlink",
                "many network changes at once: the full state was read again",
            );
        }
        let (begun, busy) = (Instant::now(), processor_time());
        if agenda.doubt.take_if(|at| *at <= begun).is_some() {
            agenda.asked = Some(begun);
        }
        let outcome = self.reconcile(&change).await;
        let now = Instant::now();
        let rest = rest_after(processor_time().saturating_sub(busy));
        agenda.rest = Some(now + rest).max(self.contest.rests_until());
        match outcome {
            Ok(()) => (agenda.retry, self.fault) = (None, None),
            Err(error) => {
                let fault = Some(format!("{error:#}"));
                if fault != self.fault {
                    let reason = fault.as_deref().unwrap_or_default();
                    self.events
                        .record(EventKind::ReconcileFailed, SUBJECT, reason);
                }
                self.fault = fault;
                // What was cut off may go on at once.
                let first = if self.steering.is_closed() {
                    REST
                } else {
                    RETRY
                };
                let wait = agenda.retry.map_or(first, |(_, last)| last * 2);
                let wait = wait.min(LONGEST_RETRY);
                agenda.retry = Some((now + wait, wait));
            }
        }
        self.tell().await;
    }

    /// Notes what the watch over sleep says; answers whether to look at everything anew.
    fn has_slept(&self, notice: Notice) -> bool {
        let (kind, why) = match notice {
            Notice::FallsAsleep => (EventKind::Sleeping, "reported by logind".to_owned()),
            Notice::WokeUp(None) => (EventKind::Resumed, "reported by logind".to_owned()),
            Notice::WokeUp(Some(slept)) => (
                EventKind::Resumed,
                format!("after {} s of sleep", slept.as_secs()),
            ),
        };
        self.events.record(kind, "this machine", why);
        kind == EventKind::Resumed
    }

    /// Compiles the policy anew when the day has changed.
    async fn turn_the_page(&mut self) {
        let today = today();
        if today == self.compiled_for {
            return;
        }
        self.compiled_for = today;
        self.policy = Arc::new(Policy::compile(&self.charge.config, today));
        self.events.record(
            EventKind::PolicyChanged,
            today,
            "recompiled because the date changed",
        );
        self.send(Message::Policy(Arc::clone(&self.policy))).await;
    }

    /// Brings the configuration as it stands now into force, or leaves everything as it is and says why.
    async fn reload(&mut self, agenda: &mut Schedule) -> Body {
        self.manager.reloading();
        // Who asks for it may have mended the firewall: clients' media is tried again at once.
        self.clients = Clients::default();
        let renewed = self.renew(agenda).await;
        // A file's faults are a line each.
        self.refused = renewed
            .err()
            .map(|error| format!("{error:#}").replace('\n', "; "));
        let (kind, reason) = match &self.refused {
            None => (EventKind::Reloaded, "the new configuration is active"),
            Some(why) => (EventKind::ReloadRefused, why.as_str()),
        };
        self.events.record(kind, "configuration", reason);
        self.tell().await;
        match self.refused.clone() {
            None => Body::Reloaded {},
            Some(why) => Body::NotReloaded { error: why },
        }
    }

    /// Reads the configuration and puts it in the place of the present one, which comes back when the kernel refuses.
    async fn renew(&mut self, agenda: &mut Schedule) -> anyhow::Result<()> {
        let config = (self.charge.source)()?;
        can_follow(&self.charge.config, &config)?;
        let today = today();
        let policy = Arc::new(Policy::compile(&config, today));
        let preferences = preferences(&config);
        let former = (
            mem::replace(&mut self.charge.config, config),
            mem::replace(&mut self.charge.preferences, preferences),
            mem::replace(&mut self.policy, policy),
        );
        // First who judges packets, then what brings them.
        self.send(Message::Policy(Arc::clone(&self.policy))).await;
        let outcome = self.reconcile(&KernelChange::default()).await;
        if outcome.is_ok() {
            self.compiled_for = today;
        } else {
            (self.charge.config, self.charge.preferences, self.policy) = former;
            self.desired = None;
            self.send(Message::Policy(Arc::clone(&self.policy))).await;
            agenda.add_now();
        }
        outcome
    }

    /// Looks at the kernel, follows the uplink, and brings rules and routes into force.
    async fn reconcile(&mut self, change: &KernelChange) -> anyhow::Result<()> {
        if self.steering.is_closed() {
            self.steering.reconnect()?;
            self.watch.set_own_port(self.steering.port());
            let reason = "the connection to the kernel was closed and is open again";
            self.events
                .record(EventKind::NetlinkReconnected, "netlink", reason);
        }
        let observed = self.steering.observe().await?;
        let permit = self.permit(&observed);
        self.follow(permit, &observed).await?;
        let mut desired = Desired {
            tun: self.charge.tun_index,
            uplinks: PerFamily::new(|family| {
                let way = self.pilot.ways()[family].as_ref();
                way.map(|way| way.uplink.clone())
            }),
            captures: self.policy.captures().to_vec(),
            blocked: self.barrier.barred().to_vec(),
            marks: permit,
            clients: {
                let gateway = self.charge.config.gateway();
                self.clients.wanted(gateway, Instant::now(), &self.events)
            },
        };
        let mut report = self.steering.apply(&desired, &observed).await?;
        self.exempt(report.foreign_ipsec).await;
        let ways = self.pilot.ways();
        self.barrier
            .probe(&self.steering, ways, &self.policy, &self.events)?;
        if self.barrier.barred() != desired.blocked {
            desired.blocked = self.barrier.barred().to_vec();
            let then = self.steering.reconcile(&desired).await?;
            let former = mem::replace(&mut report, then).changes;
            report.changes.splice(0..0, former);
        }
        for change in &report.changes {
            debug!("{change}");
        }
        let mut change = change.clone();
        let coming = self.watch.pending_offenders().await;
        let coming = coming.context("could not watch the kernel's routing")?;
        change.offenders.extend(coming.iter().cloned());
        self.judge(&report, desired, &change, &observed);
        self.report = report;
        Ok(())
    }

    /// Looks after IPsec policies ahead of the agenda: until sockets are exempt, the first policy takes their media.
    async fn hurry_exemptions(&mut self, change: &KernelChange) {
        let all = PerFamily::new(|_| true);
        if (change.ipsec || change.overrun) && self.exempt != all {
            // Who cannot look now is told so when everything is looked at, which comes next.
            if let Ok(families) = self.steering.foreign_ipsec().await {
                self.exempt(families).await;
            }
        }
    }

    async fn exempt(&mut self, families: PerFamily<bool>) {
        if self.exempt != families {
            self.exempt = families;
            self.send(Message::Exempt(families)).await;
        }
    }

    /// What media may borrow of the VPN, by the configuration.
    fn permit(&self, observed: &Observed) -> FirewallMarks {
        let uplink = self.charge.config.uplink();
        FirewallMarks {
            mark: uplink.vpn_mark.and_then(|mark| match mark {
                VpnMark::Is(mark) => Some(mark),
                VpnMark::Auto => observed.inverted_marks.first().copied(),
            }),
            conntrack_mark: uplink.conntrack_mark,
        }
    }

    /// Notes what had to be changed and why, and whether that is a contest.
    fn judge(
        &mut self,
        report: &SteeringReport,
        desired: Desired,
        change: &KernelChange,
        observed: &Observed,
    ) {
        let now = Instant::now();
        let foreign = observed.rules.iter();
        let foreign = foreign.filter(|rule| !rule.is_owned_by(&self.charge.numbers));
        let foreign: BTreeSet<_> = foreign.cloned().collect();
        let changes = report.changes.len();
        let turn = if changes == 0 {
            self.contest.quiet(now)
        } else if self.desired.as_ref() == Some(&desired) {
            let rules = |these: &BTreeSet<RoutingRule>, those, did| {
                let rules = these.difference(those).take(2);
                rules
                    .map(|rule| format!("{} {did}", RuleOwner(rule)))
                    .collect::<Vec<_>>()
            };
            let mut who = rules(&foreign, &self.foreign_rules, "was added");
            who.extend(rules(&self.foreign_rules, &foreign, "was removed"));
            let thieves = change.offenders.iter();
            who.extend(thieves.map(|thief| format!("{thief} removed voicelane's rules or routes")));
            let who = if who.is_empty() {
                "by an unknown program".to_owned()
            } else {
                who.join(", ")
            };
            let took = change.noticed.map_or(Duration::ZERO, |at| now - at);
            let reason = format!(
                "{} restored: {who}",
                counted(changes as u64, "rule or route", "rules or routes")
            );
            self.events
                .record_timed(EventKind::RulesRestored, SUBJECT, reason, took);
            self.opponent = Some(who);
            self.contest.corrected(now)
        } else {
            Turn::Nothing
        };
        match turn {
            Turn::Nothing => {}
            Turn::Begins => {
                let opponent = self.opponent.as_deref().unwrap_or_default();
                let reason =
                    format!("changed too often; restoring them with increasing delay: {opponent}");
                self.events
                    .record(EventKind::RulesContested, SUBJECT, reason);
            }
            Turn::Ends => self.events.record(
                EventKind::RulesUncontested,
                SUBJECT,
                "no other program has changed them recently",
            ),
        }
        (self.desired, self.foreign_rules) = (Some(desired), foreign);
    }

    /// Moves to each family's best uplink, or lets go of one that has gone.
    async fn follow(&mut self, permit: FirewallMarks, observed: &Observed) -> anyhow::Result<()> {
        let numbers = &self.charge.numbers;
        let marks = (permit.mark.unwrap_or(numbers.mark), numbers.tunnel_mark());
        let ranked = uplink::rank(observed, numbers.protocol, &self.charge.preferences);
        let ways = self.pilot.pick(ranked, observed, marks, Instant::now());
        let News { events, messages } = self.pilot.follow(ways)?;
        for Noted {
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

    /// Tells the driver what the last reconciliation found.
    async fn tell(&mut self) {
        let links = uplink_binding::names(self.pilot.ways());
        let is_ready = links.is_some();
        if let Some(links) = links.filter(|_| !self.is_ready) {
            let reason = if self.barrier.barred().is_empty() {
                format!("media leaves through {links}")
            } else {
                "media stays in the VPN: a firewall blocks the direct path".to_owned()
            };
            self.events
                .record(EventKind::Ready, &self.charge.tun, reason);
            self.ready_since.get_or_insert_with(Instant::now);
        }
        self.is_ready = is_ready;
        self.send(Message::Aliases(self.report.reply_sources.clone()))
            .await;
        self.send(Message::Mtu(self.report.clients_mtu.unwrap_or(TUN_MTU)))
            .await;
        let without_aliases = self.steering.reply_source_error().map(|error| {
            format!("The VPN's firewall may drop replies to the VPN's own address: nftables is not available ({error})")
        });
        let no_uplink = self.pilot.without_uplink();
        let no_uplink = no_uplink.map(|error| format!("{error}; media stays in the VPN"));
        let leaves = |family: &Family| {
            self.pilot.ways()[*family].is_some()
                && self.report.priority.is_some()
                && !self.barrier.barred().contains(family)
        };
        let fault = self.fault.as_ref();
        let fault = fault.map(|fault| {
            format!("Rules and routes could not be updated; retrying. Error: {fault}")
        });
        let refused = self.refused.as_ref();
        let refused = refused.map(|why| {
            format!(
                "The configuration was not reloaded. The previous one stays active. Error: {why}"
            )
        });
        let contest = self.contest.rests_until().map(|_| {
            let opponent = self.opponent.as_deref().unwrap_or_default();
            format!("Another program keeps changing voicelane's {SUBJECT}. Restoring them with increasing delay. Last change: {opponent}")
        });
        let warnings = self.report.warnings.iter().map(ToString::to_string);
        let (uplink, uplink_v6) = uplink_binding::status(self.pilot.ways());
        let situation = ServiceState {
            ready_since: self.ready_since,
            tun: self.charge.tun.clone(),
            uplink,
            uplink_v6,
            vpns: self.report.vpns.clone(),
            captured: Family::BOTH.into_iter().filter(leaves).collect(),
            rule_priority: self.report.priority,
            clients: self
                .desired
                .as_ref()
                .map(Desired::captured_clients)
                .unwrap_or_default(),
            warnings: warnings
                .chain(self.barrier.warnings())
                .chain(self.clients.warnings())
                .chain(self.report.unmet_prerequisites.iter().cloned())
                .chain(without_aliases)
                .chain(no_uplink)
                .chain(fault)
                .chain(refused)
                .chain(contest)
                .collect(),
        };
        self.manager.tell(self.pilot.ways());
        self.send(Message::ServiceState(Box::new(situation))).await;
    }

    async fn send(&self, message: Message) {
        // A driver that has gone ends the service by itself; there is nobody left to tell.
        let _ = self.driver.send(message).await;
    }
}

async fn next(heartbeat: &mut Option<Interval>) {
    match heartbeat {
        Some(heartbeat) => {
            heartbeat.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
