//! The path of a mapping: when it fails over into the VPN, and when it fails back.
//!
//! # Theory of operation
//!
//! Missing traffic proves nothing: music on hold, a muted agent, an application that has ended and a peer that has hung up
//! are all silent on a healthy path. So a mapping leaves the direct path only by comparison. The same STUN check is sent
//! on both paths, and only the tunnel delivers a response.
//!
//! ```text
//!            a check of the application is unanswered for a round trip or two
//!            or: nothing is received for half of the timeout while the application sends
//!            or: its check, repeated after half of the timeout without a response, is unanswered although media arrives
//!            or: a router reports the destination unreachable
//!   direct --------------------------------------------------------------------------> comparing
//!     ^ ^ ^                                                                             |  |  |
//!     | | +-- a response on the direct path ------------------------------------------- +  |  |
//!     | +---- no response on either path: the peer is gone, the VPN would not help --------+  |
//!     |                                                                                       |
//!     +------ three answered probes in a row ---- tunnel <--- responses in the tunnel alone --+
//!             (without checks: after `retry`, the call itself is the probe)
//! ```
//!
//! **Evidence.** A response counts only if its transaction id is that of a request that passed through the mapping (RFC
//! 8489 section 5: 96 random bits). Media counts as traffic, but neither clears nor completes a comparison: its source can
//! be forged. The check that is compared is one that the peer has answered before, byte for byte. A comparison runs only
//! while the application itself continues to send.
//!
//! **A mapping without any response** has no answered check for a comparison. Its own checks are copied into the tunnel
//! after half a second without a response. It fails over alone, and is no evidence against the uplink.
//!
//! **Hysteresis.** A mapping that fails over again within a minute of its failback waits twice as long as before, five
//! minutes at most.
//!
//! Only the direct path is judged. In the tunnel a datagram is where it would be without voicelane.

use std::time::{Duration, Instant};

use super::cause::FailoverCause;
use super::checks::StunChecks;
use super::comparison::Comparison;
use crate::net::{Egress, Endpoint, Family, Inside, MappingId, Outside, Treatment};

/// Unanswered checks of a mapping that never had a response, which only repeats its own.
const ATTEMPTS_AT_START: u8 = 3;
/// Checks after which a comparison without any response ends.
const MAX_ATTEMPTS: u8 = 24;
/// Checks on a new direct path before the tunnel is asked: the routes of the new uplink may be a moment late.
const ANNOUNCEMENTS: u8 = 5;
/// The pause between two checks of a comparison.
const INTERVAL: Duration = Duration::from_millis(50);
/// The bounds of the time that a response may take, and that time if no round trip was measured.
const MIN_PATIENCE: Duration = Duration::from_millis(80);
const MAX_PATIENCE: Duration = Duration::from_millis(500);
const FIRST_PATIENCE: Duration = Duration::from_millis(250);
/// The time without a response after which the checks of a new mapping are copied into the tunnel.
const START_PATIENCE: Duration = Duration::from_millis(500);
/// The pause between two such copies.
const COPY_INTERVAL: Duration = Duration::from_millis(200);
/// An application that has sent nothing for this time expects no response.
const ACTIVE: Duration = Duration::from_secs(1);
/// After a comparison that the direct path won, the peer may hold the tunnel's address: it learns the direct one again
/// when the copies in the tunnel have arrived.
const REANNOUNCE: Duration = Duration::from_millis(300);
/// Answered probes in a row that cause a failback.
const PROBES: u32 = 3;
/// A router's error about a mapping without checks counts only if nothing was received for this long.
const QUIET: Duration = Duration::from_millis(500);
/// A failover this soon after a failback is a relapse.
const RELAPSE: Duration = Duration::from_mins(1);
/// The longest time between a failover and the first probe.
pub(in crate::engine) const LONGEST_RETRY: Duration = Duration::from_mins(5);

/// How soon a path fails over, and is probed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailoverSettings {
    /// The time without an answer after which a path is compared.
    pub response_timeout: Duration,
    /// How long a call stays in the VPN before the direct path is probed.
    pub retry: Duration,
}

impl Default for FailoverSettings {
    fn default() -> Self {
        Self {
            response_timeout: Duration::from_secs(2),
            retry: Duration::from_secs(10),
        }
    }
}

