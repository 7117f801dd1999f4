//! The pure engine: (state, packet, now) in, outbox out.
//!
//! # Theory of operation
//!
//! The driver passes packets from the file descriptors, with the time of its wake-up. The engine fills an [`Outbox`], which
//! the driver flushes in a fixed order. The engine has no clock, no socket and no kernel, so a test
//! is a list of packets and times.
//!
//! ```text
//! Out    handle_tun        parse -> reassemble -> verdict -> mapping -> transmit    (or a rejection back into the TUN)
//! In     handle_datagram   filter -> headers before the payload -> packet for the TUN, in fragments if it is large
//!        handle_error      error of the path or of this machine -> ICMP error to the application
//! TCP    handle_connected / handle_connect_failed / handle_stream (see the `tcp` module)
//! Time   poll_timeout -> handle_timeout: mappings end or change their path, incomplete fragments expire
//! Link   handle_uplink_changed / handle_uplink_restored: mappings change socket or path, in batches (see `resync`)
//! Result handle_opened / handle_open_failed / handle_send_failed: results of commands and transmits
//! ```
//!
//! A packet from the TUN that is not in the policy is rejected, never forwarded: only the policy's traffic passes the VPN.
//! A mapping has up to two sockets. One is bound to the uplink. The other leads into the VPN: for calls whose direct path
//! fails (see [`FailoverSettings`]), and for packets that were captured with their prefix. ICMP errors are rate-limited,
//! errors of the engine and forwarded errors separately.
//!
//! Nothing grows without bound: see [`nat::NatLimits`], [`reassembly::ReassemblyLimits`] and [`TcpSettings`]. The driver's
//! budget per wake-up bounds the outbox.

mod failover;
mod outbox;
pub mod reassembly;
mod stats;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use self::failover::{MappingPath, MappingPaths};
use self::reassembly::Reassembly;
use crate::nat;
use crate::net::{Dscp, Egress, Endpoint, Family, MappingId, Protocol, TrafficClass};
use crate::policy::Policy;
use crate::rate::{RateLimit, TokenBucket};
use crate::wire::{IcmpError, Packet, ParseError, Transport, reply};

pub use crate::nat::{NatLimits, NatSettings, UNANSWERED_LIFETIME};
pub use failover::{EndCause, FailbackCause, FailoverCause, FailoverSettings, SILENT};
pub use outbox::{EngineEvent, Outbox, SocketCommand, Transmit};
pub use stats::{Counters, DropReason, EngineSnapshot, MappingReport};
pub use tcp::{ConnectError, ConnectionReport, ConnectionState, TcpCounters, TcpSettings};

/// The rate of ICMP errors: 50 at once, then 100 per second (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)).
const ICMP_ERRORS: RateLimit = RateLimit {
    burst: 50,
    interval: Duration::from_millis(10),
};

/// The bytes needed before a received payload: the headers are written there.
pub const HEADROOM: usize = crate::wire::HEADROOM;

/// The TUN's MTU in bytes. Larger packets are written into the TUN in fragments.
pub const TUN_MTU: u16 = 1_500;

/// Mappings that end in one batch. The kernel needs some microseconds to close a socket, and more afterwards.
/// Thousands in a row would delay packets by milliseconds.
const EXPIRY_BATCH: usize = 8;

/// The pause between two batches of ending or resynchronised mappings.
const BATCH_INTERVAL: Duration = Duration::from_millis(1);

/// Slots in one page of reports: less than a tenth of a millisecond.
pub const PAGE: usize = 512;

/// Time after the last outbound packet during which a mapping counts as a call. Consent checks are more frequent.
const ACTIVE: Duration = Duration::from_secs(10);

/// An address of this machine that replies must not carry, and its substitute. The firewall's prerouting chain translates
/// the substitute back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplySource {
    /// The address that is written into the packet.
    pub substitute: IpAddr,
    /// The address that the application's socket is bound to.
    pub real: IpAddr,
}

/// A datagram that a socket received.
#[derive(Debug)]
pub struct ReceivedDatagram<'a> {
    /// The sender.
    pub from: Endpoint,
    /// DSCP and ECN as they arrived.
    pub traffic_class: TrafficClass,
    /// The time in the socket's queue; zero if it was not measured.
    pub queue_delay: Duration,
    /// At least [`HEADROOM`] bytes, which are overwritten, then the payload, then anything.
    pub buffer: &'a mut [u8],
    /// The range of the payload in `buffer`.
    pub payload: Range<usize>,
}

