//! One epoll set of all sockets of a kind, which is itself a descriptor to wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// How many ready sockets one look names.
const READY: usize = 64;

/// The set and what the last look at it found.
#[derive(Debug)]
pub(super) struct Readiness {
    set: Epoll,
    found: [EpollEvent; READY],
}

impl Readiness {
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

    /// Watches a socket until it is closed; `token` names it afterwards.
    ///
    /// # Errors
    /// When the kernel has no room for it.
    pub(super) fn watch(
        &self,
        socket: impl AsFd,
        token: u64,
        interest: EpollFlags,
    ) -> io::Result<()> {
        let event = EpollEvent::new(interest, token);
        Ok(self.set.add(socket, event)?)
    }

    /// Looks which sockets are ready, and answers how many [`Readiness::ready`] can name.
    ///
    /// # Errors
    /// When the set cannot be read.
    pub(super) fn look(&mut self) -> io::Result<usize> {
        match self.set.wait(&mut self.found, EpollTimeout::ZERO) {
            Err(Errno::EINTR) => Ok(0),
            looked => Ok(looked?),
        }
    }

    /// A socket that the last look found, and what it is ready for.
    pub(super) fn ready(&self, at: usize) -> (u64, EpollFlags) {
        let event = self.found[at];
        (event.data(), event.events())
    }
}

/// Readable while a socket is ready.
impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.0.as_fd()
    }
}
