//! The pure engine: (state, packet, now) in, outbox out.
//!
//! # Theory of operation
//!
//! The driver hands in what came out of the file descriptors, with the time at which it woke up; the engine answers by
//! putting things into an [`Outbox`], which the driver flushes in a fixed order (see there). The engine knows no clock,
//! no socket and no kernel, so a test is a list of packets and times.
//!
//! ```text
//! Out   handle_tun        parse -> whole -> verdict -> mapping -> transmit    (or a rejection back into the TUN)
//! Back  handle_datagram   filter -> headers before the payload -> packet for the TUN, in fragments if it is large
//!       handle_error      what the path, or this machine, returned -> ICMP to the application
//! TCP   handle_connected / handle_connect_failed / handle_stream (see the `tcp` module)
//! Time  poll_timeout -> handle_timeout: mappings end or change their way, fragments that wait in vain are forgotten
//! Link  handle_uplink_changed / handle_uplink_is_back: mappings take another socket or way, part by part (`sweep`)
//! Shell handle_opened / handle_open_failed: what became of a command
//! ```
//!
//! What comes out of the TUN and is not in the policy is rejected, never forwarded: this process is no way around the
//! VPN for anything but the policy. A mapping has up to two sockets: the direct one, and one that goes into the VPN, for
//! calls whose direct way fails (see [`FailoverSettings`]) and for what was captured with its prefix. ICMP errors, ours and those that are passed on, keep to a pace, each kind to its own.
//!
//! Nothing grows without bound: see [`nat::NatLimits`], [`reassembly::ReassemblyLimits`] and [`TcpSettings`]. The outbox is as large
//! as one wake-up, which the driver's budget bounds.

mod fallback;
mod outbox;
mod pace;
mod path;
mod question;
pub mod reassembly;
mod stats;
mod sweep;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use self::fallback::MappingPaths;
use self::pace::Pace;
use self::path::MappingPath;
use self::reassembly::Reassembly;
use crate::nat;
use crate::net::{Dscp, Egress, Endpoint, Family, TrafficClass};
use crate::policy::Policy;
use crate::wire::{IcmpError, Packet, ParseError, Transport, icmp};

pub use outbox::{EngineEvent, Outbox, SocketCommand, Transmit};
pub use path::{FailbackCause, FailoverCause, FailoverSettings};
pub use stats::{Counters, DropReason, EngineSnapshot, MappingReport};
pub use tcp::{ConnectError, ConnectionReport, ConnectionState, TcpCounters, TcpSettings};

/// The room that a received payload must have before it: the headers are written there.
pub const HEADROOM: usize = crate::wire::HEADROOM;

/// The TUN's MTU in bytes: what applications expect of a path. Larger packets are written into it in fragments.
pub const TUN_MTU: u16 = 1_500;

/// Mappings that end in one go, and the rest after it. To close a socket takes the kernel some microseconds at once, and
/// some more when it clears up after many: with thousands in a row no packet would move for milliseconds.
const ENDS: usize = 8;
const REST: Duration = Duration::from_millis(1);

/// Slots that are reported on in one go: less than a tenth of a millisecond.
pub const PAGE: usize = 512;

/// An address of this machine that replies must not name on their way in, and the one they carry instead until the
/// firewall's prerouting has translated it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplySource {
    /// The address that is written into the packet.
    pub alias: IpAddr,
    /// The address that the application's socket is bound to.
    pub real: IpAddr,
}

/// A datagram that a socket received.
#[derive(Debug)]
pub struct ReceivedDatagram<'a> {
    /// Who sent it.
    pub from: Endpoint,
    /// DSCP and ECN as they arrived.
    pub traffic_class: TrafficClass,
    /// How long it lay in the socket's queue, as far as that is known.
    pub waited: Duration,
    /// At least [`HEADROOM`] bytes, which are overwritten, then the payload, then anything.
    pub buffer: &'a mut [u8],
    /// Where the payload lies in `buffer`.
    pub payload: Range<usize>,
}

/// What a socket's error queue returned of a datagram that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnedError<'a> {
    /// Whom the datagram was for.
    pub to: Endpoint,
    /// Who reported the error; `None` when it was this machine.
    pub offender: Option<IpAddr>,
    /// What went wrong.
    pub error: IcmpError,
    /// As much of the datagram's payload as came back.
    pub payload: &'a [u8],
}

