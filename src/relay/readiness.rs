//! One epoll set of all sockets, watched by the runtime as one descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How many ready sockets one look names.
const READY: usize = 64;

#[derive(Debug)]
struct Set(Epoll);

impl AsRawFd for Set {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// The set and what the last look at it found.
#[derive(Debug)]
pub(super) struct Readiness {
    set: AsyncFd<Set>,
    found: [EpollEvent; READY],
}

impl Readiness {
    /// Makes an empty set.
    ///
    /// # Errors
    /// When the kernel gives none.
    #[allow(unsafe_code)]
    pub(super) fn new() -> io::Result<Self> {
        let set = Set(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        // SAFETY: a `Set` owns one open descriptor and names the same one as long as it lives.
        let set = unsafe { AsyncFd::register_with_interest(set, Interest::READABLE) }?;
        Ok(Self {
            set,
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
        Ok(self.set.get_ref().0.add(socket, event)?)
    }

    /// Waits until a look may find something.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the runtime cannot watch the set.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.set.readable().await?.retain_ready();
        Ok(())
    }

    /// Looks which sockets are ready, and answers how many [`Readiness::ready`] can name.
    ///
    /// The runtime's view of the set is edge-triggered, so only a look that finds nothing clears it.
    ///
    /// # Errors
    /// When the set cannot be read.
    pub(super) fn look(&mut self) -> io::Result<usize> {
        let Self { set, found } = self;
        let looked = set.try_io(Interest::READABLE, |set| {
            match set.0.wait(found, EpollTimeout::ZERO)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                count => Ok(count),
            }
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            looked => looked,
        }
    }

    /// A socket that the last look found, and what it is ready for.
    pub(super) fn ready(&self, at: usize) -> (u64, EpollFlags) {
        let event = self.found[at];
        (event.data(), event.events())
    }
}
