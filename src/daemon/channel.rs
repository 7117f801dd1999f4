//! Letters from the shell to the thread that carries packets, which sleeps in the kernel and is woken by a bell.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TryRecvError};

/// Makes a mailbox in which `room` letters may wait; senders wait when there are more.
///
/// # Errors
/// When the kernel gives no eventfd.
pub(super) fn mailbox<T>(room: usize) -> io::Result<(Sender<T>, Mailbox<T>)> {
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let bell = Arc::new(bell);
    let (letters, waiting) = mpsc::channel(room);
    let mailbox = Mailbox {
        waiting,
        bell: Arc::clone(&bell),
    };
    let bell = Bell(bell);
    Ok((Sender { letters, bell }, mailbox))
}

/// Where letters are put in.
#[derive(Debug)]
pub(super) struct Sender<T> {
    letters: mpsc::Sender<T>,
    /// Dropped after the channel, so that who is woken finds it closed.
    bell: Bell,
}

/// Where letters are taken out.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    waiting: mpsc::Receiver<T>,
    bell: Arc<EventFd>,
}

/// What is in a mailbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Post<T> {
    /// A letter; there may be more, and the bell goes on ringing.
    Letter(T),
    /// Nothing.
    Nothing,
    /// Nothing, and nobody is left who could send.
    Closed,
}

/// Rings at its end, too.
#[derive(Clone, Debug)]
struct Bell(Arc<EventFd>);

impl Bell {
    fn ring(&self) {
        // It fails only when it has rung 2^64 times, and then it rings.
        let _ = self.0.write(1);
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

impl<T> Sender<T> {
    /// Puts a letter in, once there is room.
    ///
    /// # Errors
    /// The letter, when nobody is left who could take it out.
    pub(super) async fn send(&self, letter: T) -> Result<(), SendError<T>> {
        self.letters.send(letter).await?;
        self.bell.ring();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            letters: self.letters.clone(),
            bell: self.bell.clone(),
        }
    }
}

impl<T> Mailbox<T> {
    /// Takes the next letter out, without waiting.
    pub(super) fn take(&mut self) -> Post<T> {
        // Silenced first: who sends after the look rings again. It refuses when it is silent already.
        let _ = self.bell.read();
        match self.waiting.try_recv() {
            Ok(letter) => {
                Bell(Arc::clone(&self.bell)).ring();
                Post::Letter(letter)
            }
            Err(TryRecvError::Empty) => Post::Nothing,
            Err(TryRecvError::Disconnected) => Post::Closed,
        }
    }

    /// Throws away whatever comes, until nobody is left who could send.
    pub(super) fn drain(mut self) {
        while self.waiting.blocking_recv().is_some() {}
    }
}

/// Readable while the bell rings.
impl<T> AsFd for Mailbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn rings(mailbox: &Mailbox<u8>) -> bool {
        let mut watched = [PollFd::new(mailbox.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::ZERO).expect("a descriptor") > 0
    }

    #[tokio::test]
    async fn it_rings_until_the_last_letter_is_out_and_at_the_end() {
        let (sender, mut mailbox) = mailbox(8).expect("an eventfd");
        assert!(!rings(&mailbox));
        sender.send(1).await.expect("a reader");
        sender.clone().send(2).await.expect("a reader");
        assert!(rings(&mailbox));
        assert_eq!(mailbox.take(), Post::Letter(1));
        assert!(rings(&mailbox), "there is another");
        assert_eq!(mailbox.take(), Post::Letter(2));
        assert_eq!(mailbox.take(), Post::Nothing);
        assert!(!rings(&mailbox));
        drop(sender);
        assert!(rings(&mailbox));
        assert_eq!(mailbox.take(), Post::Closed);
    }
}
