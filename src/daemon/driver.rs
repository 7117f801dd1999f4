//! The packet loop: the only owner of engine, device and relay, on a thread without other work.
//!
//! A wake-up handles timers, a batch from the TUN, a batch from the sockets, the outbox, and one message, in this order.
//! The TUN and the sockets have the same budget, so that neither direction starves the other. The clock is read once per
//! wake-up.
//!
//! **Media first.** The applications' TCP shares the TUN's queue with their media, and fills it as far as its window
//! allows. So a wake-up pumps only [`STREAMS`] streams, and [`STREAMS_UNDER_LOAD`] if the TUN's queue was not empty. Their
//! packets leave the queue before more arrive.
//!
//! One `epoll_wait` per wake-up returns the ready sockets. If more are ready than it returns, the TUN is read in any case.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tracing::{debug, trace};

use crate::engine::{Engine, Outbox, ReplySource, SocketCommand};
use crate::net::{Egress, Family, PerFamily};
use crate::policy::Policy;
use crate::relay::{
    Progress, ReadyEvents, Received, SendError, SocketFactories, TcpRelay, Token, TunnelLinks,
    UdpRelay,
};
use crate::tun::PacketDevice;

use super::applications::ApplicationState;
use super::call_events::CallEvents;
use super::channel::{Receiver, TryRecv};
use super::events::EventLog;
use super::kernel_errors::KernelErrors;
use super::realtime::Realtime;
use super::service_state::{DriverSnapshot, MappingPage, ServiceState};
use super::systemd;
use super::uplink_binding::Moves;

/// Packets per source and wake-up.
const BUDGET: usize = 64;

/// About how many sockets a wake-up opens at most: each takes 10 to 40 us. Further packets wait in the TUN.
const OPENINGS: usize = 16;

/// Streams per wake-up while the TUN's queue is empty. They add at most 300 packets to the queue, which holds 500.
const STREAMS: usize = 4;

/// Streams per wake-up while the queue is not empty: they add fewer packets than a wake-up reads.
const STREAMS_UNDER_LOAD: usize = 1;

/// The tokens of the TUN, the TCP connections and the channel. All other tokens are mappings.
const DEVICE: Token = Token(0);
const CONNECTIONS: Token = Token(1);
const CHANNEL: Token = Token(2);

/// The largest IP packet, in bytes.
const LARGEST: usize = 65_535;

/// A message from the second thread to the packet loop.
#[derive(Debug)]
pub(super) enum DriverMessage {
    /// Requests a snapshot without mappings and connections.
    Snapshot(oneshot::Sender<DriverSnapshot>),
    /// Requests the mappings and connections of a page.
    Mappings(MappingPage, oneshot::Sender<MappingPage>),
    /// Whether silent mappings still have an application.
    ApplicationStates(Vec<ApplicationState>),
    /// Replaces the source addresses of replies.
    ReplySources(Vec<ReplySource>),
    /// Address families for which direct sockets need an IPsec bypass.
    IpsecBypass(PerFamily<bool>),
    /// Replaces the tunnel links of other programs.
    Tunnels(TunnelLinks),
    /// Replaces the uplinks, and the sockets of the given families.
    Uplinks(SocketFactories, Moves),
    /// The uplink of a family is available again, unchanged.
    UplinkRestored(Family),
    /// The largest packet for applications and a gateway's clients, in bytes.
    Mtu(u16),
    /// Notifies the service manager that the packet loop runs.
    Heartbeat,
    /// Replaces the policy.
    Policy(Arc<Policy>),
    /// Replaces the state that the reconciler reports.
    ServiceState(Box<ServiceState>),
}

/// The reason for the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunOutcome {
    /// The real-time budget is exhausted or restored: the other thread continues the loop.
    ThreadChangeDue,
    /// The second thread has ended.
    ShutDown,
}

/// Engine, device and relays, and the buffers between them.
pub(super) struct Driver<D> {
    engine: Engine,
    device: D,
    relay: UdpRelay,
    connections: TcpRelay,
    outbox: Outbox,
    packet: Box<[u8]>,
    service_state: ServiceState,
    started: Instant,
    kernel_errors: KernelErrors,
    /// Notified when a send error suggests a firewall (EPERM, EACCES).
    firewall_suspected: Arc<Notify>,
    calls: CallEvents,
    /// Whether the last read emptied the TUN's queue.
    is_device_empty: bool,
}

