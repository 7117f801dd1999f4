//! Namespaces: a place apart from the machine, and the nodes of a world in it.

use std::fs::{self, File};
use std::io;
use std::sync::mpsc;
use std::thread;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Gid, Uid};

/// Why this machine gives no place apart.
#[derive(Debug, thiserror::Error)]
pub(super) enum IsolationError {
    /// The kernel or its configuration refuses an ordinary user.
    #[error(
        "this system gives an ordinary user no namespaces of its own: run `sudo voicelane demo`, or allow them with \
         sysctl (Debian: kernel.unprivileged_userns_clone=1; Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0; \
         everywhere: user.max_user_namespaces=10000)"
    )]
    User(#[source] io::Error),
    /// Root, and yet refused: a container without the capability.
    #[error(
        "root may make no namespaces here: run the container with --privileged, or with --cap-add SYS_ADMIN \
         --cap-add NET_ADMIN --security-opt apparmor=unconfined --device /dev/net/tun"
    )]
    Root(#[source] io::Error),
    /// The place's own file systems could not be set up.
    #[error("cannot mount {what} in a mount namespace of our own")]
    Mount {
        /// Which one.
        what: &'static str,
        #[source]
        source: Errno,
    },
    /// No TUN devices.
    #[error(
        "/dev/net/tun does not open: load the module (modprobe tun), or run the container with --device /dev/net/tun"
    )]
    Tun(#[source] io::Error),
}

/// Moves this process into namespaces of its own: mounts, an empty network, and users where it lacks the right.
///
/// All that is made there, files in the temporary directory included, ends with the process. Must be called while
/// the process has one thread.
///
/// # Errors
/// [`IsolationError`], which says what to do about it.
pub(super) fn isolate() -> Result<(), IsolationError> {
    let apart = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    if Uid::effective().is_root() {
        unshare(apart)
            .or_else(|_| become_root_of_a_new_user_namespace(apart))
            .map_err(IsolationError::Root)?;
    } else {
        become_root_of_a_new_user_namespace(apart).map_err(IsolationError::User)?;
    }
    File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(IsolationError::Tun)?;

    let mounting = |what| move |source| IsolationError::Mount { what, source };
    let nothing = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing).map_err(mounting("/ privately"))?;
    let temporary = std::env::temp_dir();
    mount(
        Some("tmpfs"),
        &temporary,
        Some("tmpfs"),
        MsFlags::empty(),
        nothing,
    )
    .map_err(mounting("a temporary directory"))?;
    // Containers see /proc/sys read-only; the settings of our own network namespaces must be written there.
    if statvfs("/proc/sys").is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY)) {
        let writable = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        mount(nothing, "/proc/sys", nothing, writable, nothing)
            .map_err(mounting("/proc/sys writable"))?;
    }
    Ok(())
}

fn become_root_of_a_new_user_namespace(apart: CloneFlags) -> io::Result<()> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER | apart)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

type Job = Box<dyn FnOnce() + Send>;

/// A host of the world: a network namespace, and a thread that lives in it.
///
/// The sockets, threads and processes made there belong to the namespace wherever they are used from. The thread
/// stays as long as the node, because a child process dies with the thread that started it.
pub(super) struct Node {
    jobs: mpsc::Sender<Job>,
    namespace: File,
}

impl Node {
    /// Makes a host without links.
    ///
    /// # Errors
    /// The kernel refuses a further namespace.
    pub(super) fn new(name: &'static str) -> anyhow::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, made) = mpsc::channel();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let namespace = unshare(CloneFlags::CLONE_NEWNET)
                    .map_err(io::Error::from)
                    .and_then(|()| File::open("/proc/thread-self/ns/net"));
                if ready.send(namespace).is_ok() {
                    for job in queue {
                        job();
                    }
                }
            })?;
        let namespace = made
            .recv()?
            .with_context(|| format!("no network namespace for {name}"))?;
        Ok(Self { jobs, namespace })
    }

    /// Runs `job` in the namespace and waits for it.
    pub(super) fn enter<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || drop(done.send(job())));
        self.jobs.send(job).expect("the thread lives with the node");
        result.recv().expect("a job that panics ends the demo")
    }

    /// Writes a setting below `/proc/sys/net` of this host.
    ///
    /// # Errors
    /// No such setting, or it is not ours to write.
    pub(super) fn set(&self, setting: &'static str, value: &'static str) -> anyhow::Result<()> {
        self.enter(move || fs::write(format!("/proc/sys/net/{setting}"), value))
            .with_context(|| format!("cannot set net/{setting} to {value}"))
    }

    /// The namespace, for moving a link into it.
    pub(super) fn namespace(&self) -> &File {
        &self.namespace
    }
}
