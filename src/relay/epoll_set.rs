//! One epoll set of all sockets of a kind. Others may be guests in it, or it may be watched itself as one descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// How much one look names.
pub(super) const READY: usize = 64;

/// Something that is no socket and is waited for with them. Its number is below 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u8);

/// What a wait has found, besides sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadyEvents {
    guests: u32,
    is_full: bool,
}

/// The set and what the last look at it found.
#[derive(Debug)]
pub(super) struct EpollSet {
    set: Epoll,
    found: [EpollEvent; READY],
}

impl EpollSet {
    /// Makes an empty set.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            set: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            found: [EpollEvent::empty(); READY],
        })
    }

    /// Watches a descriptor until it is closed; `token` names it afterwards.
    ///
    /// # Errors
    /// When the kernel has no room for it.
    pub(super) fn watch(
        &self,
        descriptor: impl AsFd,
        token: u64,
        interest: EpollFlags,
    ) -> io::Result<()> {
        let event = EpollEvent::new(interest, token);
        Ok(self.set.add(descriptor, event)?)
    }

    /// Looks what is ready, and answers how much [`EpollSet::ready`] can name.
    ///
    /// # Errors
    /// When the set cannot be read.
    pub(super) fn look(&mut self) -> io::Result<usize> {
        self.wait(Some(Duration::ZERO))
    }

    /// Does the same once something is ready or the time is over. A signal ends the wait early.
    ///
    /// # Errors
    /// When the set cannot be read.
    pub(super) fn wait(&mut self, time: Option<Duration>) -> io::Result<usize> {
        let timeout = time.map_or(EpollTimeout::NONE, timeout);
        match self.set.wait(&mut self.found, timeout) {
            Err(Errno::EINTR) => Ok(0),
            queue_delay => Ok(queue_delay?),
        }
    }

    /// Something that the last look found, and what it is ready for.
    pub(super) fn ready(&self, at: usize) -> (u64, EpollFlags) {
        let event = self.found[at];
        (event.data(), event.events())
    }
}

/// Readable while something is ready.
impl AsFd for EpollSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.0.as_fd()
    }
}

impl Token {
    /// No socket has this slot: mappings are far fewer.
    const SLOT: u64 = u32::MAX as u64;

    pub(super) const fn token(self) -> u64 {
        (self.0 as u64) << 32 | Self::SLOT
    }
}

impl ReadyEvents {
    /// The guests among the first `count` that a look found.
    pub(super) fn among(readiness: &EpollSet, count: usize) -> Self {
        let tokens = (0..count).map(|at| readiness.ready(at).0);
        let guests = tokens.filter(|token| token & Token::SLOT == Token::SLOT);
        Self {
            guests: guests.fold(0, |all, token| all | 1 << (token >> 32)),
            is_full: count == READY,
        }
    }

    /// Whether a guest is ready.
    #[must_use]
    pub const fn has(self, guest: Token) -> bool {
        self.guests >> guest.0 & 1 == 1
    }

    /// Whether there may be more than was found: as long as so many are ready, a guest comes up once in a while only.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.is_full
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
    fn it_names_the_guests_that_are_ready_and_no_others() {
        let mut readiness = EpollSet::new().expect("an epoll set");
        let (one, other) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
        let [first, last] = [Token(0), Token(31)];
        for (socket, guest) in [(&one, first), (&other, last)] {
            let watched = readiness.watch(socket, guest.token(), EpollFlags::EPOLLIN);
            watched.expect("room");
        }
        let mut found = |time| {
            let count = readiness.wait(time).expect("a set");
            let found = ReadyEvents::among(&readiness, count);
            [found.has(first), found.has(last), found.is_full()]
        };
        assert_eq!(found(Some(Duration::ZERO)), [false; 3]);
        other.send(b"packet").expect("room");
        assert_eq!(found(None), [true, false, false]);
        one.send(b"packet").expect("room");
        assert_eq!(found(None), [true, true, false]);
    }
}
