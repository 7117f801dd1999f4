//! Which way a mapping's datagrams go: when the direct way is given up, and when it is trusted again.
//!
//! # Theory of operation
//!
//! Silence proves nothing by itself: music on hold, a muted agent and a supervisor who only listens are one-way traffic
//! with nothing wrong. So a path is judged by *questions*, the STUN requests that a call sends anyway (see
//! [`super::question`]). Anything at all that comes in by the direct way is a sign of life, and closes every question.
//!
//! ```text
//!            heard nothing, or no answer, for half of `silence`, though something was sent or a stream came in
//!   direct  ---------------------------------------------------------------------------> repeats the latest check
//!     |                                                                                  that was answered before
//!     | nothing heard for `silence`, the oldest of three questions or more open for half of it
//!     | or: a stream comes in, but of six questions or more none was answered for three times `silence`
//!     | or: refused by this machine, or by a router while nothing comes in; or moved with the others
//!     v
//!   tunnel  -- after `retry`: each check goes both ways; three answers in a row --> direct
//!              (without checks: back after `retry`, the traffic is the trial)
//! ```
//!
//! **Hysteresis.** Who falls again within a minute of its return waits twice as long as before, five minutes at most.
//!
//! Only the direct way is judged. In the tunnel a datagram is where it would be without us.

use std::fmt;
use std::time::{Duration, Instant};

use super::question::StunChecks;
use crate::net::{Egress, Endpoint, Family, Inside, MappingId, Outside, Treatment};

/// UnansweredChecks questions that a judgement needs when nothing comes in: some may have been lost.
const QUESTIONS: u32 = 3;
/// And when a stream comes in.
const QUESTIONS_IN_A_STREAM: u32 = 6;
/// Answered trials in a row that bring a mapping back.
const TRIALS: u32 = 3;
/// Datagrams without a pause that make a stream.
const STREAM: u32 = 10;
/// The pause that ends a stream.
const PAUSE: Duration = Duration::from_millis(250);
/// An error of a router counts when nothing was heard for as long.
const DOUBT: Duration = Duration::from_millis(500);
/// A fall so soon after a return is a relapse.
const RELAPSE: Duration = Duration::from_mins(1);
/// The longest time between a fall and the first trial.
pub(super) const LONGEST_RETRY: Duration = Duration::from_mins(5);

/// How soon a silent path is given up, and tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailoverSettings {
    /// How long a path may bring no answer.
    pub silence: Duration,
    /// How long a call stays in the VPN before the direct way is tried again.
    pub retry: Duration,
}

impl Default for FailoverSettings {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(2),
            retry: Duration::from_secs(10),
        }
    }
}

/// Why a mapping left the direct way. Its label names it in status and events and never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailoverCause {
    /// Nothing came in, and questions stayed open.
    NoTraffic,
    /// A stream came in, but what was sent got no answer.
    NoResponses,
    /// This machine refused to send.
    Refused,
    /// A router refused to carry.
    Unreachable,
    /// There was no socket to be had on the uplink.
    NoSocket,
    /// The whole uplink was given up.
    UplinkFailed,
}

impl FailoverCause {
    /// The stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoTraffic => "no_traffic",
            Self::NoResponses => "no_responses",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NoSocket => "no_socket",
            Self::UplinkFailed => "uplink_failed",
        }
    }
}

impl fmt::Display for FailoverCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoTraffic => "nothing is received on the direct path",
            Self::NoResponses => "packets sent on the direct path get no response",
            Self::Refused => "this machine refuses to send on the direct path",
            Self::Unreachable => "a router reports the direct path as unreachable",
            Self::NoSocket => "no socket can be opened on the uplink",
            Self::UplinkFailed => "the uplink failed for all calls",
        })
    }
}

/// Why a mapping is on the direct way again. Its label is as stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailbackCause {
    /// Trials were answered.
    ProbesAnswered,
    /// There is nothing to try with: the traffic itself is the trial.
    Untested,
    /// There is another uplink.
    UplinkChanged,
    /// The uplink was gone, and is there again.
    UplinkRestored,
    /// The way through the VPN could not be opened.
    TunnelUnavailable,
}

impl FailbackCause {
    /// The stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ProbesAnswered => "probes_answered",
            Self::Untested => "untested",
            Self::UplinkChanged => "uplink_changed",
            Self::UplinkRestored => "uplink_restored",
            Self::TunnelUnavailable => "tunnel_unavailable",
        }
    }
}

impl fmt::Display for FailbackCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ProbesAnswered => "probes on the direct path are answered",
            Self::Untested => "trying the direct path again with the call itself",
            Self::UplinkChanged => "the uplink changed",
            Self::UplinkRestored => "the uplink is available again",
            Self::TunnelUnavailable => "no socket can be opened for the path through the VPN",
        })
    }
}

/// One of a mapping's two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketState {
    Closed,
    Opening,
    Open(Outside<Endpoint>),
}

