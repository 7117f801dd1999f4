//! The TCP stack: one segment in; its output goes straight into the outbox.

use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time;
use smoltcp::wire::HardwareAddress;

use crate::engine::{Outbox, TUN_MTU};

/// The part of the TCP stack that all connections share. It accepts every destination address, and time is an argument.
pub(super) struct Stack {
    interface: Interface,
    epoch: Option<Instant>,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Stack {
    pub(super) fn new() -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        // Initial sequence numbers derive from this seed; the hasher's seed is random for each process.
        config.random_seed = RandomState::default().hash_one(0);
        let mut discarded = Outbox::default();
        let mut link =
            StackDevice::new(None, std::net::Ipv4Addr::UNSPECIFIED.into(), &mut discarded);
        let mut interface = Interface::new(config, &mut link, time::Instant::ZERO);
        interface.set_any_ip(true);
        Self {
            interface,
            epoch: None,
        }
    }

    /// Passes a segment to a socket. Urgent answers are written at once.
    pub(super) fn receive(
        &mut self,
        sockets: &mut SocketSet<'static>,
        segment: &[u8],
        to: IpAddr,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let now = self.stack_time(now);
        let mut link = StackDevice::new(Some(segment), to, outbox);
        self.interface.poll_ingress_single(now, &mut link, sockets);
    }

    /// Lets a socket write at most `burst` segments, to `to`.
    pub(super) fn poll(
        &mut self,
        sockets: &mut SocketSet<'static>,
        burst: usize,
        to: IpAddr,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let now = self.stack_time(now);
        let mut link = StackDevice::new(None, to, outbox);
        for _ in 0..burst {
            if self.interface.poll_egress(now, &mut link, sockets) == PollResult::None {
                break;
            }
        }
    }

    /// Returns when a socket is to be polled again.
    pub(super) fn poll_timeout(
        &mut self,
        sockets: &SocketSet<'static>,
        now: Instant,
    ) -> Option<Instant> {
        let stack_now = self.stack_time(now);
        let due = self.interface.poll_at(stack_now, sockets)?;
        let since_epoch = Duration::from_micros(due.total_micros().unsigned_abs());
        Some(self.epoch.unwrap_or(now) + since_epoch)
    }

    fn stack_time(&mut self, now: Instant) -> time::Instant {
        let epoch = *self.epoch.get_or_insert(now);
        let micros = now.saturating_duration_since(epoch).as_micros();
        time::Instant::from_micros(i64::try_from(micros).expect("a process lives no 292,000 years"))
    }
}

/// The stack's network device during one call.
struct StackDevice<'a> {
    arrived: Option<&'a [u8]>,
    leaving: OutgoingSegment<'a>,
}

struct IncomingSegment<'a>(&'a [u8]);

struct OutgoingSegment<'a> {
    to: IpAddr,
    outbox: &'a mut Outbox,
}

impl<'a> StackDevice<'a> {
    fn new(arrived: Option<&'a [u8]>, to: IpAddr, outbox: &'a mut Outbox) -> Self {
        Self {
            arrived,
            leaving: OutgoingSegment { to, outbox },
        }
    }
}

impl Device for StackDevice<'_> {
    type RxToken<'b>
        = IncomingSegment<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = OutgoingSegment<'b>
    where
        Self: 'b;

    fn receive(
        &mut self,
        now: time::Instant,
    ) -> Option<(IncomingSegment<'_>, OutgoingSegment<'_>)> {
        let arrived = self.arrived.take()?;
        self.transmit(now)
            .map(|leaving| (IncomingSegment(arrived), leaving))
    }

    fn transmit(&mut self, _: time::Instant) -> Option<OutgoingSegment<'_>> {
        let OutgoingSegment { to, outbox } = &mut self.leaving;
        Some(OutgoingSegment { to: *to, outbox })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        // The application's MSS limits it further.
        capabilities.max_transmission_unit = TUN_MTU.into();
        // `Packet::parse` verifies checksums of received packets, and `wire::tcp::seal` writes those of sent ones.
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities
    }
}

impl RxToken for IncomingSegment<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

impl TxToken for OutgoingSegment<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        self.outbox.segment(length, self.to, write)
    }
}
