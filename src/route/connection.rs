//! A netlink connection that knows when it has ended.
//!
//! The library's connection is a task, and a send that the kernel refuses once (`ENOBUFS`, most likely) ends it for good.
//! Whoever waits for answers then sees no more than their end: a dump that was cut off looks like one of a kernel that has
//! nothing, and a change like one that was made. An answer that is lost for want of memory, on the other hand, is waited
//! for without end. So every exchange is watched over by [`NetlinkConnection::attend`], and a connection that has ended is
//! replaced by its owner.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long an exchange may take: the kernel answers within milliseconds, unless the answer was lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// A task that carries requests to the kernel and answers back. It ends with this value.
#[derive(Debug)]
pub(crate) struct NetlinkConnection {
    task: JoinHandle<()>,
    has_ended: Arc<AtomicBool>,
}

impl Drop for NetlinkConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NetlinkConnection {
    /// Lets a connection do its work, as a task of the current tokio runtime.
    pub(crate) fn drive(mut work: impl Future<Output = ()> + Unpin + Send + 'static) -> Self {
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&has_ended);
        let task = tokio::spawn(async move {
            (&mut work).await;
            // Before those who wait for answers are told that there are no more of them.
            ended.store(true, Ordering::Release);
            drop(work);
        });
        Self { task, has_ended }
    }

    /// Whether it must be replaced.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Waits for an exchange of requests and answers.
    ///
    /// # Errors
    /// When the connection has ended, whatever the exchange seems to have brought, or the kernel does not answer.
    pub(crate) async fn attend<T>(&self, exchange: impl Future<Output = T>) -> io::Result<T> {
        self.attend_for(PATIENCE, exchange).await
    }

    async fn attend_for<T>(
        &self,
        patience: Duration,
        exchange: impl Future<Output = T>,
    ) -> io::Result<T> {
        let outcome = timeout(patience, exchange).await;
        if self.has_ended() {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the netlink connection has ended",
            ));
        }
        outcome.map_err(|_| {
            // Nobody knows any more which answer belongs to which request.
            self.has_ended.store(true, Ordering::Release);
            io::Error::new(io::ErrorKind::TimedOut, "the kernel does not answer")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_seems_complete_when_the_connection_ends_is_an_error() {
        let (end, ended) = oneshot::channel::<()>();
        let (answers, answered) = oneshot::channel::<()>();
        let work = Box::pin(async move {
            let _ = ended.await;
            // With the task's end the answers end.
            drop(answers);
        });
        let connection = NetlinkConnection::drive(work);
        assert_eq!(connection.attend(ready(7)).await.expect("it works"), 7);
        let _ = end.send(());
        let outcome = connection.attend(answered).await;
        let error = outcome.expect_err("no answer came");
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        assert!(connection.has_ended());
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_ends_the_connection() {
        let connection = NetlinkConnection::drive(pending());
        let moment = Duration::from_millis(1);
        let outcome = connection.attend_for(moment, pending::<()>()).await;
        let error = outcome.expect_err("nothing came");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(connection.has_ended());
    }
}