/// The state of one of a mapping's two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum SocketState {
    Closed,
    Opening,
    Open(Outside<Endpoint>),
}

/// What is due for a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum PathAction {
    /// Nothing yet.
    Wait,
    /// Repeat the answered check on the direct path.
    RepeatCheck,
    /// Send the answered check in the tunnel, then on the direct path.
    Compare,
    /// Neither path brings a response: end the comparison.
    EndComparison,
    /// Move into the tunnel.
    FailOver(FailoverCause),
    /// Move back to the direct path.
    FailBack,
}

/// The time of a mapping in the tunnel.
#[derive(Clone, Copy, Debug)]
struct Failover {
    since: Instant,
    cause: FailoverCause,
    /// When the probe was sent that is not answered yet.
    probe: Option<Instant>,
    probes_answered: u32,
}

/// Where a mapping is.
#[derive(Clone, Copy, Debug)]
enum PathState {
    /// On the direct path, and since when if it failed back.
    Direct { since: Option<Instant> },
    /// In the tunnel.
    Tunnel(Failover),
}

/// The path of one mapping. The fields that every datagram uses come first, within two cache lines.
#[derive(Debug)]
#[repr(C, align(64))]
pub(in crate::engine) struct MappingPath {
    /// How often the mapping's slot was used before.
    pub(in crate::engine) generation: u32,
    /// The uplink generation that the mapping last resynchronised with.
    pub(in crate::engine) uplink_generation: u32,
    /// When the mapping is due, as it is queued.
    pub(in crate::engine) queued: Option<Instant>,
    /// When something was last received on the direct path.
    last_received: Option<Instant>,
    /// When the application last sent something on the direct path.
    last_sent: Option<Instant>,
    pub(in crate::engine) checks: StunChecks,
    /// When the direct path last delivered a response. Absent after a comparison without any response.
    last_response: Option<Instant>,
    /// The smoothed round trip of checks on the direct path.
    round_trip: Option<Duration>,
    /// Failovers in a row, each soon after a failback.
    relapses: u8,
    /// Whether the direct path ever delivered a response.
    is_answered: bool,
    /// Whether missing traffic starts no comparison: one has just ended without a response, or the peer's port is closed.
    is_settled: bool,
    /// Whether the peer's port is closed, and nothing was received since.
    is_peer_closed: bool,
    pub(in crate::engine) treatment: Treatment,
    sockets: [SocketState; 2],
    state: PathState,
    comparison: Comparison,
    /// When the direct path is to be announced to the peer once more.
    reannounce: Option<Instant>,
    /// The time of the first packet.
    pub(in crate::engine) created: Instant,
    pub(in crate::engine) inside: Inside<Endpoint>,
    /// The remote of the latest media: then the mapping is a call.
    pub(in crate::engine) media_remote: Option<Endpoint>,
}

const _: () = assert!(
    size_of::<MappingPath>() <= 384,
    "six cache lines a mapping, of which media reads two"
);

impl MappingPath {
    pub(in crate::engine) fn new(
        mapping: MappingId,
        inside: Inside<Endpoint>,
        treatment: Treatment,
        now: Instant,
    ) -> Self {
        Self {
            generation: mapping.generation,
            inside,
            treatment,
            checks: StunChecks::default(),
            sockets: [SocketState::Closed; 2],
            last_received: None,
            last_sent: None,
            last_response: None,
            round_trip: None,
            uplink_generation: 0,
            is_answered: false,
            is_settled: false,
            is_peer_closed: false,
            media_remote: None,
            comparison: Comparison::default(),
            reannounce: None,
            state: PathState::Direct { since: None },
            relapses: 0,
            created: now,
            queued: None,
        }
    }

    const fn failover(&self) -> Option<&Failover> {
        match &self.state {
            PathState::Tunnel(failover) => Some(failover),
            PathState::Direct { .. } => None,
        }
    }

    pub(in crate::engine) fn family(&self) -> Family {
        Family::of(self.inside.0.addr)
    }

    /// Returns the egress of datagrams that the policy relays.
    pub(in crate::engine) fn egress(&self) -> Egress {
        match self.state {
            PathState::Tunnel(_) => Egress::Tunnel,
            PathState::Direct { .. } => Egress::Direct,
        }
    }

