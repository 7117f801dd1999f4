//! A netlink connection that reports its own end.
//!
//! rtnetlink runs a connection as a task. One refused send (`ENOBUFS`, most likely) ends the task for good. A dump that
//! ends with it looks like the dump of an empty kernel, and a change like an applied one. If an answer is lost for
//! lack of memory, the wait never ends. So [`NetlinkConnection::exchange`] checks each exchange, and the owner
//! replaces a closed connection.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Maximum time of an exchange. The kernel answers within milliseconds unless the answer was lost.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A task that exchanges messages with the kernel. Dropping the value ends the task.
#[derive(Debug)]
pub(crate) struct NetlinkConnection {
    task: JoinHandle<()>,
    is_closed: Arc<AtomicBool>,
}

impl Drop for NetlinkConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NetlinkConnection {
    /// Runs a connection as a task of the current tokio runtime.
    pub(crate) fn drive(mut work: impl Future<Output = ()> + Unpin + Send + 'static) -> Self {
        let is_closed = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&is_closed);
        let task = tokio::spawn(async move {
            (&mut work).await;
            // The flag is set before the channels of waiting callers close.
            ended.store(true, Ordering::Release);
            drop(work);
        });
        Self { task, is_closed }
    }

    /// Whether the connection must be replaced.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Waits for an exchange of requests and answers.
    ///
    /// # Errors
    /// `NotConnected` if the connection has closed, even if the exchange seems complete; `TimedOut` if the kernel does
    /// not answer.
    pub(crate) async fn exchange<T>(&self, operation: impl Future<Output = T>) -> io::Result<T> {
        self.exchange_within(TIMEOUT, operation).await
    }

    async fn exchange_within<T>(
        &self,
        limit: Duration,
        operation: impl Future<Output = T>,
    ) -> io::Result<T> {
        let outcome = timeout(limit, operation).await;
        if self.is_closed() {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the netlink connection is closed",
            ));
        }
        outcome.map_err(|_| {
            // Later answers could not be assigned to their requests.
            self.is_closed.store(true, Ordering::Release);
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
    async fn an_exchange_that_ends_with_the_connection_is_an_error() {
        let (end, ended) = oneshot::channel::<()>();
        let (answers, answered) = oneshot::channel::<()>();
        let work = Box::pin(async move {
            let _ = ended.await;
            // The end of the task closes the channel.
            drop(answers);
        });
        let connection = NetlinkConnection::drive(work);
        assert_eq!(
            connection
                .exchange(ready(7))
                .await
                .expect("the connection is open"),
            7
        );
        let _ = end.send(());
        let outcome = connection.exchange(answered).await;
        let error = outcome.expect_err("no answer came");
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        assert!(connection.is_closed());
    }

    #[tokio::test]
    async fn a_missing_answer_closes_the_connection() {
        let connection = NetlinkConnection::drive(pending());
        let moment = Duration::from_millis(1);
        let outcome = connection.exchange_within(moment, pending::<()>()).await;
        let error = outcome.expect_err("nothing came");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(connection.is_closed());
    }
}
