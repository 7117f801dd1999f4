//! The driver loop: the one owner of engine, device and relay.
//!
//! A wake-up goes, in this order: what is due, a batch from the TUN, a batch from the sockets of
//! either kind, the flush, a message of
//! the shell. Each source has the same budget, so that neither direction starves the other under load; what is left
//! over is still ready at the next wake-up. The clock is read once per wake-up.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, mpsc};
use tokio::time::sleep_until;
use tracing::{debug, info, trace};

use crate::control::{Body, EventKind, Pending, Request};
use crate::engine::{Alias, Command, Engine, Event, Outbox};
use crate::net::{ConnectionId, Family, Way};
use crate::policy::Policy;
use crate::relay::{Binders, Connections, Progress, Received, Relay, SendError};
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
    /// Media leaves by other uplinks from now on.
    Uplinks(Binders, Moves),
    /// A family's uplink, which was gone, is there again.
    UplinkIsBack(Family),
    /// The size of the largest packet that applications get, and a gateway's clients.
    Mtu(u16),
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
    /// Told when a firewall seems to forbid sending.
    alarm: Arc<Notify>,
    events: Events,
}

impl<D: Device> Driver<D> {
    pub(super) fn new(
        engine: Engine,
        device: D,
        (relay, connections): (Relay, Connections),
        situation: Situation,
        alarm: Arc<Notify>,
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
            alarm,
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
            if self.troubles.take_suspicion() {
                self.alarm.notify_one();
            }
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
        relay.receive(BUDGET, |mapping, way, received| match received {
            Received::Datagram(arrival) => {
                engine.handle_datagram(mapping, way, arrival, now, outbox);
            }
            Received::Error(returned) => {
                debug!(%mapping, %way, to = %returned.to, error = ?returned.error, "the path returned an error");
                engine.handle_error(mapping, way, &returned, now, outbox);
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
        let (mut command, mut transmit) = (0, 0);
        loop {
            // Carrying out one command may give others, and so may a datagram that was refused or returned.
            while let Some(&order) = self.outbox.commands().get(command) {
                self.execute(order, now);
                command += 1;
            }
            if transmit < self.outbox.places() {
                self.send(transmit, now);
                transmit += 1;
                continue;
            }
            let Self {
                engine,
                relay,
                outbox,
                ..
            } = self;
            relay.take_setbacks(|mapping, way, returned| {
                engine.handle_error(mapping, way, &returned, now, outbox);
            });
            if self.outbox.commands().len() == command && self.outbox.places() == transmit {
                break;
            }
        }
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
                    way,
                    outside,
                } => {
                    debug!(%mapping, %inside, %way, %outside, "mapping established");
                }
                Event::Ended { mapping, inside } => debug!(%mapping, %inside, "mapping ended"),
                Event::Fell {
                    mapping,
                    inside,
                    cause,
                } => {
                    debug!(%mapping, %inside, "it is the call of this endpoint");
                    let call = format_args!("mapping {mapping}");
                    self.events.record(EventKind::CallFell, call, cause);
                }
                Event::Returned {
                    mapping,
                    inside,
                    cause,
                } => {
                    debug!(%mapping, %inside, "it is the call of this endpoint");
                    let call = format_args!("mapping {mapping}");
                    self.events.record(EventKind::CallReturned, call, cause);
                }
                Event::UplinkFell { family, cause } => {
                    self.events.record(EventKind::UplinkFell, family, cause);
                }
                Event::UplinkReturned { family } => {
                    let reason = "it is trusted again";
                    self.events
                        .record(EventKind::UplinkReturned, family, reason);
                }
            }
        }
        self.outbox.clear();
    }

    /// Notes that a socket was opened: one of the tunnel says nothing about the uplink.
    fn opened(&mut self, way: Way, now: Instant) {
        if way == Way::Direct {
            self.troubles.opened(now);
        }
    }

    /// Sends the datagram at a place in the outbox.
    fn send(&mut self, at: usize, now: Instant) {
        let Some((transmit, payload)) = self.outbox.transmit_at(at) else {
            return;
        };
        let way = transmit.way;
        let Err(error) = self.relay.send(transmit, payload) else {
            // What the tunnel takes says nothing about the uplink.
            if way == Way::Direct {
                self.troubles.sent(now);
            }
            return;
        };
        let told = error.told();
        // Without a socket: it could not be opened, which is counted already.
        if let SendError::Refused(error) = error {
            self.troubles.send_refused(&error, now);
            self.engine
                .handle_send_failed(at, told, now, &mut self.outbox);
        }
    }

    fn execute(&mut self, command: Command, now: Instant) {
        match command {
            Command::Open {
                mapping,
                way,
                inside,
                treatment,
            } => match self.relay.open(mapping, way, inside, treatment) {
                Ok(outside) => {
                    self.opened(way, now);
                    self.engine
                        .handle_opened(mapping, way, outside, &mut self.outbox);
                }
                Err(error) => {
                    debug!(%mapping, %way, %error, "could not open a socket");
                    self.engine.handle_open_failed(
                        mapping,
                        way,
                        error.told(),
                        now,
                        &mut self.outbox,
                    );
                    self.troubles.open_failed(&error, now);
                }
            },
            Command::Close { mapping } => self.relay.close(mapping),
            Command::Connect {
                connection,
                way,
                inside,
                to,
                treatment,
            } => match self
                .connections
                .connect(connection, way, inside, to, treatment)
            {
                Ok(()) => self.opened(way, now),
                Err(error) => {
                    debug!(%connection, %error, "could not begin to connect");
                    let told = (&error).into();
                    self.troubles.open_failed(&error, now);
                    self.engine
                        .handle_connect_failed(connection, told, &mut self.outbox);
                }
            },
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

    /// Moves the mappings' sockets to another uplink, as far as they must move. The application notices no more than that
    /// its address outside has changed, which ICE is made for. TCP connections end: they cannot move.
    fn follow(&mut self, binders: Binders, moves: Moves, now: Instant) {
        self.connections.rebind(binders.clone());
        let moves = |family| moves[family];
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
        relay.rebind(binders, moves, |mapping, moved| match moved {
            Ok(outside) => engine.handle_opened(mapping, Way::Direct, outside, outbox),
            Err(error) => {
                engine.handle_open_failed(mapping, Way::Direct, error.told(), now, outbox);
                troubles.open_failed(&error, now);
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
            Message::Uplinks(binders, moves) => self.follow(binders, moves, now),
            Message::UplinkIsBack(family) => {
                let Self { engine, outbox, .. } = self;
                engine.handle_uplink_is_back(family, now, outbox);
                self.flush(now);
            }
            Message::Heartbeat => manager::alive(),
            Message::Policy(policy) => self.engine.handle_policy(policy),
            Message::Mtu(mtu) => self.engine.handle_mtu(mtu),
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
