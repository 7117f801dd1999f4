//! The path of a mapping: when it fails over into the VPN, and when it fails back.
//!
//! # Theory of operation
//!
//! Missing traffic alone proves nothing: music on hold, a muted agent and a listening supervisor are one-way traffic. So a
//! path is judged by the STUN requests that a call sends anyway (see [`super::checks`]). Any datagram received on the
//! direct path shows that the path works, and counts as the answer to every open request.
//!
//! ```text
//!            nothing received, or no response, for half of the timeout, though something was sent or a stream came in
//!   direct  ---------------------------------------------------------------------------> repeats the latest check
//!     |                                                                                  that was answered before
//!     | nothing received for the timeout, the oldest of three requests or more open for half of it
//!     | or: a stream comes in, but of six requests or more none was answered for three timeouts
//!     | or: refused by this machine, or by a router while nothing comes in; or the whole uplink failed
//!     v
//!   tunnel  -- after `retry`: each check is sent both ways as a probe; three responses in a row --> direct
//!              (without checks: back after `retry`, the call itself is the probe)
//! ```
//!
//! **Hysteresis.** A mapping that fails over again within a minute of its failback waits twice as long as before, five
//! minutes at most.
//!
//! Only the direct path is judged. In the tunnel a datagram is where it would be without voicelane.

use std::time::{Duration, Instant};

use super::cause::FailoverCause;
use super::checks::StunChecks;
use crate::net::{Egress, Endpoint, Family, Inside, MappingId, Outside, Treatment};

/// Unanswered requests that show a failure when nothing is received: some may have been lost.
const REQUESTS_WITHOUT_TRAFFIC: u32 = 3;
/// Unanswered requests that show a failure when a stream is received.
const REQUESTS_IN_A_STREAM: u32 = 6;
/// Answered probes in a row that cause a failback.
const PROBES: u32 = 3;
/// Datagrams received without a pause that make a stream.
const STREAM: u32 = 10;
/// The pause that ends a stream.
const PAUSE: Duration = Duration::from_millis(250);
/// A router's error counts only if nothing was received for this long.
const QUIET: Duration = Duration::from_millis(500);
/// A failover this soon after a failback is a relapse.
const RELAPSE: Duration = Duration::from_mins(1);
/// The longest time between a failover and the first probe.
pub(in crate::engine) const LONGEST_RETRY: Duration = Duration::from_mins(5);

/// How soon a path fails over, and is probed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailoverSettings {
    /// How long a path may bring no answer.
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
    /// Move into the tunnel.
    FailOver(FailoverCause),
    /// Move back to the direct path.
    FailBack,
}

/// Requests without an answer.
#[derive(Clone, Copy, Debug, Default)]
struct UnansweredChecks {
    first: Option<Instant>,
    last: Option<Instant>,
    count: u32,
}

impl UnansweredChecks {
    fn add(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.count = self.count.saturating_add(1);
    }

    /// Returns the time of the first request, if there are enough.
    fn since(&self, enough: u32) -> Option<Instant> {
        self.first.filter(|_| self.count >= enough)
    }
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
    /// Datagrams received since the last pause.
    received_in_a_row: u32,
    /// The uplink generation that the mapping is in step with.
    pub(in crate::engine) uplink_generation: u32,
    /// When the mapping is due, as it is queued.
    pub(in crate::engine) queued: Option<Instant>,
    /// When something was last received on the direct path.
    last_received: Option<Instant>,
    pub(in crate::engine) checks: StunChecks,
    /// Whether something was sent since the last datagram was received.
    awaits_traffic: bool,
    /// Failovers in a row, each soon after a failback.
    relapses: u8,
    pub(in crate::engine) treatment: Treatment,
    sockets: [SocketState; 2],
    state: PathState,
    /// Requests since anything was received.
    without_traffic: UnansweredChecks,
    /// Requests since a response was received.
    without_response: UnansweredChecks,
    pub(in crate::engine) inside: Inside<Endpoint>,
}

const _: () = assert!(
    size_of::<MappingPath>() == 256,
    "four cache lines a mapping"
);

