//! The listening side.

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

use super::pace::Paces;
use super::peer::{Access, Peer, Privilege};
use super::reply::{Body, Reply};
use super::request::Request;
use super::{LARGEST_REQUEST, SOCKET};

/// How long a peer may take over its request and its reply.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many of root's connections are served at once; more wait in the kernel's backlog.
const CONNECTIONS: usize = 16;

/// How many connections of others are served at once, beside root's; more are hung up on.
const GUESTS: usize = 8;

/// How many bytes after a request are read to be thrown away, before the peer is hung up on.
const LARGEST_REST: u64 = 1 << 20;

/// A request that waits for the service.
#[derive(Debug)]
pub struct Pending {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Body>,
}

/// The socket could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The group of the configuration does not exist.
    #[error(
        "the group {0:?} of [control] does not exist: create it (groupadd --system {0}) or remove the line"
    )]
    NoGroup(String),
    /// The file system refused.
    #[error("could not create the control socket {path}")]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A listening control socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    access: Access,
}

impl Server {
    /// Listens in the runtime directory. A file that a dead service left there is replaced: the caller holds the TUN's
    /// name, so no living one can own it.
    ///
    /// # Errors
    /// [`ListenError`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn listen(runtime_dir: &Path, access: Access) -> Result<Self, ListenError> {
        let path = runtime_dir.join(SOCKET);
        let at = |source| ListenError::Socket {
            path: path.clone(),
            source,
        };
        let listener = open(&path, access).map_err(at)?;
        Ok(Self {
            listener,
            path,
            access,
        })
    }

    /// Serves connections until the service is gone.
    pub async fn serve(self, requests: mpsc::Sender<Pending>) {
        let mut door = Door::new(self.access);
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Descriptors have run out, most likely: wait for some to come back rather than spin.
                    warn!(%error, "could not accept a control connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some((admitted, place)) = door.admit(&stream).await else {
                continue;
            };
            let requests = requests.clone();
            tokio::spawn(async move {
                match tokio::time::timeout(PATIENCE, converse(stream, admitted, requests)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "a control connection failed"),
                    Err(_) => debug!("a control connection took too long"),
                }
                drop(place);
            });
        }
    }
}

/// Makes a listening socket of which the file lets in whom `access` names. A file that a dead service left is replaced.
pub(super) fn open(path: &Path, access: Access) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let (group, mode) = access.of_file();
    // The mode comes first: with the group alone, the file would be open to it before it is meant to be.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    chown(path, None, group)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// What a peer may do, or why it is turned away.
type Admission = Result<Privilege, &'static str>;

/// Lets peers in: so many at once, so often each. Nobody can keep root out.
struct Door {
    access: Access,
    paces: Paces,
    places: Arc<Semaphore>,
    guests: Arc<Semaphore>,
}

impl Door {
    fn new(access: Access) -> Self {
        Self {
            access,
            paces: Paces::default(),
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            guests: Arc::new(Semaphore::new(GUESTS)),
        }
    }

    /// Admits a peer, or turns it away; without an answer where even that would be too much.
    async fn admit(&mut self, stream: &UnixStream) -> Option<(Admission, OwnedSemaphorePermit)> {
        let peer = Peer::of(stream)
            .inspect_err(|error| debug!(%error, "could not read the peer's credentials"))
            .ok()?;
        if peer.uid.is_root() {
            let place = Arc::clone(&self.places).acquire_owned().await;
            return Some((
                Ok(Privilege::Write),
                place.expect("the semaphore is never closed"),
            ));
        }
        let place = Arc::clone(&self.guests).try_acquire_owned().ok()?;
        if !self.paces.allows(peer.uid.as_raw(), Instant::now()) {
            return Some((Err("too many requests: send fewer"), place));
        }
        let granted = self.access.grants(&peer);
        Some((
            granted.ok_or(
                "permission denied: run this command as root or as a member of a group in [control]",
            ),
            place,
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

async fn converse(
    stream: UnixStream,
    admitted: Admission,
    requests: mpsc::Sender<Pending>,
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
        Err(why) => Body::Error(why.to_owned()),
    };
    let mut line = serde_json::to_vec(&Reply::new(body)).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.get_mut().write_all(&line).await?;
    stream.get_mut().shutdown().await?;
    // Closing on unread bytes would reset the connection, and the peer would not get to read its answer.
    tokio::io::copy(&mut stream.take(LARGEST_REST), &mut tokio::io::sink()).await?;
    Ok(())
}

async fn answer(line: &[u8], privilege: Privilege, requests: &mpsc::Sender<Pending>) -> Body {
    let request = match Request::parse(line) {
        Ok(request) => request,
        Err(fault) => return Body::Error(fault),
    };
    if request.needs() > privilege {
        return Body::Error(
            "permission denied: only root and members of admin_group in [control] may change the service"
                .to_owned(),
        );
    }
    ask(request, requests).await
}

/// Hands a request to the service and waits for the answer.
async fn ask(request: Request, requests: &mpsc::Sender<Pending>) -> Body {
    let (reply, answer) = oneshot::channel();
    let stopping = || Body::Error("the service is stopping".to_owned());
    match requests.send(Pending { request, reply }).await {
        Ok(()) => answer.await.unwrap_or_else(|_| stopping()),
        Err(_) => stopping(),
    }
}