    /// Returns why the mapping is in the tunnel, if it is.
    pub(in crate::engine) fn failover_cause(&self) -> Option<FailoverCause> {
        self.failover().map(|failover| failover.cause)
    }

    pub(in crate::engine) fn socket(&self, egress: Egress) -> SocketState {
        self.sockets[egress as usize]
    }

    pub(in crate::engine) fn set_socket(&mut self, egress: Egress, socket: SocketState) {
        self.sockets[egress as usize] = socket;
    }

    /// Whether a peer ever answered a check of this mapping on the direct path.
    pub(in crate::engine) fn is_established(&self) -> bool {
        self.is_answered && self.checks.answered().is_some()
    }

    /// Whether nothing was received and no check was sent yet.
    pub(in crate::engine) fn is_new(&self) -> bool {
        self.last_received.is_none() && self.checks.announcement().is_none()
    }

    /// Records a datagram that the application sent on the direct path.
    pub(in crate::engine) fn on_sent(&mut self, now: Instant) {
        self.last_sent = Some(now);
    }

    /// Records a check that the application sent on the direct path.
    pub(in crate::engine) fn on_check_sent(&mut self, to: Endpoint, now: Instant) {
        self.on_sent(now);
        // Checks of other remotes prove nothing: ICE tests candidates that never answer.
        if self.checks.answered().is_none_or(|check| check.to == to) {
            self.is_settled = false;
            self.comparison.add(now);
        }
    }

    /// Records that the answered check was repeated on the direct path.
    pub(in crate::engine) fn on_check_repeated(&mut self, now: Instant) {
        if self.reannounce.take_if(|at| *at <= now).is_none() {
            self.comparison.add(now);
        }
    }

    /// Records that a check was copied into the tunnel.
    pub(in crate::engine) fn on_copied(&mut self, now: Instant) {
        self.comparison.copied = Some(now);
    }

    /// Whether a check of a mapping without any response is to be copied into the tunnel. With a suspected uplink this
    /// includes the first check.
    pub(in crate::engine) fn wants_copy(&self, is_uplink_suspect: bool, now: Instant) -> bool {
        let patience = if is_uplink_suspect {
            Duration::ZERO
        } else {
            START_PATIENCE
        };
        let has_passed = |since: Instant, time| now.saturating_duration_since(since) >= time;
        !self.is_established()
            && self.failover().is_none()
            && self
                .comparison
                .first
                .is_some_and(|first| has_passed(first, patience))
            && self
                .comparison
                .copied
                .is_none_or(|copied| has_passed(copied, COPY_INTERVAL))
    }

    /// Records a datagram received on the path in use. Copies of checks in the tunnel prove nothing about the direct path.
    pub(in crate::engine) fn on_received(&mut self, egress: Egress, now: Instant) {
        if egress == self.egress() {
            self.last_received = Some(now);
            self.is_settled = false;
            self.is_peer_closed = false;
        }
    }

    /// Returns when something was last received on the path in use.
    pub(in crate::engine) const fn last_received(&self) -> Option<Instant> {
        self.last_received
    }

    /// Whether the peer's port is closed, and nothing was received since.
    pub(in crate::engine) const fn is_peer_closed(&self) -> bool {
        self.is_peer_closed
    }

    /// Records a response on the direct path to a request of this mapping. Returns whether the mapping fails back.
    pub(in crate::engine) fn on_response(&mut self, now: Instant) -> bool {
        let Comparison {
            attempts,
            last,
            copied,
            ..
        } = self.comparison;
        // Which of several copies was answered is unknown (RFC 6298 section 3).
        if let Some(sent) = last.filter(|_| attempts == 1) {
            let sample = now.saturating_duration_since(sent);
            self.round_trip = Some(match self.round_trip {
                Some(smoothed) => (smoothed * 7 + sample) / 8,
                None => sample,
            });
        }
        self.comparison = Comparison::default();
        self.last_response = Some(now);
        self.is_answered = true;
        let PathState::Tunnel(failover) = &mut self.state else {
            if copied.is_some() {
                self.reannounce = Some(now + REANNOUNCE);
            }
            return false;
        };
        if failover.probe.take().is_some() {
            failover.probes_answered += 1;
        }
        failover.probes_answered >= PROBES
    }

