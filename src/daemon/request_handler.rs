//! Handles the requests of the control socket and of metrics readers.
//!
//! The packet loop copies little at a time: first everything but mappings and connections, then these in pages. It
//! forwards packets in between. A mapping keeps its slot, so a mapping that exists throughout is in exactly one page.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::control::{Body, MetricsInput, PendingRequest, Request, Status, Summary};
use crate::diagnostics::{IdentifyingNames, Redactor};
use crate::engine::PAGE;

use super::applications;
use super::channel;
use super::driver::DriverMessage;
use super::events::EventLog;
use super::health::Health;
use super::service_state::{DriverSnapshot, MappingPage};

/// Time between two checks of the state and of the warnings.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);

/// Pages of mappings whose applications are checked at a time: 32,768 mappings take 16 checks.
const PAGES_CHECKED: usize = 4;

/// The senders to the threads that have the state.
pub(super) struct RequestHandler {
    pub(super) driver: channel::Sender<DriverMessage>,
    pub(super) reconciler: mpsc::Sender<PendingRequest>,
    pub(super) events: EventLog,
}

impl RequestHandler {
    /// Handles requests until the service stops.
    pub(super) async fn run(
        self,
        mut pending: mpsc::Receiver<PendingRequest>,
        mut scrapes: mpsc::Receiver<oneshot::Sender<MetricsInput>>,
    ) {
        let mut health = Health::default();
        let mut first_slot = 0;
        let mut checks = tokio::time::interval(HEALTH_INTERVAL);
        loop {
            let handled = tokio::select! {
                _ = checks.tick() => self.check(&mut health, &mut first_slot).await,
                Some(request) = pending.recv() => self.handle(request).await,
                Some(reply) = scrapes.recv() => self.scrape(reply).await,
                else => None,
            };
            if handled.is_none() {
                return;
            }
        }
    }

    /// Handles a request of the control socket. Returns none when the service is stopping.
    async fn handle(&self, PendingRequest { request, reply }: PendingRequest) -> Option<()> {
        match request {
            Request::Reload | Request::Pause { .. } | Request::Resume => {
                let pending = PendingRequest { request, reply };
                self.reconciler.send(pending).await.ok()?;
            }
            Request::Events { after } => {
                let _ = reply.send(Body::Events(self.events.after(after)));
            }
            Request::Summary => {
                let status = self.snapshot().await?.status(&self.events);
                let _ = reply.send(Body::Summary(summary(status)));
            }
            Request::Status => {
                let snapshot = self.snapshot().await?;
                let mut status = snapshot.status(&self.events);
                self.add_mappings(&snapshot, &mut status).await?;
                let _ = reply.send(Body::Status(Box::new(status)));
            }
        }
        Some(())
    }

    /// Handles a metrics reader. Metrics need the numbers of mappings and connections only, so no pages are copied.
    async fn scrape(&self, reply: oneshot::Sender<MetricsInput>) -> Option<()> {
        let snapshot = self.snapshot().await?;
        let _ = reply.send(MetricsInput {
            mappings: snapshot.engine.mappings,
            connections: snapshot.engine.connections,
            status: snapshot.status(&self.events),
        });
        Some(())
    }

    /// Records changes of the state and of the warnings as events, and ends mappings without an application.
    async fn check(&self, health: &mut Health, first_slot: &mut usize) -> Option<()> {
        let snapshot = self.snapshot().await?;
        health.update(&snapshot.status(&self.events), &self.events);
        self.check_applications(snapshot.engine.slots, first_slot)
            .await
    }

    async fn snapshot(&self) -> Option<DriverSnapshot> {
        let (reply, snapshot) = oneshot::channel();
        self.driver
            .send(DriverMessage::Snapshot(reply))
            .await
            .ok()?;
        snapshot.await.ok()
    }

    /// Ends the mappings of the next [`PAGES_CHECKED`] pages that are over. The number is bounded, so that thousands of
    /// mappings delay no request.
    async fn check_applications(&self, slots: usize, first: &mut usize) -> Option<()> {
        for _ in 0..PAGES_CHECKED.min(slots.div_ceil(PAGE)) {
            let mut page = MappingPage::new();
            page.start = if *first < slots { *first } else { 0 };
            *first = page.start + PAGE;
            let states = applications::states(self.fill(page).await?.take_mappings());
            if !states.is_empty() {
                let message = DriverMessage::ApplicationStates(states);
                self.driver.send(message).await.ok()?;
            }
        }
        Some(())
    }

    async fn fill(&self, page: MappingPage) -> Option<MappingPage> {
        let (reply, filled) = oneshot::channel();
        let message = DriverMessage::Mappings(page, reply);
        self.driver.send(message).await.ok()?;
        filled.await.ok()
    }

    /// Adds the mappings and connections of a snapshot's slots.
    async fn add_mappings(&self, snapshot: &DriverSnapshot, status: &mut Status) -> Option<()> {
        let slots = snapshot.engine.slots;
        let mut page = MappingPage::new();
        while page.start < slots {
            page = self.fill(page).await?;
            page.move_into(status, &snapshot.policy);
            page.start += PAGE;
        }
        Some(())
    }
}

/// Reduces a status to what every user may know.
fn summary(status: Status) -> Summary {
    let mut redactor = Redactor::new(&IdentifyingNames::default(), Vec::new());
    // An error may quote the configuration, which may be a credential.
    let reason = |warning: &String| {
        warning
            .split(" Error: ")
            .next()
            .map(|it| redactor.redact(it))
    };
    // Most reasons are warnings too.
    let is_warning = |text: &str| status.warnings.iter().any(|it| it.starts_with(text));
    let state_reason = status.reason.filter(|it| !is_warning(&it.text));
    let reasons = state_reason.map(|it| it.to_string()).into_iter();
    let reasons: Vec<_> = reasons.chain(status.warnings.iter().cloned()).collect();
    let uplinks = [status.uplink, status.uplink_v6];
    Summary {
        program_version: status.program_version,
        state: status.state,
        uplinks: uplinks
            .into_iter()
            .flatten()
            .map(|it| it.interface)
            .collect(),
        vpns: status.vpns.into_iter().map(|it| it.interface).collect(),
        captured: status.captured,
        reasons: reasons.iter().filter_map(reason).collect(),
    }
}

#[cfg(test)]
mod tests {
    use crate::control::UplinkStatus;

    use super::*;

    #[test]
    fn a_summary_has_no_address_and_no_detail_of_the_configuration() {
        let uplink = |gateway: &str| UplinkStatus {
            interface: "wlan0".to_owned(),
            gateway_v4: Some(gateway.to_owned()),
            ..UplinkStatus::default()
        };
        let summary = summary(Status {
            uplink: Some(uplink("192.168.1.1")),
            warnings: vec![
                "No route to 192.168.1.1 (2001:db8::7): check the network.".to_owned(),
                "The configuration was not reloaded. Error: unknown key \"secret\"".to_owned(),
            ],
            ..Status::default()
        });
        assert_eq!(
            summary.reasons,
            [
                "No route to private4-1 (public6-2): check the network.",
                "The configuration was not reloaded."
            ]
        );
        let json = serde_json::to_string(&summary).expect("plain data");
        assert!(
            json.contains("wlan0") && !json.contains("192.168"),
            "{json}"
        );
    }
}
