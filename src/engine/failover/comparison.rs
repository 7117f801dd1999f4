//! The comparison of both paths: the checks of a mapping that are unanswered on the direct path.

use std::time::Instant;

/// Unanswered checks that complete a comparison: at a loss of 10 % in each direction, eight in a row get no response
/// once in a million times.
const ATTEMPTS: u8 = 8;
/// Unanswered checks that confirm a router's error.
const ATTEMPTS_AFTER_ERROR: u8 = 2;

/// Checks on the direct path since the last response.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Comparison {
    /// Unanswered checks, and when the first and the last of them were sent.
    pub(super) attempts: u8,
    pub(super) first: Option<Instant>,
    pub(super) last: Option<Instant>,
    /// When the last copy was sent into the tunnel, if any was.
    pub(super) copied: Option<Instant>,
    /// When the tunnel first brought a response.
    pub(super) tunnel_response: Option<Instant>,
    /// When a router reported an error.
    pub(super) router_error: Option<Instant>,
}

impl Comparison {
    /// Records a check that was sent.
    pub(super) fn add(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.attempts = self.attempts.saturating_add(1);
    }

    /// Returns whether enough checks stayed unanswered.
    pub(super) const fn is_complete(&self) -> bool {
        let required = if self.router_error.is_some() {
            ATTEMPTS_AFTER_ERROR
        } else {
            ATTEMPTS
        };
        self.attempts >= required
    }
}
