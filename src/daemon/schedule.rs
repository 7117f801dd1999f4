//! When the next reconciliation is due: pauses, retries and requested firewall probes.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::steering::watch::KernelChange;

/// The shortest pause after a reconciliation.
pub(super) const MIN_PAUSE: Duration = Duration::from_millis(10);

/// The pause in multiples of the CPU time of the reconciliation. Waiting for the CPU costs nothing and is not counted.
const PAUSE_FACTOR: u32 = 4;

/// The longest pause after a reconciliation.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The delay before the first retry after an error. It doubles up to [`MAX_RETRY`].
pub(super) const INITIAL_RETRY: Duration = Duration::from_secs(1);

/// The longest delay before a retry.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// Time between two requested probes: a firewall may block media and accept the probe.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The reasons for the next reconciliation, and its earliest time.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub(super) change: Option<KernelChange>,
    /// The earliest time of the next reconciliation.
    pub(super) backoff_until: Option<Instant>,
    /// The time of the requested firewall probe.
    probe_requested: Option<Instant>,
    last_probe: Option<Instant>,
    /// The time of the next retry, and its delay.
    pub(super) retry: Option<(Instant, Duration)>,
}

impl Schedule {
    /// Adds a change of the kernel.
    pub(super) fn add(&mut self, change: KernelChange) {
        self.change.get_or_insert_default().merge(change);
    }

    /// Adds a reconciliation that no notification of the kernel caused.
    pub(super) fn add_now(&mut self) {
        self.add(KernelChange {
            noticed: Some(Instant::now()),
            ..KernelChange::default()
        });
    }

    /// Requests a firewall probe, which is a part of each reconciliation.
    pub(super) fn request_probe(&mut self) {
        let now = Instant::now();
        let last = self.last_probe;
        let at = last.map_or(now, |last| now.max(last + PROBE_INTERVAL));
        self.probe_requested.get_or_insert(at);
    }

    /// Records that a reconciliation starts, which does the requested probe if it is due.
    pub(super) fn start_probe(&mut self, now: Instant) {
        if self.probe_requested.take_if(|at| *at <= now).is_some() {
            self.last_probe = Some(now);
        }
    }

    /// Schedules a retry, after `first` or twice the previous delay.
    pub(super) fn retry_after(&mut self, first: Duration, now: Instant) {
        let delay = self.retry.map_or(first, |(_, last)| last * 2);
        let delay = delay.min(MAX_RETRY);
        self.retry = Some((now + delay, delay));
    }

    /// The time of the next reconciliation: the first of these reasons and of others, after the pause.
    pub(super) fn due(&self, others: &[Option<Instant>]) -> Option<Instant> {
        let change = self.change.as_ref().map(|_| Instant::now());
        let retry = self.retry.map(|(at, _)| at);
        let own = [change, retry, self.probe_requested];
        let next = own.iter().chain(others).flatten().min()?;
        Some(self.backoff_until.map_or(*next, |until| until.max(*next)))
    }
}

/// The CPU time of this thread.
pub(super) fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The pause after a reconciliation with this CPU time: a busy routing table must not keep the machine busy.
pub(super) fn pause_after(cpu_time: Duration) -> Duration {
    (cpu_time * PAUSE_FACTOR).clamp(MIN_PAUSE, MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_with_the_cpu_time_and_is_bounded() {
        assert_eq!(pause_after(Duration::ZERO), MIN_PAUSE);
        let cpu_time = Duration::from_millis(40);
        assert_eq!(pause_after(cpu_time), cpu_time * PAUSE_FACTOR);
        assert_eq!(pause_after(Duration::from_secs(9)), MAX_PAUSE);
    }
}
