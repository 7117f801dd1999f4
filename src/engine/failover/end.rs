//! The end of a mapping before its lifetime is over.
//!
//! # Theory of operation
//!
//! A call ends without a message that voicelane could read: the application closes its socket, the peer closes its own, or
//! both stop to send. All three are endings, not failures: no failover, no event of failure, no warning.
//!
//! A mapping ends only after its application has stopped to send. So nobody else can end a call: a forged ICMP error or a
//! silent peer has no effect while the application goes on. Whether the application's socket exists is known to the kernel
//! alone; the owner of the engine asks it (see [`Engine::handle_application_state`]).

use std::time::{Duration, Instant};

use super::cause::EndCause;
use super::path::MappingPath;
use crate::engine::{Engine, Outbox};
use crate::net::MappingId;

/// The time without outbound packets after which a mapping may be over. The checks of a browser are at most 2.5 s apart.
pub const SILENT: Duration = Duration::from_secs(3);
/// The time without outbound packets after which a refusal by the peer's port ends a mapping.
const SILENT_AFTER_REFUSAL: Duration = Duration::from_secs(10);
/// The time without packets in either direction after which consent has expired (RFC 7675 section 5.1).
const CONSENT_LIFETIME: Duration = Duration::from_secs(30);

impl MappingPath {
    /// Returns why the mapping is over, if it is. `idle` is the time since the application last sent.
    fn end_cause(&self, has_application: bool, idle: Duration, now: Instant) -> Option<EndCause> {
        let received = self.last_received();
        let unheard = received.map(|at| now.saturating_duration_since(at));
        if !has_application && idle >= SILENT {
            Some(EndCause::ApplicationClosed)
        } else if self.is_peer_closed() && idle >= SILENT_AFTER_REFUSAL {
            Some(EndCause::PeerClosed)
        } else if self.checks.answered().is_some()
            && idle >= CONSENT_LIFETIME
            && unheard.is_none_or(|unheard| unheard >= CONSENT_LIFETIME)
        {
            Some(EndCause::Silent)
        } else {
            None
        }
    }
}

impl Engine {
    /// Ends a mapping that is over, without an event of failure; its outside port is free at once. `has_application` is
    /// whether a socket of this machine still receives at the inside endpoint; true if unknown.
    pub fn handle_application_state(
        &mut self,
        mapping: MappingId,
        has_application: bool,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        let Some((path, entry)) = self.paths.get(mapping).zip(self.nat.get(mapping)) else {
            return;
        };
        let idle = now.saturating_duration_since(entry.refreshed);
        if let Some(cause) = path.end_cause(has_application, idle, now)
            && let Some(entry) = self.nat.remove(mapping)
        {
            self.end_mapping(mapping, &entry, cause, outbox);
        }
    }
}
