//! The driver loop: the one owner of engine, device and relay, on a thread that does nothing else.
//!
//! A wake-up goes, in this order: what is due, a batch from the TUN, a batch from the sockets of either kind, the flush,
//! a letter of the shell. Each source has the same budget, so that neither direction starves the other under load; what
//! is left over is still ready at the next wake-up. The clock is read once per wake-up.
//!
//! **Media first.** The applications' TCP shares the TUN's queue with their media, and fills it with all that a window
//! allows: carrying a stream opens its window, and writing a stream's bytes into the TUN has them acknowledged through
//! the queue. So streams stand in line. Each wake-up carries [`STREAMS`] of them when the TUN's queue was found empty,
//! and [`STREAMS_UNDER_LOAD`] when it was not: what they bring into the queue is gone before more comes.
//!
//! There is no runtime here: one `epoll_wait` per wake-up names everything that is ready. While more sockets are ready
//! than it names, the TUN is looked at in any case: they cannot crowd it out.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tracing::{debug, trace};

use crate::control::EventKind;
use crate::engine::{Engine, EngineEvent, Outbox, ReplySource, SocketCommand};
use crate::net::{Egress, Family, PerFamily};
use crate::policy::Policy;
use crate::relay::{
    Progress, ReadyEvents, Received, SendError, SocketFactories, TcpRelay, Token, UdpRelay,
};
use crate::tun::PacketDevice;

use super::channel::{Mailbox, Post};
use super::events::Events;
use super::kernel_errors::KernelErrors;
use super::realtime::Realtime;
use super::service_state::{Page, ServiceState, View};
use super::systemd;
use super::uplink_binding::Moves;

/// Packets per source and wake-up.
const BUDGET: usize = 64;

/// Sockets that a wake-up opens, or few more: each takes the kernel 10 to 40 us. Who needs another one waits in the TUN.
const SOCKETS: usize = 16;

/// Streams that a wake-up carries when the TUN's queue was empty: together they bring at most 300 packets into it, of
/// the 500 that it holds.
const STREAMS: usize = 4;

/// And when it was not: fewer packets than a wake-up takes out.
const STREAMS_UNDER_LOAD: usize = 1;

/// What is waited for besides the sockets of mappings: the TUN, the TCP connections, a letter.
const DEVICE: Token = Token(0);
const CONNECTIONS: Token = Token(1);
const MAILBOX: Token = Token(2);

/// The largest IP packet.
const LARGEST: usize = 65_535;

/// What the shell tells the driver.
#[derive(Debug)]
pub(super) enum Message {
    /// Somebody wants to see how things are, but for mappings and connections.
    Look(oneshot::Sender<View>),
    /// And those in the slots of a page.
    Turn(Page, oneshot::Sender<Page>),
    /// Addresses that replies must not name have changed.
    Aliases(Vec<ReplySource>),
    /// Of which families other programs have IPsec policies, which direct sockets must be exempt from.
    Exempt(PerFamily<bool>),
    /// Media leaves by other uplinks from now on.
    Uplinks(SocketFactories, Moves),
    /// A family's uplink, which was gone, is there again.
    UplinkIsBack(Family),
    /// The size of the largest packet that applications get, and a gateway's clients.
    Mtu(u16),
    /// The service manager wants to know that packets are carried.
    Heartbeat,
    /// Another policy is in force from now on.
    Policy(Arc<Policy>),
    /// What surrounds the data path has changed.
    ServiceState(Box<ServiceState>),
}

/// How a shift ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shift {
    /// Another thread takes over.
    Relieved,
    /// The shell is gone.
    Last,
}

/// Engine, device and relay, and the buffers between them.
pub(super) struct Driver<D> {
    engine: Engine,
    device: D,
    relay: UdpRelay,
    connections: TcpRelay,
    outbox: Outbox,
    packet: Box<[u8]>,
    situation: ServiceState,
    troubles: KernelErrors,
    /// Told when a firewall seems to forbid sending.
    alarm: Arc<Notify>,
    events: Events,
    /// Whether nothing was left in the TUN.
    device_is_empty: bool,
}