    /// Records a response in the tunnel to a request of this mapping.
    pub(in crate::engine) fn on_tunnel_response(&mut self, now: Instant) {
        if self.comparison.copied.is_some() {
            self.comparison.tunnel_response.get_or_insert(now);
        }
    }

    /// Records that the peer's port is closed: the call is over, and missing traffic proves nothing.
    pub(in crate::engine) fn on_peer_closed(&mut self) {
        self.is_settled = true;
        self.is_peer_closed = true;
    }

    /// Records that a router reported the destination unreachable. Returns whether the mapping fails over at once: without
    /// a check there is nothing to compare, and nothing was received.
    pub(in crate::engine) fn on_router_error(&mut self, now: Instant) -> bool {
        if self.failover().is_some() {
            return false;
        }
        if self.is_established() {
            self.is_settled = false;
            self.comparison.router_error = Some(now);
            return false;
        }
        let long_ago = |last| now.saturating_duration_since(last) > QUIET;
        self.checks.announcement().is_none() && self.last_received.is_none_or(long_ago)
    }

    /// Whether a check that goes into the tunnel is also to be sent directly as a probe. If so, records the probe.
    pub(in crate::engine) fn take_probe(
        &mut self,
        settings: FailoverSettings,
        now: Instant,
    ) -> bool {
        let (interval, retry) = (settings.response_timeout / 2, self.retry(settings));
        let PathState::Tunnel(failover) = &mut self.state else {
            return false;
        };
        let too_soon = |probe| now.saturating_duration_since(probe) < interval;
        if now < failover.since + retry || failover.probe.is_some_and(too_soon) {
            return false;
        }
        if failover.probe.replace(now).is_some() {
            failover.probes_answered = 0;
        }
        true
    }

    /// Records that the kernel rejected a probe at once.
    pub(in crate::engine) fn on_probe_failed(&mut self) {
        if let PathState::Tunnel(failover) = &mut self.state {
            failover.probes_answered = 0;
        }
    }

    /// Moves into the tunnel.
    pub(in crate::engine) fn fail_over(&mut self, cause: FailoverCause, now: Instant) {
        let is_relapse = |failback| now.saturating_duration_since(failback) < RELAPSE;
        self.relapses = match self.state {
            PathState::Direct {
                since: Some(failback),
            } if is_relapse(failback) => self.relapses.saturating_add(1),
            _ => 0,
        };
        self.start_in_tunnel(cause, now);
    }

    /// Returns the time between a failover and its first probe.
    fn retry(&self, settings: FailoverSettings) -> Duration {
        let doubled = settings
            .retry
            .saturating_mul(1_u32.checked_shl(self.relapses.into()).unwrap_or(u32::MAX));
        doubled.min(LONGEST_RETRY).max(settings.retry)
    }

    /// Starts in the tunnel. `since` is the time of the failover: a probe may be due already.
    pub(in crate::engine) fn start_in_tunnel(&mut self, cause: FailoverCause, since: Instant) {
        self.state = PathState::Tunnel(Failover {
            since,
            cause,
            probe: None,
            probes_answered: 0,
        });
        self.clear_evidence();
    }

    /// Moves back to the direct path.
    pub(in crate::engine) fn fail_back(&mut self, now: Instant) {
        self.state = PathState::Direct { since: Some(now) };
        self.clear_evidence();
    }

    /// Starts again on another or a restored uplink.
    pub(in crate::engine) fn reset(&mut self, now: Instant) {
        self.state = PathState::Direct { since: None };
        // With a check to repeat, the timeout starts now.
        self.last_received = self.checks.answered().map(|_| now);
        self.round_trip = None;
        self.clear_evidence();
    }

    fn clear_evidence(&mut self) {
        // The next work may be due sooner.
        self.queued = None;
        self.is_settled = false;
        self.last_response = None;
        self.comparison = Comparison::default();
        self.reannounce = None;
    }

    /// Ends a comparison that brought no response on either path.
    pub(in crate::engine) fn end_comparison(&mut self) {
        self.comparison = Comparison::default();
        self.last_response = None;
        self.is_settled = true;
    }

