//! Notice that the machine goes to sleep and that it has slept.
//!
//! The clock tells the truth and needs nobody: the kernel cancels a timer that was set for a wall-clock time when that
//! clock jumps, as it does on waking up, and the time that `CLOCK_BOOTTIME` has gained on `CLOCK_MONOTONIC` is the time
//! that the machine has slept. logind, where there is one, says it a moment before.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// A wall-clock time that no machine of today sees, in seconds: the timer is for its being cancelled.
const NEVER: i64 = i32::MAX as i64;

/// How much the clocks may drift apart by being read one after the other.
const TOLERANCE: Duration = Duration::from_millis(500);

/// What was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The machine is about to sleep.
    FallsAsleep,
    /// The machine has woken up. By the clock it has slept for so long; none when the clock says nothing of sleep.
    WokeUp(Option<Duration>),
}

/// Both watchmen.
pub(super) struct SleepWatch {
    timer: AsyncFd<Timer>,
    slept: Slept,
    logind: mpsc::Receiver<bool>,
}

impl SleepWatch {
    /// Sets the timer, and looks for logind as a task of the current tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    #[allow(unsafe_code)]
    pub(super) fn open() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Timer(TimerFd::new(ClockId::CLOCK_REALTIME, flags)?);
        timer.arm()?;
        // SAFETY: a `Timer` owns one open descriptor and names the same one as long as it lives.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        let (tell, logind) = mpsc::channel(4);
        #[cfg(feature = "logind")]
        tokio::spawn(logind::listen(tell));
        #[cfg(not(feature = "logind"))]
        drop(tell);
        Ok(Self {
            timer,
            slept: Slept(ahead()?),
            logind,
        })
    }

    /// Waits for the machine to fall asleep or to wake up.
    ///
    /// # Errors
    /// When the timer fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> io::Result<Notice> {
        loop {
            let told = tokio::select! {
                Some(asleep) = self.logind.recv() => Some(asleep),
                ready = self.timer.readable() => {
                    let mut ready = ready?;
                    if !ready.get_inner().jumped()? {
                        ready.clear_ready();
                        continue;
                    }
                    None
                }
            };
            if told == Some(true) {
                return Ok(Notice::FallsAsleep);
            }
            let slept = self.slept.observe(ahead()?);
            // A clock that somebody set has jumped as well, and nobody slept.
            if slept.is_some() || told.is_some() {
                return Ok(Notice::WokeUp(slept));
            }
        }
    }
}

/// A timer that is for being cancelled.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    fn arm(&self) -> nix::Result<()> {
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        let never = Expiration::OneShot(TimeSpec::seconds(NEVER));
        self.0.set(never, flags)
    }

    /// Whether the wall clock has jumped since this was last asked.
    fn jumped(&self) -> nix::Result<bool> {
        match nix::unistd::read(&self.0, &mut [0; 8]) {
            Err(Errno::EAGAIN) => Ok(false),
            Err(Errno::ECANCELED) => self.arm().map(|()| true),
            Ok(_) => self.arm().map(|()| false),
            Err(error) => Err(error),
        }
    }
}

/// How far `CLOCK_BOOTTIME` is ahead of `CLOCK_MONOTONIC`, which stands still while the machine sleeps.
fn ahead() -> nix::Result<Duration> {
    let monotonic = clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let boottime = clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?;
    Ok(Duration::from(boottime).saturating_sub(Duration::from(monotonic)))
}

/// How far ahead it was when last looked at.
#[derive(Debug)]
struct Slept(Duration);

impl Slept {
    /// The time slept since the last look, if there was any.
    fn observe(&mut self, ahead: Duration) -> Option<Duration> {
        let slept = ahead.saturating_sub(self.0);
        self.0 = ahead;
        (slept > TOLERANCE).then_some(slept)
    }
}

#[cfg(feature = "logind")]
mod logind {
    use std::time::Duration;

    use futures_util::StreamExt;
    use tokio::sync::mpsc;
    use tracing::debug;
    use zbus::{Connection, MatchRule, MessageStream, message};

    /// How long to wait before a bus that is not there is looked for again.
    const AGAIN: Duration = Duration::from_mins(1);

    /// Tells `PrepareForSleep` (org.freedesktop.login1(5)) for as long as somebody listens.
    pub(super) async fn listen(tell: mpsc::Sender<bool>) {
        while !tell.is_closed() {
            if let Err(error) = follow(&tell).await {
                debug!(%error, "cannot receive signals from logind");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn follow(tell: &mpsc::Sender<bool>) -> zbus::Result<()> {
        let bus = Connection::system().await?;
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender("org.freedesktop.login1")
            .interface("org.freedesktop.login1.Manager")
            .member("PrepareForSleep")
            .build()?;
        let mut signals = MessageStream::for_match_rule(rule, &bus, None).await?;
        debug!("receiving sleep signals from logind");
        while let Some(signal) = signals.next().await {
            let asleep: bool = signal?.body().deserialize()?;
            if tell.send(asleep).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clock_of_the_machine_gained_was_slept() {
        let second = Duration::from_secs;
        let mut slept = Slept(second(100));
        assert_eq!(slept.observe(second(100)), None);
        assert_eq!(slept.observe(second(100) + TOLERANCE), None);
        assert_eq!(
            slept.observe(second(135)),
            Some(Duration::from_millis(34_500))
        );
        assert_eq!(slept.observe(second(135)), None);
        // Never in a kernel's life, but it is no reason to panic.
        assert_eq!(slept.observe(second(1)), None);
    }

    #[tokio::test]
    async fn a_clock_that_stands_right_tells_of_no_sleep() {
        let watch = SleepWatch::open().expect("the kernel has timers");
        assert_eq!(watch.timer.get_ref().jumped(), Ok(false));
        assert!(ahead().is_ok());
    }
}