/// An entry of a socket's error queue: an error about a datagram that this socket sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnedError<'a> {
    /// The datagram's destination.
    pub to: Endpoint,
    /// The host that reported the error; `None` if this machine did.
    pub reporter: Option<IpAddr>,
    /// The error.
    pub error: IcmpError,
    /// The part of the datagram's payload that was returned.
    pub payload: &'a [u8],
}

/// The state between the TUN and the sockets.
///
/// # Contract
///
/// The engine does no I/O. Its owner makes one call for each input, and flushes the [`Outbox`] after one or more calls.
/// The order of calls is free but for these rules:
///
/// 1. **Settings first.** [`with_failover`](Self::with_failover), [`with_tcp`](Self::with_tcp) and
///    [`with_remark`](Self::with_remark) come before the first packet. [`set_policy`](Self::set_policy),
///    [`set_mtu`](Self::set_mtu) and [`set_reply_sources`](Self::set_reply_sources) may come at any time.
/// 2. **Monotonic time.** No `now` is before an earlier one. One value may serve for a whole wake-up.
/// 3. **Timers.** Any call may change [`poll_timeout`](Self::poll_timeout). At that time or later,
///    [`handle_timeout`](Self::handle_timeout) is due. It does a bounded amount of work; the rest is due again soon.
/// 4. **Commands are executed in order, and each is answered:**
///    - [`SocketCommand::Open`] by [`handle_opened`](Self::handle_opened) or
///      [`handle_open_failed`](Self::handle_open_failed), before the transmits are sent;
///    - [`SocketCommand::Connect`] by [`handle_connected`](Self::handle_connected) or
///      [`handle_connect_failed`](Self::handle_connect_failed), at any later time;
///    - [`SocketCommand::Pump`] by [`handle_stream`](Self::handle_stream), in this wake-up or a later one;
///    - the other commands need no answer.
/// 5. **Then transmits, packets, events.** A datagram that the kernel rejected is reported by
///    [`handle_send_failed`](Self::handle_send_failed), a packet that the TUN rejected by
///    [`handle_delivery_failed`](Self::handle_delivery_failed). Events are information; nothing depends on them.
/// 6. **The outbox grows while it is flushed.** The answers of rules 4 and 5 take the same outbox, and may add commands
///    and transmits. So the owner reads by index to the end, commands before transmits. Then it calls
///    [`Outbox::clear`].
/// 7. **Ids may be stale.** A call for a mapping or connection that has ended changes nothing.
#[derive(Debug)]
pub struct Engine {
    policy: Arc<Policy>,
    nat: nat::MappingTable,
    paths: MappingPaths,
    tcp: tcp::TcpProxy,
    reassembly: Reassembly,
    reply_sources: Vec<ReplySource>,
    /// The rate of the engine's own errors.
    own_errors: TokenBucket,
    /// The rate of forwarded errors: a flood of one kind does not suppress the other.
    forwarded_errors: TokenBucket,
    /// The identification of the next packet that is fragmented into the TUN.
    identification: u32,
    /// The largest packet that is written into the TUN, in bytes.
    mtu: u16,
    /// The code point of media to the application.
    remark: Option<Dscp>,
    /// Until when no further mapping ends.
    expiry_paused_until: Option<Instant>,
    counters: Counters,
    /// When each limit was last exceeded, by label.
    limits_reached: BTreeMap<&'static str, Instant>,
}

impl Engine {
    /// Creates an engine without mappings.
    #[must_use]
    pub fn new(policy: Arc<Policy>, nat: nat::NatSettings) -> Self {
        Self {
            policy,
            nat: nat::MappingTable::new(nat),
            paths: MappingPaths::default(),
            tcp: tcp::TcpProxy::new(TcpSettings::default()),
            reassembly: Reassembly::default(),
            reply_sources: Vec::new(),
            own_errors: TokenBucket::default(),
            forwarded_errors: TokenBucket::default(),
            // Unpredictable (RFC 7739): the hasher's seed is random for each process.
            #[expect(clippy::cast_possible_truncation, reason = "any 32 bits serve")]
            identification: RandomState::default().hash_one(0) as u32,
            mtu: TUN_MTU,
            remark: None,
            expiry_paused_until: None,
            counters: Counters::default(),
            limits_reached: BTreeMap::new(),
        }
    }