/// The state between the TUN and the sockets.
#[derive(Debug)]
pub struct Engine {
    policy: Arc<Policy>,
    nat: nat::MappingTable,
    paths: MappingPaths,
    tcp: tcp::TcpProxy,
    reassembly: Reassembly,
    aliases: Vec<ReplySource>,
    /// Of errors of our own.
    rejections: Pace,
    /// Of errors that are passed on: a flood of one kind does not silence the other.
    returns: Pace,
    /// Of the next packet that is fragmented into the TUN.
    identification: u32,
    /// The largest packet that is written into the TUN.
    mtu: u16,
    /// What media's answers carry instead of the code point that they came with.
    remark: Option<Dscp>,
    /// Until when no mapping ends, for enough have.
    rest: Option<Instant>,
    counters: Counters,
    /// When each limit refused something for the last time, by label.
    limits_reached: BTreeMap<&'static str, Instant>,
}

impl Engine {
    /// Makes an engine without mappings.
    #[must_use]
    pub fn new(policy: Arc<Policy>, nat: nat::NatSettings) -> Self {
        Self {
            policy,
            nat: nat::MappingTable::new(nat),
            paths: MappingPaths::default(),
            tcp: tcp::TcpProxy::new(TcpSettings::default()),
            reassembly: Reassembly::default(),
            aliases: Vec::new(),
            rejections: Pace::default(),
            returns: Pace::default(),
            // Not to be guessed by others (RFC 7739): the hasher's seed is a secret of the process.
            #[expect(clippy::cast_possible_truncation, reason = "any 32 bits will do")]
            identification: RandomState::default().hash_one(0) as u32,
            mtu: TUN_MTU,
            remark: None,
            rest: None,
            counters: Counters::default(),
            limits_reached: BTreeMap::new(),
        }
    }

    /// Gives the answers of media another code point than the one that they come with; what says who is congested (ECN)
    /// stays.
    #[must_use]
    pub const fn with_remark(mut self, remark: Option<Dscp>) -> Self {
        self.remark = remark;
        self
    }

