//! The asking side.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reply::{Body, Reply, Status};
use super::request::Request;
use super::{LARGEST_REPLY, SOCKET};

/// How long the service may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No service listens.
    #[error(
        "voicelane is not running (nothing listens on {0}): start it with `sudo systemctl start voicelane` or `sudo voicelane run`"
    )]
    NotRunning(PathBuf),
    /// The socket is not ours to use.
    #[error(
        "no permission to use {0}: run this command as root or as a member of a group in [control]"
    )]
    Denied(PathBuf),
    /// The service hung up.
    #[error("the service is busy: try again")]
    Busy,
    /// The service refused or failed.
    #[error("the service refused the request: {0}")]
    Refused(String),
    /// The conversation broke off.
    #[error("could not communicate with the service on {path}")]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

/// Asks the service whose runtime directory this is, and waits for the answer.
///
/// # Errors
/// [`AskError`], with what to do about it.
pub fn ask(runtime_dir: &Path, request: Request) -> Result<Reply, AskError> {
    let path = runtime_dir.join(SOCKET);
    let reply = converse(&path, request).map_err(|source| match source.kind() {
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
        Body::Error(why) => Err(AskError::Refused(why)),
        _ => Ok(reply),
    }
}

/// Asks for the status.
///
/// # Errors
/// [`AskError`].
pub fn status(runtime_dir: &Path) -> Result<Status, AskError> {
    let Body::Status(status) = ask(runtime_dir, Request::Status)?.body else {
        return Err(AskError::Refused("the reply is not a status".to_owned()));
    };
    Ok(*status)
}

fn converse(path: &Path, request: Request) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // A service that turns us away says why before it has read what we want.
    let asked = stream.write_all(format!("{}\n", request.line()).as_bytes());
    let mut reply = Vec::new();
    BufReader::new(stream.take(LARGEST_REPLY)).read_until(b'\n', &mut reply)?;
    if reply.is_empty() {
        asked?;
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(serde_json::from_slice(&reply)?)
}
