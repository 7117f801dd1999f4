//! Notices when the machine goes to sleep and when it resumes.
//!
//! The kernel cancels a wall-clock timer when the clock jumps, as on a resume. The difference of `CLOCK_BOOTTIME` and
//! `CLOCK_MONOTONIC` grows by the time slept. logind, if present, also reports a sleep in advance.

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

/// A time in the far future, in seconds: the timer must not expire.
const NEVER: i64 = i32::MAX as i64;

/// The largest difference that comes from reading the clocks one after the other.
const TOLERANCE: Duration = Duration::from_millis(500);

/// A change of the sleep state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SleepNotice {
    /// The machine is about to sleep.
    Sleeping,
    /// The machine has resumed. The time slept by the clocks, if they show any.
    Resumed(Option<Duration>),
}

/// The clock and logind.
pub(super) struct SleepWatch {
    timer: AsyncFd<JumpTimer>,
    slept: SleepClock,
    logind: mpsc::Receiver<bool>,
}

impl SleepWatch {
    /// Starts the timer, and a task that connects to logind.
    ///
    /// # Errors
    /// When no timer can be created.
    #[allow(unsafe_code)]
    pub(super) fn open() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = JumpTimer(TimerFd::new(ClockId::CLOCK_REALTIME, flags)?);
        timer.arm()?;
        // SAFETY: a `JumpTimer` owns one open descriptor and it never changes.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        let (sender, logind) = mpsc::channel(4);
        #[cfg(feature = "logind")]
        tokio::spawn(logind::listen(sender));
        #[cfg(not(feature = "logind"))]
        drop(sender);
        Ok(Self {
            timer,
            slept: SleepClock(total_sleep()?),
            logind,
        })
    }

    /// Waits until the machine goes to sleep or resumes.
    ///
    /// # Errors
    /// When the timer fails.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> io::Result<SleepNotice> {
        loop {
            let by_logind = tokio::select! {
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
            if by_logind == Some(true) {
                return Ok(SleepNotice::Sleeping);
            }
            let slept = self.slept.observe(total_sleep()?);
            // The clock also jumps when a user sets it.
            if slept.is_some() || by_logind.is_some() {
                return Ok(SleepNotice::Resumed(slept));
            }
        }
    }
}

/// A timer that the kernel cancels when the wall clock jumps.
#[derive(Debug)]
struct JumpTimer(TimerFd);

impl AsRawFd for JumpTimer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl JumpTimer {
    fn arm(&self) -> nix::Result<()> {
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        let never = Expiration::OneShot(TimeSpec::seconds(NEVER));
        self.0.set(never, flags)
    }

    /// Whether the wall clock has jumped since the last call.
    fn jumped(&self) -> nix::Result<bool> {
        match nix::unistd::read(&self.0, &mut [0; 8]) {
            Err(Errno::EAGAIN) => Ok(false),
            Err(Errno::ECANCELED) => self.arm().map(|()| true),
            Ok(_) => self.arm().map(|()| false),
            Err(error) => Err(error),
        }
    }
}

/// The total time slept: `CLOCK_BOOTTIME` minus `CLOCK_MONOTONIC`, which stops during sleep.
fn total_sleep() -> nix::Result<Duration> {
    let monotonic = clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let boottime = clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?;
    Ok(Duration::from(boottime).saturating_sub(Duration::from(monotonic)))
}

/// The total time slept at the last observation.
#[derive(Debug)]
struct SleepClock(Duration);

impl SleepClock {
    /// Returns the time slept since the last observation, if any.
    fn observe(&mut self, total: Duration) -> Option<Duration> {
        let slept = total.saturating_sub(self.0);
        self.0 = total;
        (slept > TOLERANCE).then_some(slept)
    }
}

#[cfg(feature = "logind")]
mod logind {
    use std::time::Duration;

