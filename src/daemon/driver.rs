//! The driver loop: the one owner of engine, device and relay.
//!
//! A wake-up goes, in this order: what is due, a batch from the TUN, a batch from the sockets of
//! either kind, the flush, a message of
//! the shell. Each source has the same budget, so that neither direction starves the other under load; what is left
//! over is still ready at the next wake-up. The clock is read once per wake-up.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tracing::{debug, info, trace};

use crate::control::{Body, Pending, Request};
use crate::engine::{Alias, Command, Engine, Event, Outbox};
use crate::net::ConnectionId;
use crate::policy::Policy;
use crate::relay::{Binder, Connections, Progress, Received, Relay, SendError};
use crate::tun::Device;

use super::events::Events;
use super::manager;
use super::situation::Situation;
use super::troubles::Troubles;
use super::way::Moves;

/// Packets per source and wake-up.
const BUDGET: usize = 64;

/// The largest IP packet.
const LARGEST: usize = 65_535;

/// What the shell tells the driver.
#[derive(Debug)]
pub(super) enum Message {
    /// Somebody asks.
    Request(Pending),
    /// Addresses that replies must not name have changed.
    Aliases(Vec<Alias>),
    /// Media leaves by another uplink from now on.
    Uplink(Binder, Moves),
    /// The service manager wants to know that packets are carried.
    Heartbeat,
    /// Another policy is in force from now on.
    Policy(Arc<Policy>),
    /// What surrounds the data path has changed.
    Situation(Box<Situation>),
}

/// Engine, device and relay, and the buffers between them.
pub(super) struct Driver<D> {
    engine: Engine,
    device: D,
    relay: Relay,
    connections: Connections,
    outbox: Outbox,
    packet: Box<[u8]>,
    situation: Situation,
    troubles: Troubles,
    events: Events,
}

impl<D: Device> Driver<D> {
    pub(super) fn new(
        engine: Engine,
        device: D,
        (relay, connections): (Relay, Connections),
        situation: Situation,
        events: Events,
    ) -> Self {
        Self {
            engine,
            device,
            relay,
            connections,
            outbox: Outbox::default(),
            packet: vec![0; LARGEST].into_boxed_slice(),
            situation,
            troubles: Troubles::default(),
            events,
        }
    }