impl<D: PacketDevice> Driver<D> {
    pub(super) fn new(
        engine: Engine,
        device: D,
        (relay, connections): (UdpRelay, TcpRelay),
        service_state: ServiceState,
        firewall_suspected: Arc<Notify>,
        events: EventLog,
    ) -> Self {
        Self {
            engine,
            device,
            relay,
            connections,
            outbox: Outbox::default(),
            packet: vec![0; LARGEST].into_boxed_slice(),
            service_state,
            started: Instant::now(),
            kernel_errors: KernelErrors::default(),
            firewall_suspected,
            calls: CallEvents::new(events),
            is_device_empty: true,
        }
    }

    /// Forwards packets until the device fails or the second thread ends.
    ///
    /// # Errors
    /// When the device or an epoll set fails.
    pub(super) fn run(
        &mut self,
        receiver: &mut Receiver<DriverMessage>,
        mut realtime: Realtime,
    ) -> io::Result<()>
    where
        D: Send,
    {
        self.relay.watch(DEVICE, &self.device)?;
        self.relay.watch(CONNECTIONS, &self.connections)?;
        self.relay.watch(CHANNEL, &*receiver)?;
        loop {
            let outcome = realtime.run(|realtime| self.run_until(receiver, realtime))?;
            if outcome == RunOutcome::ShutDown {
                return Ok(());
            }
        }
    }

    /// Forwards packets until the thread has to change, or the service ends.
    fn run_until(
        &mut self,
        receiver: &mut Receiver<DriverMessage>,
        realtime: &mut Realtime,
    ) -> io::Result<RunOutcome> {
        loop {
            let timeout = if self.connections.has_ready() || self.is_bypass_pending() {
                Some(Duration::ZERO)
            } else {
                let due = self.engine.poll_timeout();
                due.map(|due| due.saturating_duration_since(Instant::now()))
            };
            let ready = self.relay.wait(timeout)?;
            let now = Instant::now();
            self.wake(ready, now)?;
            if ready.has(CHANNEL) {
                match receiver.try_recv() {
                    TryRecv::Message(message) => self.handle_message(message, realtime, now),
                    TryRecv::Empty => {}
                    TryRecv::Closed => return Ok(RunOutcome::ShutDown),
                }
            }
            if realtime.is_change_due(now) {
                return Ok(RunOutcome::ThreadChangeDue);
            }
        }
    }

