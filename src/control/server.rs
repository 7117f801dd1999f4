//! The server of the control socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::chown;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{debug, warn};

use super::listen_error::ListenError;
use super::peer::{Access, PeerCredentials, Privilege};
use super::reply::{Body, Reply};
use super::request::Request;
use super::user_rates::UserRates;
use super::{LARGEST_REQUEST, SOCKET};

/// The time limit of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of root at once. More wait in the kernel's backlog.
const ROOT_CONNECTIONS: usize = 16;

/// Connections of other users at once. More are closed.
const USER_CONNECTIONS: usize = 8;

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
        let listener = listen(&path, access).map_err(error)?;
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
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some((admitted, slot)) = admission.admit(&stream).await else {
                continue;
            };
            let requests = requests.clone();
            tokio::spawn(async move {
                match tokio::time::timeout(
                    CONNECTION_TIMEOUT,
                    serve_connection(stream, admitted, requests),
                )
                .await
                {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "a control connection failed"),
                    Err(_) => debug!("a control connection took too long"),
                }
                drop(slot);
            });
        }
    }
}

/// Creates a listening socket whose file permits what `access` permits. An existing file is replaced.
pub(super) fn listen(path: &Path, access: Access) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let (group, mode) = access.file_permissions();
    // The mode is closed before the group changes, so that no group has access too early.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    chown(path, None, group)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// The privilege of a client, or the reason for its rejection.
type Admission = Result<Privilege, &'static str>;

/// Limits connections at once and the request rate of each user. Root has slots of its own.
struct AdmissionControl {
    access: Access,
    rates: UserRates,
    root_slots: Arc<Semaphore>,
    user_slots: Arc<Semaphore>,
}

impl AdmissionControl {
    fn new(access: Access) -> Self {
        Self {
            access,
            rates: UserRates::default(),
            root_slots: Arc::new(Semaphore::new(ROOT_CONNECTIONS)),
            user_slots: Arc::new(Semaphore::new(USER_CONNECTIONS)),
        }
    }

    /// Admits or rejects a client. Returns none if the connection must be closed without a reply.
    async fn admit(&mut self, stream: &UnixStream) -> Option<(Admission, OwnedSemaphorePermit)> {
        let peer = PeerCredentials::of(stream)
            .inspect_err(|error| debug!(%error, "could not read the peer's credentials"))
            .ok()?;
        if peer.uid.is_root() {
            let slot = Arc::clone(&self.root_slots).acquire_owned().await;
            return Some((
                Ok(Privilege::Write),
                slot.expect("the semaphore is never closed"),
            ));
        }
        let slot = Arc::clone(&self.user_slots).try_acquire_owned().ok()?;
        if !self.rates.allows(peer.uid.as_raw(), Instant::now()) {
            return Some((Err("too many requests: send fewer"), slot));
        }
        let granted = self.access.grants(&peer);
        Some((
            granted.ok_or(
                "permission denied: run this command as root or as a member of a group in [control]",
            ),
            slot,
        ))
    }
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
    admitted: Admission,
    requests: mpsc::Sender<PendingRequest>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let body = match admitted {
        Ok(privilege) => {
            let mut line = Vec::new();
            (&mut stream)
                .take(LARGEST_REQUEST)
                .read_until(b'\n', &mut line)
                .await?;
            answer(&line, privilege, &requests).await
        }
        Err(reason) => Body::Error(reason.to_owned()),
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
    if request.required_privilege() > privilege {
        return Body::Error(
            "permission denied: only root and members of admin_group in [control] may change the service"
                .to_owned(),
        );
    }
    forward(request, requests).await
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