    /// Carries packets until the device is lost or the shell is gone.
    ///
    /// # Errors
    /// When the device or the epoll set fails: nothing can be carried any more.
    ///
    /// # Cancel safety
    /// Dropping the future loses at most the packets of one wake-up.
    pub(super) async fn run(&mut self, mailbox: &mut mpsc::Receiver<Message>) -> io::Result<()> {
        loop {
            let due = self.engine.poll_timeout();
            let timeout = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let message = tokio::select! {
                ready = self.device.readable() => ready.map(|()| None)?,
                ready = self.relay.readable() => ready.map(|()| None)?,
                ready = self.connections.readable() => ready.map(|()| None)?,
                () = timeout => None,
                message = mailbox.recv() => match message {
                    Some(message) => Some(message),
                    None => return Ok(()),
                },
            };
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                self.engine.handle_timeout(now, &mut self.outbox);
            }
            self.take_from_device(now)?;
            self.take_from_relay(now)?;
            self.take_from_connections(now)?;
            self.flush(now);
            if let Some(message) = message {
                self.obey(message, now);
            }
            // Under load there is always something ready: without this, nobody could ask, steer or stop the service.
            tokio::task::yield_now().await;
        }
    }

    fn take_from_device(&mut self, now: Instant) -> io::Result<()> {
        for _ in 0..BUDGET {
            match self.device.try_recv(&mut self.packet) {
                Ok(length) => self
                    .engine
                    .handle_tun(&self.packet[..length], now, &mut self.outbox),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take_from_relay(&mut self, now: Instant) -> io::Result<()> {
        let Self {
            engine,
            relay,
            outbox,
            ..
        } = self;
        relay.receive(BUDGET, |mapping, received| match received {
            Received::Datagram(arrival) => {
                engine.handle_datagram(mapping, arrival, now, outbox);
            }
            Received::Error(returned) => {
                debug!(%mapping, to = %returned.to, error = ?returned.error, "the path returned an error");
                engine.handle_error(mapping, &returned, now, outbox);
            }
        })?;
        Ok(())
    }

    fn take_from_connections(&mut self, now: Instant) -> io::Result<()> {
        let Self {
            engine,
            connections,
            outbox,
            ..
        } = self;
        connections.progress(BUDGET, |connections, id, progress| match progress {
            Progress::Connected => engine.handle_connected(id, now, outbox),
            Progress::Failed(error) => {
                debug!(connection = %id, ?error, "the far side was not reached");
                engine.handle_connect_failed(id, error, outbox);
            }
            Progress::Ready => {
                if let Some(stream) = connections.stream(id) {
                    engine.handle_stream(id, stream, now, outbox);
                }
            }
        })
    }

    fn flush(&mut self, now: Instant) {
        if self.outbox.is_empty() {
            return;
        }
        // Carrying out one command may give others.
        let mut at = 0;
        while let Some(&command) = self.outbox.commands().get(at) {
            self.execute(command, now);
            at += 1;
        }
        for (transmit, payload) in self.outbox.transmits() {
            match self.relay.send(transmit, payload) {
                // Without a socket: it could not be opened, which is counted already.
                Ok(()) | Err(SendError::Closed(_)) => {}
                Err(SendError::Refused(error)) => {
                    self.troubles.send_refused(&error);
                    self.engine.handle_send_failed();
                }
            }
        }
        let Self {
            engine,
            relay,
            outbox,
            ..
        } = self;
        relay.take_setbacks(|mapping, returned| {
            engine.handle_error(mapping, &returned, now, outbox);
        });
        for packet in self.outbox.packets() {
            if let Err(error) = self.device.try_send(packet) {
                trace!(%error, "could not write a packet into the TUN");
                self.engine.handle_delivery_failed();
            }
        }
        for event in self.outbox.events() {
            match event {
                Event::Established {
                    mapping,
                    inside,
                    outside,
                } => {
                    debug!(%mapping, %inside, %outside, "mapping established");
                }
                Event::Ended { mapping, inside } => debug!(%mapping, %inside, "mapping ended"),
            }
        }
        self.outbox.clear();
    }

    fn execute(&mut self, command: Command, now: Instant) {
        match command {
            Command::Open {
                mapping,
                inside,
                treatment,
            } => match self.relay.open(mapping, inside, treatment) {
                Ok(outside) => self
                    .engine
                    .handle_opened(mapping, outside, &mut self.outbox),
                Err(error) => {
                    debug!(%mapping, %error, "could not open a socket");
                    self.engine
                        .handle_open_failed(mapping, error.told(), now, &mut self.outbox);
                    self.troubles.open_failed(&error);
                }
            },
            Command::Close { mapping } => self.relay.close(mapping),
            Command::Connect {
                connection,
                to,
                treatment,
            } => {
                if let Err(error) = self.connections.connect(connection, to, treatment) {
                    debug!(%connection, %error, "could not begin to connect");
                    let told = (&error).into();
                    self.troubles.open_failed(&error);
                    self.engine
                        .handle_connect_failed(connection, told, &mut self.outbox);
                }
            }
            Command::Carry { connection } => self.carry(connection, now),
            Command::Shutdown { connection } => self.connections.shutdown(connection),
            Command::Disconnect { connection, reset } => {
                self.connections.disconnect(connection, reset);
            }
        }
    }

    fn carry(&mut self, connection: ConnectionId, now: Instant) {
        if let Some(stream) = self.connections.stream(connection) {
            self.engine
                .handle_stream(connection, stream, now, &mut self.outbox);
        }
    }

    /// Moves the mappings' sockets to another uplink, as far as they must move. The application notices no more than that its address outside
    /// has changed, which ICE is made for. TCP connections end: they cannot move.
    fn follow(&mut self, binder: Binder, moves: Moves, now: Instant) {
        self.connections.rebind(binder.clone());
        let moves = |family| moves.includes(family);
        self.engine
            .handle_uplink_changed(moves, now, &mut self.outbox);
        let Self {
            engine,
            relay,
            outbox,
            troubles,
            ..
        } = self;
        troubles.forgive();
        relay.rebind(binder, moves, |mapping, moved| match moved {
            Ok(outside) => engine.handle_opened(mapping, outside, outbox),
            Err(error) => {
                engine.handle_open_failed(mapping, error.told(), now, outbox);
                troubles.open_failed(&error);
            }
        });
        self.flush(now);
    }

    fn answer(&self, request: &Request, now: Instant) -> Body {
        match *request {
            Request::Status => {
                let snapshot = self.engine.snapshot(now);
                let mut status = self.situation.status(&snapshot, &self.troubles, now);
                status.warnings.extend(self.events.trouble());
                Body::Status(Box::new(status))
            }
            Request::Reload => unreachable!("the steward reloads"),
            Request::Events { after } => Body::Events(self.events.after(after)),
        }
    }

    fn obey(&mut self, message: Message, now: Instant) {
        match message {
            Message::Request(Pending { request, reply }) => {
                // A peer that hung up meanwhile wants no answer.
                let _ = reply.send(self.answer(&request, now));
            }
            Message::Uplink(binder, moves) => self.follow(binder, moves, now),
            Message::Heartbeat => manager::alive(),
            Message::Policy(policy) => self.engine.handle_policy(policy),
            Message::Aliases(aliases) => self.engine.handle_aliases(aliases),
            Message::Situation(situation) => {
                if situation.warnings != self.situation.warnings {
                    info!(warnings = ?situation.warnings, "the situation changed");
                }
                self.situation = *situation;
            }
        }
    }
}