    /// Handles the timers and packets of one wake-up.
    fn wake(&mut self, ready: ReadyEvents, now: Instant) -> io::Result<()> {
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.engine.handle_timeout(now, &mut self.outbox);
        }
        let mut packets = 0;
        self.is_device_empty = true;
        if ready.has(DEVICE) || ready.is_full() {
            packets = self.read_device(now)?;
        }
        self.read_sockets(packets, now)?;
        if ready.has(CONNECTIONS) {
            self.advance_connections(now)?;
        }
        self.flush(now);
        self.relay.bypass_next_batch();
        self.connections.bypass_next_batch();
        if self.kernel_errors.take_firewall_suspicion() {
            self.firewall_suspected.notify_one();
        }
        Ok(())
    }

    /// Whether sockets still wait for their IPsec bypass. Each wake-up sets some; the loop does not sleep meanwhile.
    fn is_bypass_pending(&self) -> bool {
        self.relay.is_bypass_pending() || self.connections.is_bypass_pending()
    }

    /// Reads at most [`BUDGET`] packets from the TUN, fewer if they open [`OPENINGS`] sockets, and returns their number.
    fn read_device(&mut self, now: Instant) -> io::Result<usize> {
        let mut count = 0;
        while count < BUDGET && self.outbox.openings() < OPENINGS {
            match self.device.try_recv(&mut self.packet) {
                Ok(length) => self
                    .engine
                    .handle_tun(&self.packet[..length], now, &mut self.outbox),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(error) => return Err(error),
            }
            count += 1;
        }
        self.is_device_empty = false;
        Ok(count)
    }

    /// Reads from ready sockets until at least `min_reads` reads are made.
    fn read_sockets(&mut self, min_reads: usize, now: Instant) -> io::Result<()> {
        let Self {
            engine,
            relay,
            outbox,
            ..
        } = self;
        relay.receive(min_reads, |mapping, egress, received| match received {
            Received::Datagram(arrival) => {
                engine.handle_datagram(mapping, egress, arrival, now, outbox);
            }
            Received::Error(returned) => {
                debug!(%mapping, %egress, to = %returned.to, error = ?returned.error, "the path returned an error");
                engine.handle_error(mapping, egress, &returned, now, outbox);
            }
            Received::WrongLink => engine.handle_wrong_link(),
        })
    }

    fn advance_connections(&mut self, now: Instant) -> io::Result<()> {
        let Self {
            engine,
            connections,
            outbox,
            ..
        } = self;
        connections.progress(BUDGET, |connections, id, progress| match progress {
            Progress::Connected => engine.handle_connected(id, now, outbox),
            Progress::Failed(error) => {
                debug!(connection = %id, ?error, "the connection failed");
                engine.handle_connect_failed(id, error, outbox);
            }
            Progress::Ready => connections.enqueue_ready(id),
        })
    }

    fn flush(&mut self, now: Instant) {
        if self.outbox.is_empty() && !self.connections.has_ready() {
            return;
        }
        let mut streams = if self.is_device_empty {
            STREAMS
        } else {
            STREAMS_UNDER_LOAD
        };
        let (mut command, mut transmit) = (0, 0);
        loop {
            // Commands and failed sends may add commands.
            while let Some(&next) = self.outbox.commands().get(command) {
                self.execute(next, now);
                command += 1;
            }
            if transmit < self.outbox.transmit_count() {
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
            relay.take_send_errors(|mapping, egress, returned| {
                engine.handle_error(mapping, egress, &returned, now, outbox);
            });
            if self.outbox.commands().len() != command || self.outbox.transmit_count() != transmit {
                continue;
            }
            // Streams come after the datagrams of this wake-up.
            if streams == 0 || !self.pump(now) {
                break;
            }
            streams -= 1;
        }
        for packet in self.outbox.packets() {
            if let Err(error) = self.device.try_send(packet) {
                trace!(%error, "could not write a packet into the TUN");
                self.engine.handle_delivery_failed();
            }
        }
        for &event in self.outbox.events() {
            self.calls.record(event, now);
        }
        self.outbox.clear();
    }

    /// Records that a socket was opened. A tunnel socket says nothing about the uplink.
    fn opened(&mut self, egress: Egress, now: Instant) {
        if egress == Egress::Direct {
            self.kernel_errors.opened(now);
        }
    }

    /// Sends the datagram at an index of the outbox.
    fn send(&mut self, at: usize, now: Instant) {
        let Some((transmit, payload)) = self.outbox.transmit_at(at) else {
            return;
        };
        let egress = transmit.egress;
        let Err(error) = self.relay.send(transmit, payload) else {
            // A datagram in the tunnel says nothing about the uplink.
            if egress == Egress::Direct {
                self.kernel_errors.sent(now);
            }
            return;
        };
        let icmp_error = error.to_icmp_error();
        // The failed open has counted this drop already.
        if let SendError::Refused(error) = error {
            self.kernel_errors.send_refused(&error, now);
            self.engine
                .handle_send_failed(at, icmp_error, now, &mut self.outbox);
        }
    }

    fn execute(&mut self, command: SocketCommand, now: Instant) {
        match command {
            SocketCommand::Open {
                mapping,
                egress,
                inside,
                to,
                treatment,
            } => match self.relay.open(mapping, egress, inside, to, treatment) {
                Ok(outside) => {
                    self.opened(egress, now);
                    self.engine
                        .handle_opened(mapping, egress, outside, &mut self.outbox);
                }
                Err(error) => {
                    debug!(%mapping, %egress, %error, "could not open a socket");
                    self.engine.handle_open_failed(
                        mapping,
                        egress,
                        error.to_icmp_error(),
                        now,
                        &mut self.outbox,
                    );
                    self.kernel_errors.open_failed(&error, now);
                }
            },
            SocketCommand::Close { mapping } => self.relay.close(mapping),
            SocketCommand::Connect {
                connection,
                egress,
                inside,
                to,
                treatment,
            } => match self
                .connections
                .connect(connection, egress, inside, to, treatment)
            {
                Ok(()) => self.opened(egress, now),
                Err(error) => {
                    debug!(%connection, %error, "could not start to connect");
                    let connect_error = error.to_connect_error();
                    self.kernel_errors.open_failed(&error, now);
                    self.engine
                        .handle_connect_failed(connection, connect_error, &mut self.outbox);
                }
            },
            SocketCommand::Pump { connection } => self.connections.enqueue_ready(connection),
            SocketCommand::Shutdown { connection } => self.connections.shutdown(connection),
            SocketCommand::Disconnect { connection, reset } => {
                self.connections.disconnect(connection, reset);
            }
        }
    }

    /// Pumps the stream that has waited longest. Returns whether there was one.
    fn pump(&mut self, now: Instant) -> bool {
        let Self {
            engine,
            connections,
            outbox,
            ..
        } = self;
        let next = connections.next_ready();
        next.map(|(id, stream)| engine.handle_stream(id, stream, now, outbox))
            .is_some()
    }

    /// Switches mappings to other uplinks. Nothing is sent through the previous ones any more.
    ///
    /// A mapping gets its new socket when it sends, or in batches. The application sees only a new outside address, which
    /// ICE handles. TCP connections end, because they cannot move.
    fn switch_uplinks(&mut self, factories: SocketFactories, moves: Moves, now: Instant) {
        let moves = |family| moves[family];
        self.connections.rebind(factories.clone());
        self.relay.rebind(factories, moves);
        self.kernel_errors.clear_warnings();
        self.engine
            .handle_uplink_changed(moves, now, &mut self.outbox);
        self.flush(now);
    }

    fn handle_message(&mut self, message: DriverMessage, realtime: &Realtime, now: Instant) {
        match message {
            DriverMessage::Snapshot(reply) => {
                let snapshot = DriverSnapshot {
                    service_state: self.service_state.clone(),
                    engine: self.engine.snapshot(now),
                    kernel_errors: self.kernel_errors.clone(),
                    policy: Arc::clone(self.engine.policy()),
                    ended_calls: self.calls.recently_ended(now),
                    overflowed: self.relay.overflowed(),
                    scheduling: (realtime.class(), realtime.counts()),
                    now,
                    uptime: now.saturating_duration_since(self.started),
                };
                // The client may have closed its connection.
                let _ = reply.send(snapshot);
            }
            DriverMessage::Mappings(mut page, reply) => {
                page.fill(&self.engine, now);
                let _ = reply.send(page);
            }
            DriverMessage::ApplicationStates(states) => {
                let Self { engine, outbox, .. } = self;
                for (mapping, has_application) in states {
                    engine.handle_application_state(mapping, has_application, now, outbox);
                }
                self.flush(now);
            }
            DriverMessage::IpsecBypass(families) => {
                self.relay.set_ipsec_bypass(families);
                self.connections.set_ipsec_bypass(families);
            }
            DriverMessage::Tunnels(tunnels) => self.relay.set_tunnels(tunnels),
            DriverMessage::Uplinks(factories, moves) => self.switch_uplinks(factories, moves, now),
            DriverMessage::UplinkRestored(family) => {
                let Self { engine, outbox, .. } = self;
                engine.handle_uplink_restored(family, now, outbox);
                self.flush(now);
            }
            DriverMessage::Heartbeat => systemd::notify_alive(),
            DriverMessage::Policy(policy) => self.engine.set_policy(policy),
            DriverMessage::Mtu(mtu) => self.engine.set_mtu(mtu),
            DriverMessage::ReplySources(sources) => self.engine.set_reply_sources(sources),
            DriverMessage::ServiceState(service_state) => self.service_state = *service_state,
        }
    }
}

#[cfg(test)]
mod tests;
