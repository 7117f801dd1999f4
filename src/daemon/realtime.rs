//! Real-time scheduling of the packet thread, within a budget.
//!
//! # Theory of operation
//!
//! On a busy machine a packet waits for the CPU. So the first thread runs the packet loop under `SCHED_FIFO` at priority
//! 1, the lowest: before ordinary programs, behind sound servers and kernel interrupts. The service manager sets this
//! (`CPUSchedulingPolicy=`), or the thread does while it has the privilege. It is reset on fork, so that all other
//! threads are ordinary.
//!
//! **Budget.** A real-time thread must not freeze a machine with one core. Once per [`WINDOW`] the thread checks its CPU
//! time. If that exceeds [`SHARE`], an ordinary fallback thread runs the packet loop for [`FALLBACK_TIME`], while the
//! first thread sleeps. The thread does not change its own class: the unit's filter forbids that system call.
//!
//! **Last resort.** A loop that never sleeps never checks its budget. `RLIMIT_RTTIME` then ends the process, and media
//! is in the VPN.

#![allow(unsafe_code)]

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use tracing::warn;

/// The lowest real-time priority.
const PRIORITY: libc::c_int = 1;
/// Time between two checks of the CPU time.
const WINDOW: Duration = Duration::from_millis(100);
/// The CPU time that a window allows, in percent.
const SHARE: u32 = 80;
/// The time that the fallback thread runs.
const FALLBACK_TIME: Duration = Duration::from_secs(1);
/// Real-time CPU time without a sleep after which the kernel ends the process.
const MAX_CPU_TIME: Duration = Duration::from_secs(1);

/// The scheduling of the packet loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SchedulingClass {
    /// Real time.
    RealTime,
    /// Ordinary, for [`FALLBACK_TIME`]: the budget is exhausted.
    BudgetExhausted,
    /// Ordinary: the kernel does not permit real time.
    NotPermitted,
    /// Ordinary: real time is disabled by the configuration.
    SwitchedOff,
}

impl SchedulingClass {
    /// The stable name.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::RealTime => "realtime",
            Self::BudgetExhausted => "budget_exhausted",
            Self::NotPermitted => "not_permitted",
            Self::SwitchedOff => "switched_off",
        }
    }
}

/// The scheduling class of the packet loop, and its budget.
#[derive(Debug)]
pub(super) struct Realtime {
    class: SchedulingClass,
    /// The start of the current window, and the CPU time of the thread at that time.
    window: (Instant, Duration),
    budget_exhausted: u64,
    fallback_thread_failed: u64,
}

impl Realtime {
    /// Enables real time for the calling thread, if wanted and permitted.
    ///
    /// Must be called before other threads start and before privileges are dropped.
    pub(super) fn enable(wanted: bool) -> Self {
        let class = match wanted.then(set_scheduler) {
            None => SchedulingClass::SwitchedOff,
            Some(Ok(())) => SchedulingClass::RealTime,
            Some(Err(_)) => SchedulingClass::NotPermitted,
        };
        Self {
            class,
            window: (Instant::now(), cpu_time()),
            budget_exhausted: 0,
            fallback_thread_failed: 0,
        }
    }

    pub(super) const fn class(&self) -> SchedulingClass {
        self.class
    }

    /// How often the budget was exhausted, and how often no fallback thread could be started.
    pub(super) const fn counts(&self) -> [u64; 2] {
        [self.budget_exhausted, self.fallback_thread_failed]
    }

    /// Runs the packet loop in the calling thread, or in a fallback thread while the budget is exhausted.
    pub(super) fn run<R: Send>(&mut self, packet_loop: impl FnMut(&mut Self) -> R + Send) -> R {
        self.run_or_spawn(
            thread::Builder::new().name("packets".to_owned()),
            packet_loop,
        )
    }