/// What is to be done for a mapping whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathAction {
    /// Nothing yet.
    Wait,
    /// Repeat the answered check directly.
    Ask,
    /// Give the direct way up.
    Fall(FailoverCause),
    /// Go back to it.
    Return,
}

/// StunChecks without an answer.
#[derive(Clone, Copy, Debug, Default)]
struct UnansweredChecks {
    first: Option<Instant>,
    last: Option<Instant>,
    count: u32,
}

impl UnansweredChecks {
    fn ask(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.count = self.count.saturating_add(1);
    }

    /// The first question's time, when there are enough.
    fn since(&self, enough: u32) -> Option<Instant> {
        self.first.filter(|_| self.count >= enough)
    }
}

/// Time in the tunnel.
#[derive(Clone, Copy, Debug)]
struct Failover {
    since: Instant,
    cause: FailoverCause,
    /// When a trial was sent that is not answered yet.
    trial: Option<Instant>,
    answered: u32,
}

/// Where a mapping is.
#[derive(Clone, Copy, Debug)]
enum PathState {
    /// On the direct way, and since when if it was away before.
    Direct { since: Option<Instant> },
    /// In the tunnel.
    Tunnel(Failover),
}

/// The path of one mapping. What every datagram looks at comes first, within two cache lines.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct MappingPath {
    /// How often the mapping's slot was used before.
    pub(super) generation: u32,
    /// Datagrams heard since the last pause.
    run: u32,
    /// The number of the latest news that the mapping has taken in.
    pub(super) news: u32,
    /// Where the mapping stands in the queue of what is due.
    pub(super) queued: Option<Instant>,
    /// When the direct way last brought something.
    heard: Option<Instant>,
    pub(super) questions: StunChecks,
    /// Whether something was sent since something was heard.
    expects: bool,
    /// Falls in a row, each soon after a return.
    relapses: u8,
    pub(super) treatment: Treatment,
    sockets: [SocketState; 2],
    stay: PathState,
    /// Since anything was heard.
    unanswered: UnansweredChecks,
    /// Since an answer was heard.
    unheard: UnansweredChecks,
    pub(super) inside: Inside<Endpoint>,
}

const _: () = assert!(
    size_of::<MappingPath>() == 256,
    "four cache lines a mapping"
);

impl MappingPath {
    pub(super) fn new(mapping: MappingId, inside: Inside<Endpoint>, treatment: Treatment) -> Self {
        Self {
            generation: mapping.generation,
            inside,
            treatment,
            questions: StunChecks::default(),
            sockets: [SocketState::Closed; 2],
            heard: None,
            run: 0,
            news: 0,
            expects: false,
            unanswered: UnansweredChecks::default(),
            unheard: UnansweredChecks::default(),
            stay: PathState::Direct { since: None },
            relapses: 0,
            queued: None,
        }
    }

    const fn absence(&self) -> Option<&Failover> {
        match &self.stay {
            PathState::Tunnel(absence) => Some(absence),
            PathState::Direct { .. } => None,
        }
    }

    pub(super) fn family(&self) -> Family {
        Family::of(self.inside.0.addr)
    }

    /// The way of what the policy relays.
    pub(super) fn way(&self) -> Egress {
        match self.stay {
            PathState::Tunnel(_) => Egress::Tunnel,
            PathState::Direct { .. } => Egress::Direct,
        }
    }

    /// Why the mapping is in the tunnel, if it is.
    pub(super) fn fallen(&self) -> Option<FailoverCause> {
        self.absence().map(|absence| absence.cause)
    }

    pub(super) fn socket(&self, way: Egress) -> SocketState {
        self.sockets[way as usize]
    }

    pub(super) fn set_socket(&mut self, way: Egress, socket: SocketState) {
        self.sockets[way as usize] = socket;
    }

    /// Something goes out by the direct way.
    pub(super) fn sent(&mut self) {
        self.expects = true;
    }

    /// A question goes out by the direct way.
    pub(super) fn asked(&mut self, now: Instant) {
        self.expects = true;
        self.unanswered.ask(now);
        // A peer that never answered may be one that does not know STUN.
        if self.questions.answered().is_some() {
            self.unheard.ask(now);
        }
    }

    /// Something came in by the direct way. Answers whether that brings the mapping back.
    pub(super) fn heard(&mut self, is_answer: bool, now: Instant) -> bool {
        let pause = |heard| now.saturating_duration_since(heard) > PAUSE;
        if self.heard.is_none_or(pause) {
            self.run = 0;
        }
        self.run = self.run.saturating_add(1);
        self.heard = Some(now);
        self.expects = false;
        self.unanswered = UnansweredChecks::default();
        if is_answer {
            self.unheard = UnansweredChecks::default();
        }
        let PathState::Tunnel(absence) = &mut self.stay else {
            return false;
        };
        if is_answer && absence.trial.take().is_some() {
            absence.answered += 1;
        }
        absence.answered >= TRIALS
    }

