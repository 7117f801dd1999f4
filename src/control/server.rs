//! The listening side.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User, chown, getgrouplist};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::reply::{Body, Reply};
use super::request::{Envelope, Request};
use super::{LARGEST_REQUEST, SOCKET};

/// How long a peer may take over its request and its reply.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many connections are served at once; more wait in the kernel's backlog.
const CONNECTIONS: usize = 16;

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

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    group: Option<Gid>,
}

/// The socket could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The group of the configuration does not exist.
    #[error(
        "the group {0:?} of [control] does not exist: create it (groupadd --system {0}) or take the line out"
    )]
    NoGroup(String),
    /// The file system refused.
    #[error("could not set up the control socket {path}")]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Access {
    /// Root and the service's own user, and the members of `group` if one is named.
    ///
    /// # Errors
    /// [`ListenError::NoGroup`].
    pub fn of_group(group: Option<&str>) -> Result<Self, ListenError> {
        let Some(name) = group else {
            return Ok(Self { group: None });
        };
        match Group::from_name(name) {
            Ok(Some(group)) => Ok(Self {
                group: Some(group.gid),
            }),
            _ => Err(ListenError::NoGroup(name.to_owned())),
        }
    }

    /// Whether a peer may ask.
    fn admits(self, uid: Uid, gid: Gid) -> bool {
        may_change(uid) || self.group.is_some_and(|group| is_member(uid, gid, group))
    }
}

/// Whether a peer may change something: root, and the service's own user, as which its unit reloads it.
fn may_change(uid: Uid) -> bool {
    uid.is_root() || uid == Uid::effective()
}

fn is_member(uid: Uid, gid: Gid, group: Gid) -> bool {
    let supplementary = || {
        let user = User::from_uid(uid).ok().flatten()?;
        let name = std::ffi::CString::new(user.name).ok()?;
        getgrouplist(&name, user.gid).ok()
    };
    gid == group || supplementary().is_some_and(|groups| groups.contains(&group))
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
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(at)?;
        let mode = if access.group.is_some() { 0o660 } else { 0o600 };
        chown(&path, None, access.group).map_err(|errno| at(errno.into()))?;
        fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(at)?;
        Ok(Self {
            listener,
            path,
            access,
        })
    }

    /// Serves connections until the service is gone.
    pub async fn serve(self, requests: mpsc::Sender<Pending>) {
        let places = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        loop {
            let place = places
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Descriptors have run out, most likely: wait for some to come back rather than spin.
                    warn!(%error, "could not accept a control connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (access, requests) = (self.access, requests.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(PATIENCE, converse(stream, access, requests)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "a control connection failed"),
                    Err(_) => debug!("a control connection took too long"),
                }
                drop(place);
            });
        }
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
    access: Access,
    requests: mpsc::Sender<Pending>,
) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let mut stream = BufReader::new(stream);
    let (uid, gid) = (Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid()));
    let body = if access.admits(uid, gid) {
        let mut line = Vec::new();
        (&mut stream)
            .take(LARGEST_REQUEST)
            .read_until(b'\n', &mut line)
            .await?;
        answer(&line, uid, &requests).await
    } else {
        Body::Error(
            "permission denied: ask as root or as a member of the configured group".to_owned(),
        )
    };
    let mut line = serde_json::to_vec(&Reply::new(body)).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.get_mut().write_all(&line).await?;
    stream.get_mut().shutdown().await?;
    // Closing on unread bytes would reset the connection, and the peer would not get to read its answer.
    tokio::io::copy(&mut stream.take(LARGEST_REST), &mut tokio::io::sink()).await?;
    Ok(())
}

async fn answer(line: &[u8], uid: Uid, requests: &mpsc::Sender<Pending>) -> Body {
    let request = match Envelope::open(line) {
        Ok(request) if request.changes() && !may_change(uid) => {
            return Body::Error("permission denied: only root may change something".to_owned());
        }
        Ok(request) => request,
        Err(fault) => return Body::Error(fault),
    };
    let (reply, answer) = oneshot::channel();
    let stopping = || Body::Error("the service is stopping".to_owned());
    match requests.send(Pending { request, reply }).await {
        Ok(()) => answer.await.unwrap_or_else(|_| stopping()),
        Err(_) => stopping(),
    }
}
