//! The server of the control socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::admission::{Admission, AdmissionControl};
use super::listen_error::ListenError;
use super::peer::{Access, PeerCredentials, Privilege};
use super::reply::{Body, Reply};
use super::request::Request;
use super::{LARGEST_REQUEST, SOCKET};

/// The time limit of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The time limit of a request's line, so that a half-open request frees its slot soon.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes after a request that are read and discarded before the connection is closed.
const MAX_SURPLUS: u64 = 1 << 20;

/// A request and the sender of its reply.
#[derive(Debug)]
pub struct PendingRequest {
    /// The request.
    pub request: Request,
    /// The sender of the reply.
    pub reply: oneshot::Sender<Body>,
}

/// A listening control socket. Its file is removed on drop.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    access: Access,
}

impl Server {
    /// Listens in the runtime directory. The file of a killed service is replaced: the caller has the TUN's name, so that
    /// no other service runs.
    ///
    /// # Errors
    /// [`ListenError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn listen(runtime_dir: &Path, access: Access) -> Result<Self, ListenError> {
        let path = runtime_dir.join(SOCKET);
        let error = |source| ListenError::Socket {
            path: path.clone(),
            source,
        };
        let listener = listen(&path).map_err(error)?;
        Ok(Self {
            listener,
            path,
            access,
        })
    }

    /// Serves connections until the service ends.
    pub async fn serve(self, requests: mpsc::Sender<PendingRequest>) {
        let mut admission = AdmissionControl::new(self.access);
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Most likely there are no free descriptors. Waiting avoids a busy loop.
                    warn!(%error, "could not accept a control connection");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let peer = match PeerCredentials::of(&stream) {
                Ok(peer) => peer,
                Err(error) => {
                    debug!(%error, "could not read the peer's credentials");
                    continue;
                }
            };
            let Some(admission) = admission.admit(&peer, Instant::now()) else {
                continue;
            };
            let requests = requests.clone();
            tokio::spawn(async move {
                let served = serve_connection(stream, &admission, requests);
                match timeout(CONNECTION_TIMEOUT, served).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "a control connection failed"),
                    Err(_) => debug!("a control connection took too long"),
                }
            });
        }
    }
}

/// Creates a listening socket to which every user may connect: the credentials of the client decide. An existing file is
/// replaced.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    Ok(listener)
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!(%error, path = %self.path.display(), "could not remove the control socket");
        }
    }
}

async fn serve_connection(
    stream: UnixStream,
    admission: &Admission,
    requests: mpsc::Sender<PendingRequest>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let body = if admission.is_over_rate {
        Body::Error("too many requests: send fewer".to_owned())
    } else {
        let mut line = Vec::new();
        let mut request = (&mut stream).take(LARGEST_REQUEST);
        timeout(REQUEST_TIMEOUT, request.read_until(b'\n', &mut line)).await??;
        answer(&line, admission.privilege, &requests).await
    };
    let mut line = serde_json::to_vec(&Reply::new(body)).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.get_mut().write_all(&line).await?;
    stream.get_mut().shutdown().await?;
    // Closing with unread bytes would reset the connection, and the client would lose its reply.
    tokio::io::copy(&mut stream.take(MAX_SURPLUS), &mut tokio::io::sink()).await?;
    Ok(())
}

async fn answer(
    line: &[u8],
    privilege: Privilege,
    requests: &mpsc::Sender<PendingRequest>,
) -> Body {
    let request = match Request::parse(line) {
        Ok(request) => request,
        Err(error) => return Body::Error(error),
    };
    let required = request.required_privilege();
    if required <= privilege {
        return forward(request, requests).await;
    }
    if request == Request::Status {
        return forward(Request::Summary, requests).await;
    }
    let whom = match required {
        Privilege::Write => {
            "only root and members of admin_group in [control] may change the service"
        }
        _ => "run this command as root or as a member of a group in [control]",
    };
    Body::Error(format!("permission denied: {whom}"))
}

/// Forwards a request to the service and waits for the reply.
async fn forward(request: Request, requests: &mpsc::Sender<PendingRequest>) -> Body {
    let (reply, answer) = oneshot::channel();
    let stopping = || Body::Error("the service is stopping".to_owned());
    match requests.send(PendingRequest { request, reply }).await {
        Ok(()) => answer.await.unwrap_or_else(|_| stopping()),
        Err(_) => stopping(),
    }
}
