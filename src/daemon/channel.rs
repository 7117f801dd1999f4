//! A channel to the packet thread, with an eventfd for its `epoll_wait`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TryRecvError};

/// Creates a channel for `capacity` messages. Senders wait while it is full.
///
/// # Errors
/// When no eventfd can be created.
pub(super) fn channel<T>(capacity: usize) -> io::Result<(Sender<T>, Receiver<T>)> {
    let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let eventfd = Arc::new(eventfd);
    let (sender, messages) = mpsc::channel(capacity);
    let receiver = Receiver {
        messages,
        eventfd: Arc::clone(&eventfd),
    };
    let messages = sender;
    let eventfd = NotifyOnDrop(eventfd);
    Ok((Sender { messages, eventfd }, receiver))
}

/// The sending end.
#[derive(Debug)]
pub(super) struct Sender<T> {
    messages: mpsc::Sender<T>,
    /// Dropped after `messages`, so that the receiver finds the channel closed.
    eventfd: NotifyOnDrop,
}

/// The receiving end.
#[derive(Debug)]
pub(super) struct Receiver<T> {
    messages: mpsc::Receiver<T>,
    eventfd: Arc<EventFd>,
}

/// The result of [`Receiver::try_recv`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TryRecv<T> {
    /// A message. There may be more: the eventfd stays readable.
    Message(T),
    /// No message.
    Empty,
    /// No message, and no sender.
    Closed,
}

/// An eventfd that is also notified when a sender is dropped.
#[derive(Clone, Debug)]
struct NotifyOnDrop(Arc<EventFd>);

impl NotifyOnDrop {
    fn notify(&self) {
        // It fails only after 2^64 notifications, and is readable then.
        let _ = self.0.write(1);
    }
}

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.notify();
    }
}

impl<T> Sender<T> {
    /// Sends a message, and waits while the channel is full.
    ///
    /// # Errors
    /// The message, when there is no receiver.
    pub(super) async fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.messages.send(message).await?;
        self.eventfd.notify();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            messages: self.messages.clone(),
            eventfd: self.eventfd.clone(),
        }
    }
}

impl<T> Receiver<T> {
    /// Receives the next message without waiting.
    pub(super) fn try_recv(&mut self) -> TryRecv<T> {
        // Reset before the look, so that a later message notifies again. An error means that it was reset already.
        let _ = self.eventfd.read();
        match self.messages.try_recv() {
            Ok(message) => {
                NotifyOnDrop(Arc::clone(&self.eventfd)).notify();
                TryRecv::Message(message)
            }
            Err(TryRecvError::Empty) => TryRecv::Empty,
            Err(TryRecvError::Disconnected) => TryRecv::Closed,
        }
    }

    /// Discards all messages until there is no sender.
    pub(super) fn drain(mut self) {
        while self.messages.blocking_recv().is_some() {}
    }
}

/// Readable while there are messages, and after the last sender.
impl<T> AsFd for Receiver<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn is_readable(receiver: &Receiver<u8>) -> bool {
        let mut watched = [PollFd::new(receiver.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::ZERO).expect("a descriptor") > 0
    }

    #[tokio::test]
    async fn the_eventfd_is_readable_until_the_last_message_and_at_the_end() {
        let (sender, mut receiver) = channel(8).expect("an eventfd");
        assert!(!is_readable(&receiver));
        sender.send(1).await.expect("a reader");
        sender.clone().send(2).await.expect("a reader");
        assert!(is_readable(&receiver));
        assert_eq!(receiver.try_recv(), TryRecv::Message(1));
        assert!(is_readable(&receiver), "there is another");
        assert_eq!(receiver.try_recv(), TryRecv::Message(2));
        assert_eq!(receiver.try_recv(), TryRecv::Empty);
        assert!(!is_readable(&receiver));
        drop(sender);
        assert!(is_readable(&receiver));
        assert_eq!(receiver.try_recv(), TryRecv::Closed);
    }
}