    fn run_or_spawn<R: Send>(
        &mut self,
        fallback: thread::Builder,
        mut packet_loop: impl FnMut(&mut Self) -> R + Send,
    ) -> R {
        let mut work = |realtime: &mut Self| {
            realtime.window = (Instant::now(), cpu_time());
            packet_loop(realtime)
        };
        if matches!(
            self.class,
            SchedulingClass::RealTime | SchedulingClass::NotPermitted
        ) {
            return work(self);
        }
        let result = thread::scope(|scope| {
            let ended = fallback.spawn_scoped(scope, || work(self))?.join();
            Ok::<_, io::Error>(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        result.unwrap_or_else(|error| {
            warn!(%error, "cannot start the fallback thread: the real-time thread keeps forwarding packets");
            self.fallback_thread_failed += 1;
            if self.class == SchedulingClass::BudgetExhausted {
                self.class = SchedulingClass::RealTime;
            }
            work(self)
        })
    }

    /// Whether the thread has to change: the budget is exhausted, or the time of the fallback thread is over.
    ///
    /// Must be called at every wake-up of the packet loop.
    pub(super) fn is_change_due(&mut self, now: Instant) -> bool {
        let (start, cpu_time_at_start) = self.window;
        let passed = now.saturating_duration_since(start);
        match self.class {
            SchedulingClass::RealTime if passed >= WINDOW => {
                let cpu_time = cpu_time();
                self.window = (now, cpu_time);
                if cpu_time.saturating_sub(cpu_time_at_start) * 100 <= passed * SHARE {
                    return false;
                }
                self.budget_exhausted += 1;
                self.class = SchedulingClass::BudgetExhausted;
                true
            }
            SchedulingClass::BudgetExhausted if passed >= FALLBACK_TIME => {
                self.class = SchedulingClass::RealTime;
                true
            }
            _ => false,
        }
    }
}

/// Sets `SCHED_FIFO`, unless the thread has it.
fn set_scheduler() -> io::Result<()> {
    let limit = u64::try_from(MAX_CPU_TIME.as_micros()).expect("a second");
    if getrlimit(Resource::RLIMIT_RTTIME).is_ok_and(|(soft, _)| soft > limit) {
        // On an error the budget still applies.
        let _ = setrlimit(Resource::RLIMIT_RTTIME, limit, limit);
    }
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    if scheduler() == policy {
        return Ok(());
    }
    // SAFETY: the structure is plain numbers, of which only one means something for this policy.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = PRIORITY;
    // SAFETY: the kernel reads the structure during the call and keeps no pointer; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The scheduling policy and flags of the calling thread.
fn scheduler() -> libc::c_int {
    // SAFETY: 0 is the calling thread; nothing else is passed.
    unsafe { libc::sched_getscheduler(0) }
}

/// The CPU time of the calling thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .expect("every thread has such a clock")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: libc::c_int = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;

    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().expect("it holds");
    }

    fn compute(time: Duration) {
        let until = cpu_time() + time;
        while cpu_time() < until {}
    }

    /// Holds with and without the permission for real time.
    #[test]
    fn an_exhausted_budget_starts_the_fallback_thread_for_a_while() {
        on_a_thread(|| {
            let mut realtime = Realtime::enable(true);
            let (policy, exhausted) = match realtime.class() {
                SchedulingClass::RealTime => (POLICY, SchedulingClass::BudgetExhausted),
                class => (libc::SCHED_OTHER, class),
            };
            let is_exhausted = exhausted == SchedulingClass::BudgetExhausted;
            realtime.run(|realtime| {
                let start = Instant::now();
                assert_eq!(scheduler(), policy);
                assert!(!realtime.is_change_due(start + WINDOW), "it was idle");
                compute(WINDOW);
                assert_eq!(realtime.is_change_due(start + WINDOW * 2), is_exhausted);
            });
            assert_eq!(realtime.class(), exhausted);
            assert_eq!(realtime.counts(), [u64::from(is_exhausted), 0]);
            realtime.run(|realtime| {
                let start = Instant::now();
                assert_eq!(scheduler(), libc::SCHED_OTHER, "of the fallback thread");
                assert!(!realtime.is_change_due(start + FALLBACK_TIME / 2));
                assert_eq!(
                    realtime.is_change_due(start + FALLBACK_TIME + WINDOW),
                    is_exhausted
                );
            });
            realtime.run(|_| assert_eq!(scheduler(), policy));
        });
    }

    #[test]
    fn without_a_fallback_thread_the_real_time_thread_continues() {
        for (class, then) in [
            (SchedulingClass::BudgetExhausted, SchedulingClass::RealTime),
            (SchedulingClass::SwitchedOff, SchedulingClass::SwitchedOff),
        ] {
            let mut realtime = Realtime::enable(false);
            realtime.class = class;
            let impossible = thread::Builder::new().stack_size(1 << 60);
            let id = realtime.run_or_spawn(impossible, |_| thread::current().id());
            assert_eq!(id, thread::current().id());
            assert_eq!((realtime.class(), realtime.counts()), (then, [0, 1]));
        }
    }

    #[test]
    fn real_time_can_be_disabled() {
        on_a_thread(|| {
            let mut realtime = Realtime::enable(false);
            realtime.run(|realtime| {
                assert!(!realtime.is_change_due(Instant::now() + FALLBACK_TIME * 2));
                assert_eq!(scheduler(), libc::SCHED_OTHER);
            });
            assert_eq!(realtime.class(), SchedulingClass::SwitchedOff);
        });
    }
}
