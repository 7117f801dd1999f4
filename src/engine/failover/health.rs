//! The verdict on an uplink, from the failovers of its mappings.
//!
//! # Theory of operation
//!
//! A mapping that fails over after a comparison is a confirmed failover. Two independent confirmed failovers show that the
//! uplink failed, unless a call was answered on it within the last second. Any answered check clears the first one.
//!
//! Failovers are independent if they concern different regions (a router may reject one prefix, and a host may be down)
//! and belong to different calls. An application opens several mappings for one call: those of one inside address that
//! start within two seconds count as one.
//!
//! A mapping without any response confirms nothing: any program can send datagrams to an address that does not answer.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::resync::UplinkGeneration;
use crate::net::Endpoint;

/// A response this recent shows that the uplink works.
const RECENT_RESPONSE: Duration = Duration::from_secs(1);
/// Mappings of one application that start within this time belong to one call.
const SAME_CALL: Duration = Duration::from_secs(2);
/// The time for which a confirmed failover counts.
const LIFETIME: Duration = Duration::from_secs(30);
/// The time for which a suspected path counts.
const SUSPECT_LIFETIME: Duration = Duration::from_secs(10);

/// A mapping that failed over after a comparison.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConfirmedFailover {
    /// The peer that answered before.
    pub(super) remote: Endpoint,
    /// The application's address.
    pub(super) inside: IpAddr,
    /// When the mapping was created.
    pub(super) created: Instant,
    /// When it failed over.
    pub(super) failed: Instant,
}

impl ConfirmedFailover {
    fn is_independent_of(&self, other: &Self) -> bool {
        let (earlier, later) = if self.created < other.created {
            (self.created, other.created)
        } else {
            (other.created, self.created)
        };
        let is_same_call =
            self.inside == other.inside && later.saturating_duration_since(earlier) < SAME_CALL;
        !is_same_call && region(self.remote.addr) != region(other.remote.addr)
    }
}

/// The part of an address that routers and operators treat alike: /24 of IPv4, /64 of IPv6.
fn region(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits() >> 8),
        IpAddr::V6(address) => address.to_bits() >> 64,
    }
}

/// The state of an uplink in one family.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UplinkHealth {
    first_failover: Option<ConfirmedFailover>,
    /// When a check was last answered on the uplink.
    last_response: Option<Instant>,
    /// When an established mapping last had enough unanswered checks to suspect its path.
    last_suspected: Option<Instant>,
    /// When the uplink failed.
    pub(super) failed: Option<Instant>,
    pub(super) generation: UplinkGeneration,
}

impl UplinkHealth {
    /// Records an answered check.
    pub(super) fn on_response(&mut self, now: Instant) {
        self.last_response = Some(now);
        self.first_failover = None;
        self.last_suspected = None;
    }

    /// Records that an established mapping suspects its path.
    pub(super) fn on_suspected_path(&mut self, now: Instant) {
        self.last_suspected = Some(now);
    }

    /// Whether the uplink may have failed. Then the tunnel gets the first check of new mappings too.
    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        let is_recent = |at, time| now.saturating_duration_since(at) < time;
        self.last_suspected
            .is_some_and(|at| is_recent(at, SUSPECT_LIFETIME))
            || self
                .first_failover
                .is_some_and(|it| is_recent(it.failed, LIFETIME))
    }

    /// Records a failover after a comparison. Returns whether the uplink fails with it.
    pub(super) fn on_failover(&mut self, failover: ConfirmedFailover) -> bool {
        let now = failover.failed;
        let is_recent = |at, time| now.saturating_duration_since(at) < time;
        let former = self
            .first_failover
            .filter(|former| is_recent(former.failed, LIFETIME));
        let fails = former.is_some_and(|former| failover.is_independent_of(&former))
            && !self
                .last_response
                .is_some_and(|at| is_recent(at, RECENT_RESPONSE))
            && self.failed.is_none();
        // The older failover stays, because a dependent one adds no information.
        self.first_failover = former.or(Some(failover));
        if fails {
            self.failed = Some(now);
            self.generation.fail();
        }
        fails
    }

    /// Resets the state of the uplink. Returns whether it had failed.
    pub(super) fn clear(&mut self) -> bool {
        let failed = self.failed.take().is_some();
        *self = Self {
            generation: self.generation,
            ..Self::default()
        };
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failover(
        remote: &str,
        inside: &str,
        created: Instant,
        failed: Instant,
    ) -> ConfirmedFailover {
        ConfirmedFailover {
            remote: Endpoint::new(remote.parse().expect("an address"), 20_000),
            inside: inside.parse().expect("an address"),
            created,
            failed,
        }
    }

    #[test]
    fn two_calls_to_two_regions_fail_the_uplink() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        for (remote, inside, later, expected) in [
            ("192.0.2.1", "10.0.0.1", 10, false),
            ("192.0.2.9", "10.0.0.1", 10, false),
            ("198.51.100.1", "10.0.0.1", 1, false),
            ("198.51.100.1", "10.0.0.2", 1, true),
            ("198.51.100.1", "10.0.0.1", 10, true),
        ] {
            let mut health = UplinkHealth::default();
            let failed = start + 60 * second;
            assert!(!health.on_failover(failover("192.0.2.1", "10.0.0.1", start, failed)));
            assert!(health.is_suspect(failed));
            let other = failover(remote, inside, start + later * second, failed + second);
            assert_eq!(
                health.on_failover(other),
                expected,
                "{remote} {inside} {later}"
            );
            assert_eq!(health.failed.is_some(), expected);
        }
    }

    #[test]
    fn a_recent_response_keeps_the_uplink_and_clears_the_evidence() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut health = UplinkHealth::default();
        let first = failover("192.0.2.1", "10.0.0.1", start, start + 10 * second);
        let other = |at| failover("198.51.100.1", "10.0.0.2", start, at);
        assert!(!health.on_failover(first));
        health.on_response(start + 10 * second);
        assert!(
            !health.on_failover(other(start + 12 * second)),
            "the first one is cleared"
        );
        let third = failover("203.0.113.1", "10.0.0.3", start, start + 13 * second);
        assert!(health.on_failover(third));
    }

    #[test]
    fn old_evidence_expires() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut health = UplinkHealth::default();
        let first = failover("192.0.2.1", "10.0.0.1", start, start);
        assert!(!health.on_failover(first));
        let late = failover("198.51.100.1", "10.0.0.2", start, start + 31 * second);
        assert!(!health.on_failover(late));
    }
}
