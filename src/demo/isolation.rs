//! Isolation of the demo from the machine: own mount and network namespaces, and a user namespace if needed.

use std::fs::{self, File};
use std::io;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Gid, Uid};

/// The reason why the demo cannot create its namespaces.
#[derive(Debug, thiserror::Error)]
pub(super) enum IsolationError {
    /// The kernel or its configuration refuses an ordinary user.
    #[error(
        "this system does not let an ordinary user create network namespaces: run `sudo {} demo`",
        program()
    )]
    User(#[source] io::Error),
    /// The process is root without the capability, as in a container.
    #[error(
        "root cannot create network namespaces here: run the container with --privileged, or with --cap-add SYS_ADMIN \
         --cap-add NET_ADMIN --security-opt apparmor=unconfined --device /dev/net/tun"
    )]
    Root(#[source] io::Error),
    /// A file system of the demo's own cannot be mounted.
    #[error("cannot mount {what} in a mount namespace")]
    Mount {
        /// The file system.
        what: &'static str,
        #[source]
        source: Errno,
    },
    /// The kernel offers no TUN devices.
    #[error(
        "cannot open /dev/net/tun: run `sudo modprobe tun`, or run the container with --device /dev/net/tun"
    )]
    Tun(#[source] io::Error),
}

/// The program as the user called it, for a command that works.
fn program() -> String {
    std::env::args()
        .next()
        .unwrap_or_else(|| "voicelane".to_owned())
}

/// Moves the process into a new mount namespace and an empty network namespace. Creates a user namespace first where the
/// process may not do that.
///
/// All objects there, files in the temporary directory included, end with the process. Must be called while
/// the process has one thread.
///
/// # Errors
/// [`IsolationError`], which names the remedy.
pub(super) fn isolate() -> Result<(), IsolationError> {
    let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    if Uid::effective().is_root() {
        unshare(namespaces)
            .or_else(|_| unshare_as_user(namespaces))
            .map_err(IsolationError::Root)?;
    } else {
        unshare_as_user(namespaces).map_err(IsolationError::User)?;
    }
    File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(IsolationError::Tun)?;

    let mount_error = |what| move |source| IsolationError::Mount { what, source };
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).map_err(mount_error("/ privately"))?;
    let (tmpfs, temporary) = (Some("tmpfs"), std::env::temp_dir());
    mount(tmpfs, &temporary, tmpfs, MsFlags::empty(), none)
        .map_err(mount_error("a temporary directory"))?;
    // A container has /proc/sys read-only, but the demo writes the settings of its own namespaces there.
    if statvfs("/proc/sys").is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY)) {
        let writable = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        mount(none, "/proc/sys", none, writable, none)
            .map_err(mount_error("/proc/sys writable"))?;
    }
    Ok(())
}

/// Creates the namespaces inside a new user namespace, in which the process is root.
fn unshare_as_user(namespaces: CloneFlags) -> io::Result<()> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER | namespaces)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}
