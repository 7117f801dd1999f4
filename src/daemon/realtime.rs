//! Real-time scheduling of the thread that carries packets, within a budget.
//!
//! # Theory of operation
//!
//! What a voice packet waits for on a busy machine is the CPU: without this, its slowest percent come later by the time
//! slice of whoever computes. So the process's first thread carries packets and does nothing else, under `SCHED_FIFO` at
//! priority 1, the lowest: before every ordinary program, behind sound servers and the kernel's interrupts. The service
//! manager gives it that rank (`CPUSchedulingPolicy=`), or it takes it by itself while it has the privilege.
//!
//! The rank is reset on fork: every other thread is an ordinary one, and so is whoever stands in below.
//!
//! **Budget.** A thread that outranks all others must not freeze a machine of one core. At a wake-up in each
//! [`WINDOW`] the thread looks at the CPU time that it has used; if that was more than [`SHARE`] of the window, an
//! ordinary thread stands in for [`REST`] and competes like any other program, while the first one sleeps. Twice the
//! load that one core can carry thus takes a twelfth of the time at that rank. Giving the rank up would want a system
//! call that the unit's filter does not have, and should not. When no thread can be made, the first one goes on, which is
//! counted: calls that stop would be worse.
//!
//! **Last resort.** A fault that never sleeps never gets to the look. `RLIMIT_RTTIME` ends the process then, and media
//! is in the VPN.

#![allow(unsafe_code)]

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use tracing::warn;

/// The lowest of the real-time ranks.
const PRIORITY: libc::c_int = 1;
/// How long the use of CPU time is added up.
const WINDOW: Duration = Duration::from_millis(100);
/// The part of a window that may be used, in percent.
const SHARE: u32 = 80;
/// How long an ordinary thread stands in.
const REST: Duration = Duration::from_secs(1);
/// CPU time at that rank without a sleep, after which the process ends.
const ENDLESS: Duration = Duration::from_secs(1);

/// How packets are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// In real time.
    RealTime,
    /// As any other program, for a moment: the budget was used up.
    Resting,
    /// As any other program: the kernel does not permit more.
    NotPermitted,
    /// As any other program: the configuration wants it so.
    SwitchedOff,
}

impl Class {
    /// The stable word.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::RealTime => "realtime",
            Self::Resting => "budget_exhausted",
            Self::NotPermitted => "not_permitted",
            Self::SwitchedOff => "switched_off",
        }
    }
}

/// The rank of the thread that took it, and what was used of its budget.
#[derive(Debug)]
pub(super) struct Realtime {
    class: Class,
    /// When the present window began, and the CPU time that the thread had used by then.
    window: (Instant, Duration),
    given_up: u64,
    unrelieved: u64,
}

impl Realtime {
    /// Takes the rank for the calling thread, if it is wanted and permitted; it may have it already. To be called before
    /// other threads are made and before privileges are dropped.
    pub(super) fn take(wanted: bool) -> Self {
        let class = match wanted.then(rise) {
            None => Class::SwitchedOff,
            Some(Ok(())) => Class::RealTime,
            Some(Err(_)) => Class::NotPermitted,
        };
        Self {
            class,
            window: (Instant::now(), used()),
            given_up: 0,
            unrelieved: 0,
        }
    }

    pub(super) const fn class(&self) -> Class {
        self.class
    }

    /// How often the budget was used up, and how often there was no thread then to stand in.
    pub(super) const fn counts(&self) -> [u64; 2] {
        [self.given_up, self.unrelieved]
    }

    /// Has `carry` called in the thread that is to carry packets now: the calling one, or an ordinary one.
    pub(super) fn shift<R: Send>(&mut self, carry: impl FnMut(&mut Self) -> R + Send) -> R {
        self.shift_of(thread::Builder::new().name("packets".to_owned()), carry)
    }

