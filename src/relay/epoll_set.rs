//! An epoll set of sockets. It may hold other descriptors too, and may itself be in another epoll set.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events returned by one call at most.
pub(super) const READY: usize = 64;

/// The token of a descriptor that is no socket of a mapping, 0 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u8);

/// The descriptors other than sockets that a wait found ready.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadyEvents {
    tokens: u32,
    is_full: bool,
}

/// The epoll set and the events of the last call.
#[derive(Debug)]
pub(super) struct EpollSet {
    set: Epoll,
    events: [EpollEvent; READY],
}

impl EpollSet {
    /// Creates an empty set.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            set: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: [EpollEvent::empty(); READY],
        })
    }

    /// Adds a descriptor until it is closed. Its events carry `token`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn watch(
        &self,
        descriptor: impl AsFd,
        token: u64,
        interest: EpollFlags,
    ) -> io::Result<()> {
        let event = EpollEvent::new(interest, token);
        Ok(self.set.add(descriptor, event)?)
    }

    /// Reads the ready events without waiting. Returns their number, for [`EpollSet::ready`].
    ///
    /// # Errors
    /// If the set cannot be read.
    pub(super) fn poll(&mut self) -> io::Result<usize> {
        self.wait(Some(Duration::ZERO))
    }

    /// Waits for an event or the end of `time`, then reads the ready events. A signal ends the wait early.
    ///
    /// # Errors
    /// If the set cannot be read.
    pub(super) fn wait(&mut self, time: Option<Duration>) -> io::Result<usize> {
        let timeout = time.map_or(EpollTimeout::NONE, timeout);
        match self.set.wait(&mut self.events, timeout) {
            Err(Errno::EINTR) => Ok(0),
            queue_delay => Ok(queue_delay?),
        }
    }

    /// Returns the token and the flags of an event.
    pub(super) fn ready(&self, at: usize) -> (u64, EpollFlags) {
        let event = self.events[at];
        (event.data(), event.events())
    }
}

/// Readable while an event is ready.
impl AsFd for EpollSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.0.as_fd()
    }
}

impl Token {
    /// A slot that no mapping has: mappings are far fewer.
    const SLOT: u64 = u32::MAX as u64;

    pub(super) const fn token(self) -> u64 {
        (self.0 as u64) << 32 | Self::SLOT
    }
}

impl ReadyEvents {
    /// Returns the tokens of other descriptors among the first `count` events.
    pub(super) fn among(set: &EpollSet, count: usize) -> Self {
        let tokens = (0..count).map(|at| set.ready(at).0);
        let others = tokens.filter(|token| token & Token::SLOT == Token::SLOT);
        Self {
            tokens: others.fold(0, |all, token| all | 1 << (token >> 32)),
            is_full: count == READY,
        }
    }

    /// Whether a descriptor is ready.
    #[must_use]
    pub const fn has(self, token: Token) -> bool {
        self.tokens >> token.0 & 1 == 1
    }

    /// Whether more may be ready than one call returns: some descriptors may be missing then.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.is_full
    }
}

/// Returns the time in whole milliseconds, rounded up: an early wake-up would only wait again.
fn timeout(left: Duration) -> EpollTimeout {
    let whole = left.as_nanos().div_ceil(1_000_000);
    EpollTimeout::try_from(i32::try_from(whole).unwrap_or(i32::MAX))
        .expect("a positive number of milliseconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_rounded_up_to_milliseconds() {
        let millis = |nanos| i32::from(timeout(Duration::from_nanos(nanos)));
        assert_eq!([0, 1, 1_000_000, 1_000_001].map(millis), [0, 1, 1, 2]);
        assert_eq!(i32::from(timeout(Duration::MAX)), i32::MAX);
    }

    #[test]
    fn only_ready_tokens_are_reported() {
        let mut set = EpollSet::new().expect("an epoll set");
        let (one, other) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
        let [first, last] = [Token(0), Token(31)];
        for (socket, token) in [(&one, first), (&other, last)] {
            let watched = set.watch(socket, token.token(), EpollFlags::EPOLLIN);
            watched.expect("added");
        }
        let mut ready = |time| {
            let count = set.wait(time).expect("a set");
            let ready = ReadyEvents::among(&set, count);
            [ready.has(first), ready.has(last), ready.is_full()]
        };
        assert_eq!(ready(Some(Duration::ZERO)), [false; 3]);
        other.send(b"packet").expect("sent");
        assert_eq!(ready(None), [true, false, false]);
        one.send(b"packet").expect("sent");
        assert_eq!(ready(None), [true, true, false]);
    }
}
