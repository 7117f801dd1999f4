//! The event loop around reconciliation: waits for the kernel, the clock, signals and requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::time::Interval;

use crate::control::{Body, EventKind, PendingRequest, Request};
use crate::steering::SteeringErrors;
use crate::steering::watch::KernelChange;

use super::super::driver::DriverMessage;
use super::super::schedule::{INITIAL_RETRY, MIN_PAUSE, Schedule, pause_after, thread_cpu_time};
use super::super::sleep::{SleepNotice, SleepWatch};
use super::super::systemd;
use super::Reconciler;
use super::status::StatusReporter;

/// Time between two reconciliations without a notification. Legacy iptables sends none when a block ends.
const CALENDAR: Duration = Duration::from_mins(1);

/// The sources of events, and the reconciler that they drive.
pub(in crate::daemon) struct EventLoop {
    reconciler: Reconciler,
    status: StatusReporter,
    schedule: Schedule,
    sleep: SleepWatch,
    signals: [Signal; 3],
    requests: mpsc::Receiver<PendingRequest>,
    /// Notified by the driver when sending fails as a firewall makes it fail.
    firewall_suspected: Arc<Notify>,
}

impl EventLoop {
    /// Subscribes to the clock and to signals.
    ///
    /// # Errors
    /// When a subscription fails.
    pub(in crate::daemon) fn new(
        reconciler: Reconciler,
        status: StatusReporter,
        requests: mpsc::Receiver<PendingRequest>,
        firewall_suspected: Arc<Notify>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            reconciler,
            status,
            schedule: Schedule::default(),
            sleep: SleepWatch::open().context("could not watch the clock")?,
            signals: [
                signal(SignalKind::interrupt()).context("could not catch SIGINT")?,
                signal(SignalKind::terminate()).context("could not catch SIGTERM")?,
                signal(SignalKind::hangup()).context("could not catch SIGHUP")?,
            ],
            requests,
            firewall_suspected,
        })
    }

    /// Applies the policy for the first time.
    ///
    /// # Errors
    /// When the first reconciliation fails.
    pub(in crate::daemon) async fn start(&mut self) -> anyhow::Result<()> {
        self.reconciler.reconcile(&KernelChange::default()).await?;
        self.status.record_start(&self.reconciler);
        self.report().await;
        Ok(())
    }

    /// Keeps the policy applied until SIGINT or SIGTERM.
    ///
    /// # Errors
    /// When the kernel can no longer be watched.
    pub(in crate::daemon) async fn run(&mut self) -> anyhow::Result<()> {
        let mut calendar = tokio::time::interval(CALENDAR);
        let mut heartbeat = systemd::heartbeat().map(tokio::time::interval);
        loop {
            let due = self.due();
            let reconciler = &mut self.reconciler;
            let [interrupt, terminate, hangup] = &mut self.signals;
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = hangup.recv() => {
                    self.reload().await;
                }
                Some(PendingRequest { request, reply }) = self.requests.recv() => {
                    let body = match request {
                        Request::Pause { seconds } => self.pause(Some(seconds)).await,
                        Request::Resume => self.pause(None).await,
                        _ => self.reload().await,
                    };
                    // The client may have closed its connection.
                    let _ = reply.send(body);
                }
                changed = reconciler.watch.next_change() => {
                    let change = changed.context("could not watch the kernel's routing")?;
                    self.reconciler.update_ipsec_bypass(&change).await;
                    self.schedule.add(change);
                }
                noticed = self.sleep.next() => {
                    let notice = noticed.context("could not watch the clock")?;
                    self.on_sleep_notice(notice);
                }
                () = self.firewall_suspected.notified() => self.schedule.request_probe(),
                _ = calendar.tick() => {
                    self.reconciler.update_date().await;
                    self.schedule.add_now();
                }
                blocked = reconciler.steering.next_blocked() => {
                    let blocked = blocked.context("could not watch the firewall")?;
                    let Reconciler { clients, events, .. } = &mut self.reconciler;
                    clients.on_blocked(blocked, Instant::now(), events);
                    self.schedule.add_now();
                }
                () = tick(&mut heartbeat) => self.reconciler.send(DriverMessage::Heartbeat).await,
                () = sleep_until(due) => self.run_due().await,
            }
        }
    }

    /// Removes all rules, routes and settings.
    ///
    /// # Errors
    /// Everything that could not be removed; `voicelane cleanup` can retry.
    pub(in crate::daemon) async fn revert(self) -> Result<(), SteeringErrors> {
        self.reconciler.revert().await
    }

    /// The time of the next reconciliation.
    fn due(&self) -> Option<Instant> {
        let Reconciler {
            selector,
            attribution,
            clients,
            pause,
            ..
        } = &self.reconciler;
        let others = [
            selector.next_candidate_at(),
            attribution.ends_at(),
            clients.due(),
            pause.as_ref().map(|pause| pause.due),
        ];
        self.schedule.due(&others)
    }

    /// Reconciles once, and schedules the next reconciliation.
    async fn run_due(&mut self) {
        let change = self.schedule.change.take().unwrap_or_default();
        if change.overrun {
            self.reconciler.events.record(
                EventKind::NotificationsLost,
                "netlink",
                "many network changes at once: the full state was read again",
            );
        }
        let (start, cpu_time) = (Instant::now(), thread_cpu_time());
        self.schedule.start_probe(start);
        let outcome = self.reconciler.reconcile(&change).await;
        let now = Instant::now();
        let pause = pause_after(thread_cpu_time().saturating_sub(cpu_time));
        let backoff = self.reconciler.attribution.backoff_until();
        self.schedule.backoff_until = Some(now + pause).max(backoff);
        match outcome {
            Ok(()) => {
                self.schedule.retry = None;
                self.status.reconcile_error = None;
            }
            Err(error) => {
                let error = format!("{error:#}");
                self.status.on_reconcile_error(error, &self.reconciler);
                // A closed connection is reopened at once.
                let first = if self.reconciler.steering.is_closed() {
                    MIN_PAUSE
                } else {
                    INITIAL_RETRY
                };
                self.schedule.retry_after(first, now);
            }
        }
        self.report().await;
    }

    /// Records the event, and schedules a reconciliation after a sleep.
    fn on_sleep_notice(&mut self, notice: SleepNotice) {
        let by_logind = || "reported by logind".to_owned();
        let (kind, reason) = match notice {
            SleepNotice::Sleeping => (EventKind::Sleeping, by_logind()),
            SleepNotice::Resumed(None) => (EventKind::Resumed, by_logind()),
            SleepNotice::Resumed(Some(slept)) => {
                let reason = format!("after {} s of sleep", slept.as_secs());
                (EventKind::Resumed, reason)
            }
        };
        self.reconciler.events.record(kind, "this machine", reason);
        if kind == EventKind::Resumed {
            self.schedule.add_now();
        }
    }

    /// Starts a pause of so many seconds, or ends it.
    async fn pause(&mut self, seconds: Option<u64>) -> Body {
        self.reconciler.set_pause(seconds);
        self.run_due().await;
        match (&self.status.reconcile_error, &self.reconciler.pause) {
            (Some(error), _) => Body::Error(format!(
                "rules and routes could not be updated; retrying: {error}"
            )),
            (None, Some(pause)) => Body::Paused { until: pause.until },
            (None, None) => Body::Resumed {},
        }
    }

    /// Applies the configuration as it is now, or keeps the previous one.
    async fn reload(&mut self) -> Body {
        self.status.manager.notify_reloading();
        let reloaded = self.reconciler.reload().await;
        // The kernel refused, so that the previous configuration has to be applied again.
        if self.reconciler.applied.desired.is_none() {
            self.schedule.add_now();
        }
        // A file's errors are a line each.
        let error = reloaded
            .err()
            .map(|error| format!("{error:#}").replace('\n', "; "));
        let (kind, reason) = match &error {
            None => (EventKind::Reloaded, "the new configuration is active"),
            Some(error) => (EventKind::ReloadRefused, error.as_str()),
        };
        self.reconciler.events.record(kind, "configuration", reason);
        self.status.on_reloaded(error.as_deref());
        self.report().await;
        match error {
            None => Body::Reloaded {},
            Some(error) => Body::NotReloaded { error },
        }
    }

    /// Sends the result of the last reconciliation to the driver and the service manager.
    async fn report(&mut self) {
        let service_state = Box::new(self.status.report(&self.reconciler));
        self.reconciler.send_report().await;
        let message = DriverMessage::ServiceState(service_state);
        self.reconciler.send(message).await;
    }
}

async fn tick(heartbeat: &mut Option<Interval>) {
    match heartbeat {
        Some(heartbeat) => {
            heartbeat.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
