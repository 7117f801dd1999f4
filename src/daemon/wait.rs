//! What the thread that carries packets sleeps for.
//!
//! One epoll set of four: the TUN, the mailbox, and the relay's two sets, which hold the sockets. However many sockets
//! are ready, the TUN has a place of its own among the four and cannot be crowded out by them.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Something to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A packet may be in the TUN.
    Device,
    /// A datagram or an error may be at a socket.
    Relay,
    /// Something may have happened to a TCP connection.
    Connections,
    /// A letter may be in the mailbox.
    Mailbox,
}

const SOURCES: [Source; 4] = [
    Source::Device,
    Source::Relay,
    Source::Connections,
    Source::Mailbox,
];

/// The set.
#[derive(Debug)]
pub(super) struct Wait(Epoll);

/// What the last wait found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready([bool; SOURCES.len()]);

impl Ready {
    pub(super) fn has(self, source: Source) -> bool {
        self.0[source as usize]
    }
}

impl Wait {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Waits for this, too, until it is closed.
    pub(super) fn watch(&self, source: Source, what: impl AsFd) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, source as u64);
        Ok(self.0.add(what, event)?)
    }

    /// Waits until something is ready or `due` has come. A signal ends the wait early.
    pub(super) fn wait(&self, due: Option<Instant>) -> io::Result<Ready> {
        self.sleep(due.map_or(EpollTimeout::NONE, |due| {
            timeout(due.saturating_duration_since(Instant::now()))
        }))
    }

    /// Looks what is ready, and waits for nothing.
    pub(super) fn look(&self) -> io::Result<Ready> {
        self.sleep(EpollTimeout::ZERO)
    }

    fn sleep(&self, timeout: EpollTimeout) -> io::Result<Ready> {
        let mut found = [EpollEvent::empty(); SOURCES.len()];
        let count = match self.0.wait(&mut found, timeout) {
            Err(Errno::EINTR) => 0,
            waited => waited?,
        };
        let mut ready = Ready::default();
        for event in &found[..count] {
            let source = SOURCES.into_iter().find(|it| *it as u64 == event.data());
            ready.0[source.expect("one of those that were added") as usize] = true;
        }
        Ok(ready)
    }
}

/// In whole milliseconds, the next greater one: waking up too early means to wait once more.
fn timeout(left: Duration) -> EpollTimeout {
    let whole = left.as_nanos().div_ceil(1_000_000);
    EpollTimeout::try_from(i32::try_from(whole).unwrap_or(i32::MAX))
        .expect("a positive number of milliseconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_for_a_millisecond_rather_too_long() {
        let millis = |nanos| i32::from(timeout(Duration::from_nanos(nanos)));
        assert_eq!([0, 1, 1_000_000, 1_000_001].map(millis), [0, 1, 1, 2]);
        assert_eq!(i32::from(timeout(Duration::MAX)), i32::MAX);
    }

    #[test]
    fn it_names_what_is_ready_and_nothing_else() {
        let wait = Wait::new().expect("an epoll set");
        let (one, other) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
        wait.watch(Source::Device, &one).expect("room");
        wait.watch(Source::Mailbox, &other).expect("room");
        let now = Some(Instant::now());
        assert!(!wait.wait(now).expect("a set").has(Source::Device));
        other.send(b"packet").expect("room");
        let ready = wait.wait(None).expect("a set");
        assert!(ready.has(Source::Device) && !ready.has(Source::Mailbox));
    }
}
