//! The client of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reply::{Body, Reply, Status};
use super::request::Request;
use super::{LARGEST_REPLY, SOCKET};

/// The time limit for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// The service did not reply.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No service is running.
    #[error(
        "the service is not running (nothing listens on {0}): start it with `sudo systemctl start voicelane` or `sudo voicelane run`"
    )]
    NotRunning(PathBuf),
    /// The user may not use the socket.
    #[error(
        "no permission to use {0}: run this command as root or as a member of a group in [control]"
    )]
    Denied(PathBuf),
    /// The service closed the connection.
    #[error("the service is busy: try again")]
    Busy,
    /// The service refused the request or failed.
    #[error("the service refused the request: {0}")]
    Refused(String),
    /// The communication failed.
    #[error("could not communicate with the service on {path}")]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
}

/// Sends a request to the service of a runtime directory, and waits for the reply.
///
/// # Errors
/// [`AskError`], with the remedy.
pub fn ask(runtime_dir: &Path, request: Request) -> Result<Reply, AskError> {
    let path = runtime_dir.join(SOCKET);
    let reply = exchange(&path, request).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AskError::NotRunning(path.clone())
        }
        io::ErrorKind::PermissionDenied => AskError::Denied(path.clone()),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => AskError::Busy,
        _ => AskError::Io {
            path: path.clone(),
            source,
        },
    })?;
    match reply.body {
        Body::Error(reason) => Err(AskError::Refused(reason)),
        _ => Ok(reply),
    }
}

/// Requests the status.
///
/// # Errors
/// [`AskError`].
pub fn status(runtime_dir: &Path) -> Result<Status, AskError> {
    match ask(runtime_dir, Request::Status)?.body {
        Body::Status(status) => Ok(*status),
        Body::Summary(_) => Err(AskError::Denied(runtime_dir.join(SOCKET))),
        _ => Err(AskError::Refused("the reply is not a status".to_owned())),
    }
}

fn exchange(path: &Path, request: Request) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
    // A service that rejects the client replies before it has read the request.
    let sent = stream.write_all(format!("{}\n", request.line()).as_bytes());
    let mut reply = Vec::new();
    BufReader::new(stream.take(LARGEST_REPLY)).read_until(b'\n', &mut reply)?;
    if reply.is_empty() {
        sent?;
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(serde_json::from_slice(&reply)?)
}