impl<D: PacketDevice> Driver<D> {
    pub(super) fn new(
        engine: Engine,
        device: D,
        (relay, connections): (UdpRelay, TcpRelay),
        situation: ServiceState,
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
            troubles: KernelErrors::default(),
            alarm,
            events,
            device_is_empty: true,
        }
    }

    /// Carries packets until the device is lost or the shell is gone. A shift ends before that when it is another
    /// thread's turn.
    ///
    /// # Errors
    /// When the device or an epoll set fails: nothing can be carried any more.
    pub(super) fn run(
        &mut self,
        mailbox: &mut Mailbox<Message>,
        mut realtime: Realtime,
    ) -> io::Result<()>
    where
        D: Send,
    {
        self.relay.watch(DEVICE, &self.device)?;
        self.relay.watch(CONNECTIONS, &self.connections)?;
        self.relay.watch(MAILBOX, &*mailbox)?;
        loop {
            let shift = realtime.shift(|realtime| self.shift(mailbox, realtime))?;
            if shift == Shift::Last {
                return Ok(());
            }
        }
    }

    fn shift(
        &mut self,
        mailbox: &mut Mailbox<Message>,
        realtime: &mut Realtime,
    ) -> io::Result<Shift> {
        loop {
            let time = if self.connections.has_ready() || self.is_bypass_pending() {
                Some(Duration::ZERO)
            } else {
                let due = self.engine.poll_timeout();
                due.map(|due| due.saturating_duration_since(Instant::now()))
            };
            let found = self.relay.wait(time)?;
            let now = Instant::now();
            self.wake(found, now)?;
            if found.has(MAILBOX) {
                match mailbox.take() {
                    Post::Letter(message) => self.obey(message, realtime, now),
                    Post::Nothing => {}
                    Post::Closed => return Ok(Shift::Last),
                }
            }
            if realtime.look(now) {
                return Ok(Shift::Relieved);
            }
        }
    }

    /// Does what one wake-up does with packets.
    fn wake(&mut self, found: ReadyEvents, now: Instant) -> io::Result<()> {
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.engine.handle_timeout(now, &mut self.outbox);
        }
        let mut packets = 0;
        self.device_is_empty = true;
        if found.has(DEVICE) || found.is_full() {
            packets = self.take_from_device(now)?;
        }
        self.take_from_relay(packets, now)?;
        if found.has(CONNECTIONS) {
            self.take_from_connections(now)?;
        }
        self.flush(now);
        self.relay.bypass_next_batch();
        self.connections.bypass_next_batch();
        if self.troubles.take_suspicion() {
            self.alarm.notify_one();
        }
        Ok(())
    }

    /// Whether sockets are still to be exempted from IPsec policies: some at each wake-up, and nobody sleeps meanwhile.
    fn is_bypass_pending(&self) -> bool {
        self.relay.is_bypass_pending() || self.connections.is_bypass_pending()
    }

    /// Takes what waits in the TUN, at most [`BUDGET`] packets and no more than [`SOCKETS`] allow, and answers how many they
    /// were.
    fn take_from_device(&mut self, now: Instant) -> io::Result<usize> {
        let mut taken = 0;
        while taken < BUDGET && self.outbox.openings() < SOCKETS {
            match self.device.try_recv(&mut self.packet) {
                Ok(length) => self
                    .engine
                    .handle_tun(&self.packet[..length], now, &mut self.outbox),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
                Err(error) => return Err(error),
            }
            taken += 1;
        }
        self.device_is_empty = false;
        Ok(taken)
    }

    /// Takes what came in for mappings: a datagram of each ready socket, and as much as the TUN had if there is as much.
    fn take_from_relay(&mut self, share: usize, now: Instant) -> io::Result<()> {
        let Self {
            engine,
            relay,
            outbox,
            ..
        } = self;
        relay.receive(share, |mapping, egress, received| match received {
            Received::Datagram(arrival) => {
                engine.handle_datagram(mapping, egress, arrival, now, outbox);
            }
            Received::Error(returned) => {
                debug!(%mapping, %egress, to = %returned.to, error = ?returned.error, "the path returned an error");
                engine.handle_error(mapping, egress, &returned, now, outbox);
            }
        })
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
        let mut streams = if self.device_is_empty {
            STREAMS
        } else {
            STREAMS_UNDER_LOAD
        };
        let (mut command, mut transmit) = (0, 0);
        loop {
            // Carrying out one command may give others, and so may a datagram that was refused or returned.
            while let Some(&order) = self.outbox.commands().get(command) {
                self.execute(order, now);
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
            // Streams come last, behind the datagrams of this wake-up.
            if streams == 0 || !self.carry(now) {
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
        for event in self.outbox.events() {
            match event {
                EngineEvent::Established {
                    mapping,
                    inside,
                    egress,
                    outside,
                } => {
                    debug!(%mapping, %inside, %egress, %outside, "mapping established");
                }
                EngineEvent::Ended { mapping, inside } => {
                    debug!(%mapping, %inside, "mapping ended")
                }
                EngineEvent::FailedOver {
                    mapping,
                    inside,
                    cause,
                } => {
                    debug!(%mapping, %inside, "endpoint of the moved call");
                    let call = format_args!("mapping {mapping}");
                    self.events.record(EventKind::CallMovedToVpn, call, cause);
                }
                EngineEvent::FailedBack {
                    mapping,
                    inside,
                    cause,
                } => {
                    debug!(%mapping, %inside, "endpoint of the moved call");
                    let call = format_args!("mapping {mapping}");
                    self.events.record(EventKind::CallMovedDirect, call, cause);
                }
                EngineEvent::UplinkFailed { family, cause } => {
                    self.events.record(EventKind::UplinkFailed, family, cause);
                }
                EngineEvent::UplinkRecovered { family } => {
                    let reason = "the direct path is used again";
                    self.events
                        .record(EventKind::UplinkRecovered, family, reason);
                }
            }
        }
        self.outbox.clear();
    }

    /// Notes that a socket was opened: one of the tunnel says nothing about the uplink.
    fn opened(&mut self, egress: Egress, now: Instant) {
        if egress == Egress::Direct {
            self.troubles.opened(now);
        }
    }

    /// Sends the datagram at a place in the outbox.
    fn send(&mut self, at: usize, now: Instant) {
        let Some((transmit, payload)) = self.outbox.transmit_at(at) else {
            return;
        };
        let egress = transmit.egress;
        let Err(error) = self.relay.send(transmit, payload) else {
            // What the tunnel takes says nothing about the uplink.
            if egress == Egress::Direct {
                self.troubles.sent(now);
            }
            return;
        };
        let icmp_error = error.to_icmp_error();
        // Without a socket: it could not be opened, which is counted already.
        if let SendError::Refused(error) = error {
            self.troubles.send_refused(&error, now);
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
                treatment,
            } => match self.relay.open(mapping, egress, inside, treatment) {
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
                    self.troubles.open_failed(&error, now);
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
                    self.troubles.open_failed(&error, now);
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

    /// Carries the stream that has waited for longest. Answers whether there was one.
    fn carry(&mut self, now: Instant) -> bool {
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

    /// Has mappings leave by another uplink, as far as they must move: nothing is sent by the former one any more, and each
    /// mapping gets its other socket when it sends, or part by part. The application notices no more than that its address
    /// outside has changed, which ICE is made for. TCP connections end: they cannot move.
    fn follow(&mut self, binders: SocketFactories, moves: Moves, now: Instant) {
        let moves = |family| moves[family];
        self.connections.rebind(binders.clone());
        self.relay.rebind(binders, moves);
        self.troubles.forgive();
        self.engine
            .handle_uplink_changed(moves, now, &mut self.outbox);
        self.flush(now);
    }

    fn obey(&mut self, message: Message, realtime: &Realtime, now: Instant) {
        match message {
            Message::Look(reply) => {
                let view = View {
                    situation: self.situation.clone(),
                    snapshot: self.engine.snapshot(now),
                    troubles: self.troubles.clone(),
                    overflowed: self.relay.overflowed(),
                    scheduling: (realtime.class(), realtime.counts()),
                    now,
                };
                // Who asked may have gone meanwhile.
                let _ = reply.send(view);
            }
            Message::Turn(mut page, reply) => {
                page.fill(&self.engine, now);
                let _ = reply.send(page);
            }
            Message::Exempt(families) => {
                self.relay.set_ipsec_bypass(families);
                self.connections.set_ipsec_bypass(families);
            }
            Message::Uplinks(binders, moves) => self.follow(binders, moves, now),
            Message::UplinkIsBack(family) => {
                let Self { engine, outbox, .. } = self;
                engine.handle_uplink_restored(family, now, outbox);
                self.flush(now);
            }
            Message::Heartbeat => systemd::alive(),
            Message::Policy(policy) => self.engine.set_policy(policy),
            Message::Mtu(mtu) => self.engine.set_mtu(mtu),
            Message::Aliases(aliases) => self.engine.set_reply_sources(aliases),
            Message::ServiceState(situation) => self.situation = *situation,
        }
    }
}

#[cfg(test)]
mod tests;