    /// Whether an error of a router says that the direct way is of no use.
    pub(super) fn is_in_doubt(&self, now: Instant) -> bool {
        let long_ago = |heard| now.saturating_duration_since(heard) > DOUBT;
        self.absence().is_none() && self.heard.is_none_or(long_ago)
    }

    /// Whether a check that goes into the tunnel is to go the direct way too; if so, it is taken to go.
    pub(super) fn tries(&mut self, settings: FailoverSettings, now: Instant) -> bool {
        let (pace, retry) = (settings.silence / 2, self.retry(settings));
        let PathState::Tunnel(absence) = &mut self.stay else {
            return false;
        };
        let too_soon = |trial| now.saturating_duration_since(trial) < pace;
        if now < absence.since + retry || absence.trial.is_some_and(too_soon) {
            return false;
        }
        if absence.trial.replace(now).is_some() {
            absence.answered = 0;
        }
        true
    }

    /// A trial was refused at once.
    pub(super) fn trial_failed(&mut self) {
        if let PathState::Tunnel(absence) = &mut self.stay {
            absence.answered = 0;
        }
    }

    /// Gives the direct way up.
    pub(super) fn fall(&mut self, cause: FailoverCause, now: Instant) {
        let is_relapse = |back| now.saturating_duration_since(back) < RELAPSE;
        self.relapses = match self.stay {
            PathState::Direct { since: Some(back) } if is_relapse(back) => {
                self.relapses.saturating_add(1)
            }
            _ => 0,
        };
        self.start_in_tunnel(cause, now);
    }

    /// How long after a fall the first trial is sent.
    fn retry(&self, settings: FailoverSettings) -> Duration {
        let doubled = settings
            .retry
            .saturating_mul(1_u32.checked_shl(self.relapses.into()).unwrap_or(u32::MAX));
        doubled.min(LONGEST_RETRY).max(settings.retry)
    }

    /// Begins in the tunnel, since when the direct way was given up: a trial may be due already.
    pub(super) fn start_in_tunnel(&mut self, cause: FailoverCause, since: Instant) {
        self.stay = PathState::Tunnel(Failover {
            since,
            cause,
            trial: None,
            answered: 0,
        });
        self.forget();
    }

    /// Takes the direct way again.
    pub(super) fn come_back(&mut self, now: Instant) {
        self.stay = PathState::Direct { since: Some(now) };
        self.forget();
    }

    /// Begins anew on another uplink.
    pub(super) fn start_over(&mut self, now: Instant) {
        self.stay = PathState::Direct { since: None };
        // With something to ask by, the silence begins now.
        self.heard = self.questions.answered().map(|_| now);
        self.forget();
    }

    fn forget(&mut self) {
        // What is due from here on may be due sooner.
        self.queued = None;
        self.run = 0;
        self.expects = false;
        self.unanswered = UnansweredChecks::default();
        self.unheard = UnansweredChecks::default();
    }

    /// When the direct way has been silent for too long.
    fn silent_at(&self, settings: FailoverSettings) -> Option<Instant> {
        let first = self.unanswered.since(QUESTIONS)?;
        Some(match self.heard {
            Some(heard) => (heard + settings.silence).max(first + settings.silence / 2),
            None => first + settings.silence,
        })
    }

    /// When nobody can be said to hear us any more.
    fn unheard_at(&self, settings: FailoverSettings) -> Option<Instant> {
        Some(self.unheard.since(QUESTIONS_IN_A_STREAM)? + settings.silence * 3)
    }

    /// When the next question is due: first after a while without a sound or an answer, then in quick succession.
    fn ask_at(&self, settings: FailoverSettings) -> Option<Instant> {
        self.questions.answered()?;
        let silence = settings.silence;
        let unheard = self.unheard.last.map(|last| last + silence / 2);
        let unanswered = match self.unanswered.last {
            Some(last) => Some(last + silence / 16),
            None => self.heard.map(|heard| heard + silence / 2),
        };
        unheard.into_iter().chain(unanswered).min()
    }

    /// When [`MappingPath::step`] has something to say.
    pub(super) fn due(&self, settings: FailoverSettings) -> Option<Instant> {
        if let Some(absence) = self.absence() {
            let is_untested = self.questions.introduction().is_none();
            return is_untested.then_some(absence.since + self.retry(settings));
        }
        if !self.expects && self.run < STREAM {
            return None;
        }
        let times = [
            self.silent_at(settings),
            self.unheard_at(settings),
            self.ask_at(settings),
        ];
        times.into_iter().flatten().min()
    }

    /// What is to be done at `now`.
    pub(super) fn step(&self, settings: FailoverSettings, now: Instant) -> PathAction {
        let is_over = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if !is_over(self.due(settings)) {
            PathAction::Wait
        } else if self.absence().is_some() {
            PathAction::Return
        } else if is_over(self.silent_at(settings)) {
            PathAction::Fall(FailoverCause::NoTraffic)
        } else if is_over(self.unheard_at(settings)) {
            PathAction::Fall(FailoverCause::NoResponses)
        } else {
            PathAction::Ask
        }
    }
}