    /// Whether enough checks are unanswered to suspect the direct path.
    pub(in crate::engine) fn is_suspect(&self) -> bool {
        self.is_established() && self.comparison.is_complete()
    }

    /// Returns how long a response may take.
    fn patience(&self) -> Duration {
        match self.round_trip {
            Some(round_trip) => (round_trip * 2).clamp(MIN_PATIENCE, MAX_PATIENCE),
            None => FIRST_PATIENCE,
        }
    }

    /// Returns why the mapping fails over if the comparison is complete.
    fn cause(&self) -> FailoverCause {
        // Packets in flight arrive within a round trip.
        let silent_from = self.comparison.first.map(|first| first + self.patience());
        if self.comparison.router_error.is_some() {
            FailoverCause::Unreachable
        } else if self.last_received > silent_from {
            FailoverCause::NoResponses
        } else {
            FailoverCause::NoTraffic
        }
    }

    /// Whether the next check of a comparison is also to be copied into the tunnel.
    pub(in crate::engine) fn wants_comparison_copy(&self, now: Instant) -> bool {
        let long_ago = |copied| now.saturating_duration_since(copied) >= COPY_INTERVAL;
        self.comparison.copied.is_none_or(long_ago)
    }

    /// Returns what is due next on the direct path, and when.
    fn next(&self, settings: FailoverSettings) -> Option<(Instant, PathAction)> {
        let Comparison {
            attempts,
            first,
            last,
            copied,
            tunnel_response,
            router_error,
            ..
        } = self.comparison;
        if let Some(at) = self.reannounce {
            return Some((at, PathAction::RepeatCheck));
        }
        let last_sent = self.last_sent?;
        let Some((first, last)) = first.zip(last) else {
            if !self.is_established() {
                return None;
            }
            if let Some(at) = router_error {
                return Some((at, PathAction::Compare));
            }
            if self.is_settled {
                return None;
            }
            // Media that arrives proves nothing about what the application sends.
            let received = self.last_received.filter(|at| *at < last_sent);
            let since = received.into_iter().chain(self.last_response).min()?;
            let at = since + settings.response_timeout / 2;
            return (at <= last_sent + ACTIVE).then_some((at, PathAction::RepeatCheck));
        };
        // The direct check that went with the copy gets its time.
        let verdict_at = tunnel_response.map(|at| at + self.patience());
        if !self.is_established() {
            // Its own checks are all that it has to compare.
            let at = verdict_at?.max(first + START_PATIENCE);
            return (attempts >= ATTEMPTS_AT_START)
                .then_some((at, PathAction::FailOver(self.cause())));
        }
        if let Some(at) = verdict_at.filter(|_| self.comparison.is_complete()) {
            return Some((at, PathAction::FailOver(self.cause())));
        }
        if self.last_response.is_none() && copied.is_none() && attempts < ANNOUNCEMENTS {
            let at = last + INTERVAL;
            return (at <= last_sent + ACTIVE).then_some((at, PathAction::RepeatCheck));
        }
        // The first one gets its time before the tunnel is asked at all.
        let at = match copied {
            None if router_error.is_none() => last + self.patience(),
            _ => last + INTERVAL,
        };
        if attempts < MAX_ATTEMPTS && at <= last_sent + ACTIVE {
            return Some((at, PathAction::Compare));
        }
        Some((last + settings.response_timeout, PathAction::EndComparison))
    }

    /// Returns when [`MappingPath::action`] may have something to do.
    pub(in crate::engine) fn due(&self, settings: FailoverSettings) -> Option<Instant> {
        if let Some(failover) = self.failover() {
            let is_untested = self.checks.announcement().is_none();
            return is_untested.then_some(failover.since + self.retry(settings));
        }
        self.next(settings).map(|(at, _)| at)
    }

    /// Returns what is due at `now`.
    pub(in crate::engine) fn action(&self, settings: FailoverSettings, now: Instant) -> PathAction {
        if let Some(due) = self.due(settings)
            && due <= now
        {
            match self.failover() {
                Some(_) => PathAction::FailBack,
                None => self
                    .next(settings)
                    .map_or(PathAction::Wait, |(_, action)| action),
            }
        } else {
            PathAction::Wait
        }
    }
}