    /// Takes a packet that an application sent into the TUN.
    pub fn handle_tun(&mut self, bytes: &[u8], now: Instant, outbox: &mut Outbox) {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(fault) => return self.counters.drop_out(DropReason::Malformed(fault)),
        };
        let Transport::Fragment(part) = packet.transport() else {
            return self.handle_packet(&packet, packet.dont_fragment(), now, outbox);
        };
        let whole = match self.reassembly.take(&packet, part, now) {
            Ok(Some(whole)) => whole,
            Ok(None) => return,
            Err(fault) => return self.refuse(DropReason::Fragment(fault), now),
        };
        self.counters.reassembled += 1;
        match Packet::parse(&whole) {
            // Fragments of fragments: nobody needs them, and they would nest as deep as the sender likes.
            Ok(packet) if matches!(packet.transport(), Transport::Fragment(_)) => {
                self.counters
                    .drop_out(DropReason::Malformed(ParseError::ExtensionHeader));
            }
            // Who fragments by himself lets others do it too.
            Ok(packet) => self.handle_packet(&packet, false, now, outbox),
            Err(fault) => self.counters.drop_out(DropReason::Malformed(fault)),
        }
    }

    /// Takes a whole packet.
    fn handle_packet(
        &mut self,
        packet: &Packet<'_>,
        dont_fragment: bool,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        match packet.transport() {
            Transport::Udp(datagram) => {
                self.handle_udp(packet, &datagram, dont_fragment, now, outbox);
            }
            Transport::Tcp(segment) => self.handle_segment(packet, segment, now, outbox),
            // An echo among them: an answer that the far host has not given would be a lie.
            _ => {
                let prohibited = IcmpError::AdminProhibited;
                self.reject(packet, DropReason::NotInPolicy, prohibited, now, outbox);
            }
        }
    }

    /// Takes the news that the TUN took a packet not: its queue is full.
    pub fn handle_delivery_failed(&mut self) {
        self.counters.drop_in(DropReason::TunFull);
    }

    /// Takes a new policy: every later packet is judged by it. Mappings stand; what it no longer relays is rejected.
    /// TCP connections that it no longer relays are reset at the next [`Engine::handle_timeout`], which is due at once.
    pub fn handle_policy(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
        self.revoke_connections();
    }

    /// Takes the addresses that replies must not name (see [`ReplySource`]).
    pub fn handle_aliases(&mut self, aliases: Vec<ReplySource>) {
        self.aliases = aliases;
    }

    /// Takes the size of the largest packet that gets through to applications beyond the TUN, at most [`TUN_MTU`]: what
    /// is larger goes into the TUN in fragments.
    pub fn handle_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.min(TUN_MTU);
    }

    /// When [`Engine::handle_timeout`] has something to do next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let end = self.nat.poll_timeout();
        let due = [
            end.map(|end| self.rest.map_or(end, |rest| end.max(rest))),
            self.paths.poll_timeout(),
            self.tcp.poll_timeout(),
            self.reassembly.poll_timeout(),
        ];
        due.into_iter().flatten().min()
    }

    /// Ends what is over at `now` and moves what is to move, or a part of it: then [`Engine::poll_timeout`] is due again a
    /// moment later.
    pub fn handle_timeout(&mut self, now: Instant, outbox: &mut Outbox) {
        if self.rest.is_none_or(|rest| rest <= now) {
            self.end_mappings(now, outbox);
        }
        self.sweep_some(now, outbox);
        self.handle_paths_due(now, outbox);
        self.handle_connections_due(now, outbox);
        while let Some(expired) = self.reassembly.expire(now) {
            self.counters.drop_out(DropReason::FragmentsMissing);
            if let Some(reassembly::FirstFragment { from, to, packet }) = expired.beginning {
                outbox.scratch().extend_from_slice(&packet);
                self.answer(IcmpError::ReassemblyTimeExceeded, to, from, now, outbox);
            }
        }
    }

    fn end_mappings(&mut self, now: Instant, outbox: &mut Outbox) {
        for _ in 0..ENDS {
            let Some((mapping, entry)) = self.nat.expire(now) else {
                self.rest = None;
                return;
            };
            self.paths.remove(mapping);
            outbox.command(SocketCommand::Close { mapping });
            outbox.event(EngineEvent::Ended {
                mapping,
                inside: entry.inside,
            });
        }
        self.rest = Some(now + REST);
    }

    /// How many mappings stand.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.nat.len()
    }

    /// Reports on the mappings in these slots, of which there are [`Engine::slots`]. There may be tens of thousands: who
    /// also carries packets asks for [`PAGE`] of them at a time.
    pub fn mapping_reports(
        &self,
        slots: Range<usize>,
        now: Instant,
    ) -> impl Iterator<Item = MappingReport> {
        self.nat.within(slots).map(move |(id, mapping)| {
            let path = self.paths.get(id);
            MappingReport {
                id,
                inside: mapping.inside,
                outside: mapping.outside,
                way: path.map_or(Egress::Direct, MappingPath::way),
                fallen: path.and_then(MappingPath::fallen),
                contacts: mapping.contacts(),
                age: now.saturating_duration_since(mapping.created),
                idle: now.saturating_duration_since(mapping.refreshed),
            }
        })
    }

    /// How many slots there are: a mapping stays in its own, and so does a TCP connection in one of its kind.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.nat.slots().max(self.tcp.slots())
    }

    /// Everything but what stands in slots, as it is.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> EngineSnapshot {
        EngineSnapshot {
            mappings: self.mappings(),
            connections: self.tcp.len(),
            slots: self.slots(),
            limits_reached: self
                .limits_reached
                .iter()
                .map(|(label, last)| (*label, now.saturating_duration_since(*last)))
                .collect(),
            capture: self.policy.capture_mode(),
            fallen_uplinks: [Family::V4, Family::V6]
                .into_iter()
                .filter(|family| self.paths.is_down(*family))
                .collect(),
            counters: self.counters.clone(),
        }
    }

    /// Counts a packet that goes no further, and remembers when a limit was the reason.
    fn refuse(&mut self, reason: DropReason, now: Instant) {
        self.counters.drop_out(reason);
        if reason.is_limit() {
            self.limits_reached.insert(reason.label(), now);
        }
    }

    fn reject(
        &mut self,
        packet: &Packet<'_>,
        reason: DropReason,
        error: IcmpError,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        self.refuse(reason, now);
        if icmp::may_answer(packet) {
            outbox.scratch().extend_from_slice(packet.bytes());
            // The TUN has no address of its own: the far end speaks for the path to it, as a filtering router's REJECT
            // does.
            self.answer(error, packet.destination(), packet.source(), now, outbox);
        }
    }

    /// Sends an error of our own about what lies in the scratch buffer, unless there were too many.
    fn answer(
        &mut self,
        error: IcmpError,
        from: IpAddr,
        to: IpAddr,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if !self.rejections.allows(now) {
            self.counters.errors_suppressed += 1;
        } else if outbox.icmp(error, from, self.alias_of(to)).is_ok() {
            self.counters.rejected += 1;
        }
    }

    fn alias_of(&self, real: IpAddr) -> IpAddr {
        self.aliases
            .iter()
            .find(|entry| entry.real == real)
            .map_or(real, |entry| entry.alias)
    }
}