impl MappingPath {
    pub(in crate::engine) fn new(
        mapping: MappingId,
        inside: Inside<Endpoint>,
        treatment: Treatment,
    ) -> Self {
        Self {
            generation: mapping.generation,
            inside,
            treatment,
            checks: StunChecks::default(),
            sockets: [SocketState::Closed; 2],
            last_received: None,
            received_in_a_row: 0,
            uplink_generation: 0,
            awaits_traffic: false,
            without_traffic: UnansweredChecks::default(),
            without_response: UnansweredChecks::default(),
            state: PathState::Direct { since: None },
            relapses: 0,
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

    /// Records a datagram sent on the direct path.
    pub(in crate::engine) fn on_sent(&mut self) {
        self.awaits_traffic = true;
    }

    /// Records a STUN request sent on the direct path.
    pub(in crate::engine) fn on_request_sent(&mut self, now: Instant) {
        self.awaits_traffic = true;
        self.without_traffic.add(now);
        // A peer that never answered may not speak STUN.
        if self.checks.answered().is_some() {
            self.without_response.add(now);
        }
    }

    /// Records a datagram received on the direct path. Returns whether the mapping fails back.
    pub(in crate::engine) fn on_received(&mut self, is_response: bool, now: Instant) -> bool {
        let is_pause = |last| now.saturating_duration_since(last) > PAUSE;
        if self.last_received.is_none_or(is_pause) {
            self.received_in_a_row = 0;
        }
        self.received_in_a_row = self.received_in_a_row.saturating_add(1);
        self.last_received = Some(now);
        self.awaits_traffic = false;
        self.without_traffic = UnansweredChecks::default();
        if is_response {
            self.without_response = UnansweredChecks::default();
        }
        let PathState::Tunnel(failover) = &mut self.state else {
            return false;
        };
        if is_response && failover.probe.take().is_some() {
            failover.probes_answered += 1;
        }
        failover.probes_answered >= PROBES
    }

    /// Whether a router's error is evidence against the direct path.
    pub(in crate::engine) fn is_quiet(&self, now: Instant) -> bool {
        let long_ago = |last| now.saturating_duration_since(last) > QUIET;
        self.failover().is_none() && self.last_received.is_none_or(long_ago)
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

    /// Records that a probe was refused at once.
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
        self.clear_evidence();
    }

    fn clear_evidence(&mut self) {
        // What is due from here on may be due sooner.
        self.queued = None;
        self.received_in_a_row = 0;
        self.awaits_traffic = false;
        self.without_traffic = UnansweredChecks::default();
        self.without_response = UnansweredChecks::default();
    }

    /// Returns when missing traffic becomes a failure.
    fn no_traffic_at(&self, settings: FailoverSettings) -> Option<Instant> {
        let timeout = settings.response_timeout;
        let first = self.without_traffic.since(REQUESTS_WITHOUT_TRAFFIC)?;
        Some(match self.last_received {
            Some(last) => (last + timeout).max(first + timeout / 2),
            None => first + timeout,
        })
    }

    /// Returns when missing responses become a failure.
    fn no_responses_at(&self, settings: FailoverSettings) -> Option<Instant> {
        let first = self.without_response.since(REQUESTS_IN_A_STREAM)?;
        Some(first + settings.response_timeout * 3)
    }

    /// Returns when the answered check is to be repeated: first after half of the timeout, then in quick succession.
    fn repeat_at(&self, settings: FailoverSettings) -> Option<Instant> {
        self.checks.answered()?;
        let timeout = settings.response_timeout;
        let without_response = self.without_response.last.map(|last| last + timeout / 2);
        let without_traffic = match self.without_traffic.last {
            Some(last) => Some(last + timeout / 16),
            None => self.last_received.map(|last| last + timeout / 2),
        };
        without_response.into_iter().chain(without_traffic).min()
    }

    /// Returns when [`MappingPath::action`] has something to do.
    pub(in crate::engine) fn due(&self, settings: FailoverSettings) -> Option<Instant> {
        if let Some(failover) = self.failover() {
            let is_untested = self.checks.announcement().is_none();
            return is_untested.then_some(failover.since + self.retry(settings));
        }
        if !self.awaits_traffic && self.received_in_a_row < STREAM {
            return None;
        }
        let times = [
            self.no_traffic_at(settings),
            self.no_responses_at(settings),
            self.repeat_at(settings),
        ];
        times.into_iter().flatten().min()
    }

    /// Returns what is due at `now`.
    pub(in crate::engine) fn action(&self, settings: FailoverSettings, now: Instant) -> PathAction {
        let is_over = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if !is_over(self.due(settings)) {
            PathAction::Wait
        } else if self.failover().is_some() {
            PathAction::FailBack
        } else if is_over(self.no_traffic_at(settings)) {
            PathAction::FailOver(FailoverCause::NoTraffic)
        } else if is_over(self.no_responses_at(settings)) {
            PathAction::FailOver(FailoverCause::NoResponses)
        } else {
            PathAction::RepeatCheck
        }
    }
}