    fn shift_of<R: Send>(
        &mut self,
        stand_in: thread::Builder,
        mut carry: impl FnMut(&mut Self) -> R + Send,
    ) -> R {
        let mut work = |realtime: &mut Self| {
            realtime.window = (Instant::now(), used());
            carry(realtime)
        };
        if matches!(self.class, Class::RealTime | Class::NotPermitted) {
            return work(self);
        }
        let carried = thread::scope(|scope| {
            let ended = stand_in.spawn_scoped(scope, || work(self))?.join();
            Ok::<_, io::Error>(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        carried.unwrap_or_else(|error| {
            warn!(%error, "cannot start the fallback thread: the real-time thread keeps forwarding packets");
            self.unrelieved += 1;
            if self.class == Class::Resting {
                self.class = Class::RealTime;
            }
            work(self)
        })
    }

    /// Looks whether the budget is used up, or the rest is over: then it is another thread's turn, and the answer is
    /// yes. To be called at every wake-up of the thread that carries packets.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        let (began, used_then) = self.window;
        let passed = now.saturating_duration_since(began);
        match self.class {
            Class::RealTime if passed >= WINDOW => {
                let used_now = used();
                self.window = (now, used_now);
                if used_now.saturating_sub(used_then) * 100 <= passed * SHARE {
                    return false;
                }
                self.given_up += 1;
                self.class = Class::Resting;
                true
            }
            Class::Resting if passed >= REST => {
                self.class = Class::RealTime;
                true
            }
            _ => false,
        }
    }
}

/// Takes the rank, unless the thread has it.
fn rise() -> io::Result<()> {
    let endless = u64::try_from(ENDLESS.as_micros()).expect("a second");
    if getrlimit(Resource::RLIMIT_RTTIME).is_ok_and(|(soft, _)| soft > endless) {
        // Without it the other guards remain.
        let _ = setrlimit(Resource::RLIMIT_RTTIME, endless, endless);
    }
    let rank = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    if policy() == rank {
        return Ok(());
    }
    // SAFETY: the structure is plain numbers, of which only one means something for this policy.
    let mut parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    parameter.sched_priority = PRIORITY;
    // SAFETY: the kernel reads the structure during the call and keeps no pointer; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, rank, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How the calling thread is scheduled, in the kernel's words.
fn policy() -> libc::c_int {
    // SAFETY: 0 is the calling thread; nothing else is passed.
    unsafe { libc::sched_getscheduler(0) }
}

/// The CPU time that the calling thread has used.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .expect("every thread has such a clock")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANK: libc::c_int = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;

    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().expect("it holds");
    }

    fn compute(time: Duration) {
        let until = used() + time;
        while used() < until {}
    }

    /// With or without the permission: what is said is what the kernel does.
    #[test]
    fn who_uses_too_much_is_relieved_by_an_ordinary_thread_for_a_while() {
        on_a_thread(|| {
            let mut realtime = Realtime::take(true);
            let (rank, rests) = match realtime.class() {
                Class::RealTime => (RANK, Class::Resting),
                class => (libc::SCHED_OTHER, class),
            };
            let is_relieved = rests == Class::Resting;
            realtime.shift(|realtime| {
                let start = Instant::now();
                assert_eq!(policy(), rank);
                assert!(!realtime.look(start + WINDOW), "it was idle");
                compute(WINDOW);
                assert_eq!(realtime.look(start + WINDOW * 2), is_relieved);
            });
            assert_eq!(realtime.class(), rests);
            assert_eq!(realtime.counts(), [u64::from(is_relieved), 0]);
            realtime.shift(|realtime| {
                let start = Instant::now();
                assert_eq!(policy(), libc::SCHED_OTHER, "of the thread that stands in");
                assert!(!realtime.look(start + REST / 2));
                assert_eq!(realtime.look(start + REST + WINDOW), is_relieved);
            });
            realtime.shift(|_| assert_eq!(policy(), rank));
        });
    }

    #[test]
    fn where_no_thread_can_be_made_the_one_that_is_there_goes_on() {
        for (class, then) in [
            (Class::Resting, Class::RealTime),
            (Class::SwitchedOff, Class::SwitchedOff),
        ] {
            let mut realtime = Realtime::take(false);
            realtime.class = class;
            let impossible = thread::Builder::new().stack_size(1 << 60);
            let carrier = realtime.shift_of(impossible, |_| thread::current().id());
            assert_eq!(carrier, thread::current().id());
            assert_eq!((realtime.class(), realtime.counts()), (then, [0, 1]));
        }
    }

    #[test]
    fn by_configuration_it_stays_ordinary() {
        on_a_thread(|| {
            let mut realtime = Realtime::take(false);
            realtime.shift(|realtime| {
                assert!(!realtime.look(Instant::now() + REST * 2));
                assert_eq!(policy(), libc::SCHED_OTHER);
            });
            assert_eq!(realtime.class(), Class::SwitchedOff);
        });
    }
}