    use futures_util::StreamExt;
    use tokio::sync::mpsc;
    use tracing::debug;
    use zbus::names::UniqueName;
    use zbus::{Connection, MatchRule, Message, MessageStream, message};

    /// The bus name of logind.
    const LOGIND: &str = "org.freedesktop.login1";

    /// The bus name of the bus itself. It has no other owner (D-Bus Specification, "Message Bus Names").
    const BUS: &str = "org.freedesktop.DBus";

    /// Time between two attempts to connect to the bus.
    const RECONNECT: Duration = Duration::from_mins(1);

    /// Forwards `PrepareForSleep` (org.freedesktop.login1(5)) until the receiver is dropped.
    pub(super) async fn listen(sender: mpsc::Sender<bool>) {
        while !sender.is_closed() {
            if let Err(error) = forward(&sender).await {
                debug!(%error, "cannot receive signals from logind");
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn forward(sender: &mpsc::Sender<bool>) -> zbus::Result<()> {
        let bus = Connection::system().await?;
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender(BUS)
            .interface(BUS)
            .member("NameOwnerChanged")
            .arg(0, LOGIND)
            .build()?;
        let mut owners = MessageStream::for_match_rule(rule, &bus, None).await?;
        let mut owner = owner_of(&bus).await;
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender(LOGIND)
            .interface("org.freedesktop.login1.Manager")
            .member("PrepareForSleep")
            .build()?;
        let mut signals = MessageStream::for_match_rule(rule, &bus, None).await?;
        debug!("receiving sleep signals from logind");
        loop {
            tokio::select! {
                // A new owner comes before its first signal.
                biased;
                Some(change) = owners.next() => {
                    let change = change?;
                    let body = change.body();
                    if is_from(&change, Some(BUS))
                        && let Ok((LOGIND, _, new)) = body.deserialize::<(&str, &str, &str)>()
                    {
                        owner = Some(new.to_owned()).filter(|new| !new.is_empty());
                    }
                }
                signal = signals.next() => {
                    let Some(signal) = signal else {
                        return Ok(());
                    };
                    // The bus delivers signals of any program that are addressed to this connection.
                    let signal = signal?;
                    if !is_from(&signal, owner.as_deref()) {
                        debug!("ignored a sleep signal that is not from logind");
                        continue;
                    }
                    match signal.body().deserialize::<bool>() {
                        Ok(asleep) if sender.send(asleep).await.is_err() => return Ok(()),
                        Ok(_) => {}
                        Err(error) => debug!(%error, "ignored a sleep signal with another body"),
                    }
                }
            }
        }
    }

    /// The unique name of logind's connection, if it is running.
    async fn owner_of(bus: &Connection) -> Option<String> {
        let path = "/org/freedesktop/DBus";
        let asked = bus.call_method(Some(BUS), path, Some(BUS), "GetNameOwner", &(LOGIND,));
        asked.await.ok()?.body().deserialize().ok()
    }

    /// Whether the bus names this sender in a message.
    fn is_from(message: &Message, sender: Option<&str>) -> bool {
        let header = message.header();
        let named = header.sender().map(UniqueName::as_str);
        named.is_some() && named == sender
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_show_the_time_slept() {
        let second = Duration::from_secs;
        let mut slept = SleepClock(second(100));
        assert_eq!(slept.observe(second(100)), None);
        assert_eq!(slept.observe(second(100) + TOLERANCE), None);
        assert_eq!(
            slept.observe(second(135)),
            Some(Duration::from_millis(34_500))
        );
        assert_eq!(slept.observe(second(135)), None);
        // The kernel never does this; it must not panic.
        assert_eq!(slept.observe(second(1)), None);
    }

    #[tokio::test]
    async fn a_clock_that_does_not_jump_reports_no_sleep() {
        let watch = SleepWatch::open().expect("the kernel has timers");
        assert_eq!(watch.timer.get_ref().jumped(), Ok(false));
        assert!(total_sleep().is_ok());
    }
}
