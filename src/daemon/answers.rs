//! Answers for those who ask how things are: at the control socket, and for metrics.
//!
//! The thread that carries packets is asked for little at a time: everything but mappings and connections first, and then,
//! where they are wanted, one page of them after the other. It carries packets in between. Each keeps its slot, so none
//! that stands throughout is left out or told twice; what begins or ends between two pages may be told or not.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::control::{Body, Measured, Pending, Request, Status};
use crate::engine::PAGE;

use super::channel;
use super::driver::Message;
use super::events::Events;
use super::health::Health;
use super::service_state::{Page, View};

/// Time between two checks of the state and of the warnings.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);

/// Who finds the answers.
pub(super) struct Answers {
    pub(super) driver: channel::Sender<Message>,
    pub(super) steward: mpsc::Sender<oneshot::Sender<Body>>,
    pub(super) events: Events,
}

impl Answers {
    /// Gives each request to who can answer it, until the service stops.
    pub(super) async fn give(
        self,
        mut pending: mpsc::Receiver<Pending>,
        mut readers: mpsc::Receiver<oneshot::Sender<Measured>>,
    ) {
        let mut health = Health::default();
        let mut checks = tokio::time::interval(HEALTH_INTERVAL);
        loop {
            let given = tokio::select! {
                _ = checks.tick() => self.check_health(&mut health).await,
                Some(asked) = pending.recv() => self.answer(asked).await,
                Some(reader) = readers.recv() => self.measure(reader).await,
                else => None,
            };
            if given.is_none() {
                return;
            }
        }
    }

    /// Answers a peer of the control socket. None when the service is stopping; a peer that hung up meanwhile wants no
    /// answer.
    async fn answer(&self, Pending { request, reply }: Pending) -> Option<()> {
        match request {
            Request::Reload => self.steward.send(reply).await.ok()?,
            Request::Events { after } => {
                let _ = reply.send(Body::Events(self.events.after(after)));
            }
            Request::Status => {
                let view = self.look().await?;
                let mut status = view.status(&self.events);
                self.list(view.snapshot.slots, &mut status).await?;
                let _ = reply.send(Body::Status(Box::new(status)));
            }
        }
        Some(())
    }

    /// Answers a reader of metrics, who is told how many mappings and connections there are and no more of them.
    async fn measure(&self, reader: oneshot::Sender<Measured>) -> Option<()> {
        let view = self.look().await?;
        let _ = reader.send(Measured {
            mappings: view.snapshot.mappings,
            connections: view.snapshot.connections,
            status: view.status(&self.events),
        });
        Some(())
    }

    /// Records changes of the state and of the warnings as events.
    async fn check_health(&self, health: &mut Health) -> Option<()> {
        let status = self.look().await?.status(&self.events);
        health.update(&status, &self.events);
        Some(())
    }

    async fn look(&self) -> Option<View> {
        let (look, seen) = oneshot::channel();
        self.driver.send(Message::Look(look)).await.ok()?;
        seen.await.ok()
    }

    /// Adds what stands in so many slots.
    async fn list(&self, slots: usize, status: &mut Status) -> Option<()> {
        let mut page = Page::new();
        while page.start < slots {
            let (reply, filled) = oneshot::channel();
            self.driver.send(Message::Turn(page, reply)).await.ok()?;
            page = filled.await.ok()?;
            page.empty_into(status);
            page.start += PAGE;
        }
        Some(())
    }
}