    /// Sets the code point of media to the application. ECN is preserved.
    #[must_use]
    pub const fn with_remark(mut self, remark: Option<Dscp>) -> Self {
        self.remark = remark;
        self
    }

    /// Handles a packet that an application sent into the TUN.
    pub fn handle_tun(&mut self, bytes: &[u8], now: Instant, outbox: &mut Outbox) {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(fault) => return self.counters.drop_out(DropReason::Malformed(fault)),
        };
        let Transport::Fragment(part) = packet.transport() else {
            return self.handle_packet(&packet, packet.dont_fragment(), now, outbox);
        };
        let whole = match self.reassembly.insert(&packet, part, now) {
            Ok(Some(whole)) => whole,
            Ok(None) => return,
            Err(fault) => return self.refuse(DropReason::Fragment(fault), now),
        };
        self.counters.reassembled += 1;
        match Packet::parse(&whole) {
            // Nested fragments are not legitimate, and their depth has no bound.
            Ok(packet) if matches!(packet.transport(), Transport::Fragment(_)) => {
                self.counters
                    .drop_out(DropReason::Malformed(ParseError::ExtensionHeader));
            }
            // A sender that already fragments does not want DF.
            Ok(packet) => self.handle_packet(&packet, false, now, outbox),
            Err(fault) => self.counters.drop_out(DropReason::Malformed(fault)),
        }
    }

    /// Handles a packet that is no fragment.
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
            // An echo too: a reply would claim that the remote host is reachable.
            _ => {
                let prohibited = IcmpError::AdminProhibited;
                self.reject(packet, DropReason::NotInPolicy, prohibited, now, outbox);
            }
        }
    }

    /// Records that the TUN rejected a packet because its queue is full.
    pub fn handle_delivery_failed(&mut self) {
        self.counters.drop_in(DropReason::TunFull);
    }

    /// Records that a datagram for a tunnel socket arrived by another link than the tunnel, and was dropped.
    pub fn handle_wrong_link(&mut self) {
        self.counters.drop_in(DropReason::WrongLink);
    }

    /// Replaces the policy for all later packets. Mappings remain; packets that the policy no longer relays are rejected.
    /// TCP connections that it no longer relays are reset by the next [`Engine::handle_timeout`], which is due at once.
    pub fn set_policy(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
        self.revoke_connections();
    }

    /// Returns the policy.
    #[must_use]
    pub const fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Replaces the reply source substitutions.
    pub fn set_reply_sources(&mut self, reply_sources: Vec<ReplySource>) {
        self.reply_sources = reply_sources;
    }

    /// Sets the size in bytes of the largest packet that reaches the applications, at most [`TUN_MTU`]. Larger packets are
    /// written into the TUN in fragments.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.min(TUN_MTU);
    }

    /// Returns when [`Engine::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let end = self.nat.poll_timeout();
        let due = [
            end.map(|end| self.expiry_paused_until.map_or(end, |until| end.max(until))),
            self.paths.poll_timeout(),
            self.tcp.poll_timeout(),
            self.reassembly.poll_timeout(),
        ];
        due.into_iter().flatten().min()
    }

    /// Does a bounded part of the work due at `now`: ends mappings and connections, changes paths, expires fragments. If
    /// more is due, [`Engine::poll_timeout`] returns a time within a millisecond.
    pub fn handle_timeout(&mut self, now: Instant, outbox: &mut Outbox) {
        if self.expiry_paused_until.is_none_or(|until| until <= now) {
            self.end_mappings(now, outbox);
        }
        self.resync_batch(now, outbox);
        self.handle_paths_due(now, outbox);
        self.handle_connections_due(now, outbox);
        while let Some(expired) = self.reassembly.expire(now) {
            self.counters.drop_out(DropReason::FragmentsMissing);
            if let Some(reassembly::FirstFragment { from, to, packet }) = expired.first_fragment {
                outbox.scratch().extend_from_slice(&packet);
                self.answer(IcmpError::ReassemblyTimeExceeded, to, from, now, outbox);
            }
        }
    }

    fn end_mappings(&mut self, now: Instant, outbox: &mut Outbox) {
        for _ in 0..EXPIRY_BATCH {
            let Some((mapping, entry)) = self.nat.expire(now) else {
                self.expiry_paused_until = None;
                return;
            };
            self.end_mapping(mapping, &entry, EndCause::Expired, outbox);
        }
        self.expiry_paused_until = Some(now + BATCH_INTERVAL);
    }

    /// Closes the sockets of a mapping that has left the table.
    fn end_mapping(
        &mut self,
        mapping: MappingId,
        entry: &nat::Mapping,
        cause: EndCause,
        outbox: &mut Outbox,
    ) {
        outbox.command(SocketCommand::Close { mapping });
        self.record_end(mapping, entry, cause, outbox);
    }

    fn record_end(
        &mut self,
        mapping: MappingId,
        entry: &nat::Mapping,
        cause: EndCause,
        outbox: &mut Outbox,
    ) {
        let media_remote = self.paths.get(mapping).and_then(|path| path.media_remote);
        self.paths.remove(mapping);
        outbox.event(EngineEvent::Ended {
            mapping,
            inside: entry.inside,
            media_remote,
            created: entry.created,
            cause,
        });
    }

    /// Returns the number of mappings.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.nat.len()
    }

    /// Reports the mappings in a range of the [`Engine::slots`]. There may be tens of thousands: a caller that also
    /// forwards packets reads [`PAGE`] slots at a time.
    pub fn mapping_reports(
        &self,
        slots: Range<usize>,
        now: Instant,
    ) -> impl Iterator<Item = MappingReport> {
        self.nat.within(slots).map(move |(id, mapping)| {
            let path = self.paths.get(id);
            let remote = path.and_then(|path| path.media_remote);
            let remote_or_latest = remote.or_else(|| mapping.latest_remote());
            let received = path.and_then(MappingPath::last_received);
            MappingReport {
                id,
                remote: remote_or_latest,
                is_call: remote.is_some(),
                service: remote_or_latest
                    .and_then(|remote| self.policy.evaluate(Protocol::Udp, remote).rule),
                last_answer: received.map(|at| now.saturating_duration_since(at)),
                inside: mapping.inside,
                outside: mapping.outside,
                egress: path.map_or(Egress::Direct, MappingPath::egress),
                failover_cause: path.and_then(MappingPath::failover_cause),
                permitted_remotes: mapping.permitted_remotes(),
                age: now.saturating_duration_since(mapping.created),
                idle: now.saturating_duration_since(mapping.refreshed),
            }
        })
    }

    /// Returns the number of slots. A mapping or connection keeps its slot while it lives.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.nat.slots().max(self.tcp.slots())
    }

    /// Returns the state apart from mappings and connections.
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
            failed_over: self.failed_over(now),
            failed_uplinks: [Family::V4, Family::V6]
                .into_iter()
                .filter(|family| self.paths.is_down(*family))
                .collect(),
            counters: self.counters.clone(),
        }
    }

    /// Returns the number of mappings that failed over to the VPN and have sent recently.
    fn failed_over(&self, now: Instant) -> usize {
        let total = |by_cause: &BTreeMap<&str, u64>| by_cause.values().sum::<u64>();
        if total(&self.counters.failovers) <= total(&self.counters.failbacks) {
            return 0;
        }
        let reports = self.mapping_reports(0..self.slots(), now);
        let active = reports.filter(|it| it.failover_cause.is_some() && it.idle < ACTIVE);
        active.count()
    }

    /// Counts a dropped packet, and records the time if a limit was the reason.
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
        if reply::may_answer(packet) {
            outbox.scratch().extend_from_slice(packet.bytes());
            // The error names the destination as its sender, as a filtering router's REJECT does: the TUN has no address.
            self.answer(error, packet.destination(), packet.source(), now, outbox);
        }
    }

    /// Sends an error of the engine about the packet in the scratch buffer, within the rate limit.
    fn answer(
        &mut self,
        error: IcmpError,
        from: IpAddr,
        to: IpAddr,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if !self.own_errors.take(ICMP_ERRORS, now) {
            self.counters.errors_suppressed += 1;
        } else if outbox.icmp(error, from, self.reply_source_of(to)).is_ok() {
            self.counters.rejected += 1;
        }
    }

    fn reply_source_of(&self, real: IpAddr) -> IpAddr {
        self.reply_sources
            .iter()
            .find(|entry| entry.real == real)
            .map_or(real, |entry| entry.substitute)
    }
}
