//! Events of the engine about calls: recorded, logged, and kept for a while once a call has ended.

use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::time::{Duration, Instant};

use tracing::debug;

use crate::control::{EndedCallStatus, EventKind};
use crate::engine::{EndCause, EngineEvent};
use crate::net::{Endpoint, MappingId};

use super::events::EventLog;

/// How long an ended call is shown.
const SHOWN: Duration = Duration::from_secs(30);
/// Ended calls that are kept at most.
const KEPT: usize = 256;

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndedCall {
    id: MappingId,
    inside: Endpoint,
    remote: Endpoint,
    created: Instant,
    ended: Instant,
    cause: EndCause,
}

/// The sink of the engine's events.
#[derive(Debug)]
pub(super) struct CallEvents {
    log: EventLog,
    ended: VecDeque<EndedCall>,
}

/// The name of a call in events: the id that `mappings` shows, and the remote.
struct CallName(MappingId, Option<Endpoint>);

impl Display for CallName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {}", self.0)?;
        self.1.map_or(Ok(()), |remote| write!(f, " to {remote}"))
    }
}

impl CallEvents {
    pub(super) fn new(log: EventLog) -> Self {
        Self {
            log,
            ended: VecDeque::new(),
        }
    }

    /// Records an event.
    pub(super) fn record(&mut self, event: EngineEvent, now: Instant) {
        match event {
            EngineEvent::Established {
                mapping,
                inside,
                egress,
                outside,
            } => debug!(%mapping, %inside, %egress, %outside, "mapping established"),
            EngineEvent::Ended {
                mapping,
                inside,
                media_remote,
                created,
                cause,
            } => {
                debug!(%mapping, %inside, cause = cause.label(), "mapping ended");
                if let Some(remote) = media_remote {
                    self.ended.truncate(KEPT - 1);
                    self.ended.push_front(EndedCall {
                        id: mapping,
                        inside: inside.0,
                        remote,
                        created,
                        ended: now,
                        cause,
                    });
                }
            }
            EngineEvent::FailedOver {
                mapping,
                inside,
                remote,
                cause,
            } => {
                debug!(%mapping, %inside, "endpoint of the moved call");
                let call = CallName(mapping, remote);
                self.log.record(EventKind::CallMovedToVpn, call, cause);
            }
            EngineEvent::FailedBack {
                mapping,
                inside,
                remote,
                cause,
            } => {
                debug!(%mapping, %inside, "endpoint of the moved call");
                let call = CallName(mapping, remote);
                self.log.record(EventKind::CallMovedDirect, call, cause);
            }
            EngineEvent::UplinkFailed { family, cause } => {
                self.log.record(EventKind::UplinkFailed, family, cause);
            }
            EngineEvent::UplinkRecovered { family } => {
                let reason = "the direct path is used again";
                self.log.record(EventKind::UplinkRecovered, family, reason);
            }
        }
    }

    /// Returns the calls that have ended recently, the latest first.
    pub(super) fn recently_ended(&self, now: Instant) -> Vec<EndedCall> {
        let is_recent = |call: &&EndedCall| now.saturating_duration_since(call.ended) < SHOWN;
        self.ended.iter().take_while(is_recent).copied().collect()
    }
}

impl EndedCall {
    /// Returns the call as the status shows it.
    pub(super) fn status(&self, now: Instant) -> EndedCallStatus {
        EndedCallStatus {
            id: self.id.to_string(),
            inside: self.inside.into(),
            remote: self.remote.into(),
            cause: self.cause.label().into(),
            duration_seconds: self.ended.saturating_duration_since(self.created).as_secs(),
            ended_seconds: now.saturating_duration_since(self.ended).as_secs(),
        }
    }
}
