//! Checks that only root and this user can change a file or a directory of its path.

use std::collections::VecDeque;
use std::ffi::{CString, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Component, Path, PathBuf};

use nix::unistd::{Uid, User, getgrouplist};

/// The reason why a file is not safe to use with privileges.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnsafePermissions {
    /// The permissions of a path cannot be read.
    #[error("cannot read the permissions of {}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        cause: io::Error,
    },
    /// Another user owns the file or a directory of its path.
    #[error("user {owner} owns {} and could change it: chown root {0}", path.display())]
    Owner {
        /// The path.
        path: PathBuf,
        /// User ID of the owner.
        owner: u32,
    },
    /// The user of the service cannot read the file, or pass a directory of its path.
    #[error("user {user} of the service cannot read {}: chmod {remedy} {0}", path.display())]
    NotReadable {
        /// The path.
        path: PathBuf,
        /// The user.
        user: String,
        /// The mode that is missing.
        remedy: &'static str,
    },
    /// Other users can write the file or a directory of its path.
    #[error("other users can write {} (mode {mode:04o}): chmod go-w {0}", path.display())]
    Writable {
        /// The path.
        path: PathBuf,
        /// Its mode, without the file type.
        mode: u32,
    },
}

/// Number of symbolic links that the kernel follows in a path (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// Checks every file, directory and symbolic link that the kernel visits to resolve a path.
///
/// # Errors
/// The first of them that users other than root and `me` can change.
pub(super) fn check_path(file: &Path, me: Uid) -> Result<(), UnsafePermissions> {
    check(file, me).map(drop)
}

/// Does the same for a directory in which only root and `me` may create files.
///
/// # Errors
/// As [`check_path`], and for a sticky directory that other users can write.
pub(super) fn check_directory(dir: &Path, me: Uid) -> Result<(), UnsafePermissions> {
    match check(dir, me)? {
        Some(metadata) if metadata.mode() & 0o022 != 0 => Err(UnsafePermissions::Writable {
            path: dir.to_owned(),
            mode: metadata.mode() & 0o7777,
        }),
        _ => Ok(()),
    }
}

/// Checks the path and returns the metadata of its end.
fn check(file: &Path, me: Uid) -> Result<Option<Metadata>, UnsafePermissions> {
    let me = me.as_raw();
    let mut last = None;
    let unreadable = |path: &Path, cause| UnsafePermissions::Unreadable {
        path: path.to_owned(),
        cause,
    };
    let file = path::absolute(file).map_err(|cause| unreadable(file, cause))?;
    let mut remaining = parts(&file);
    let mut current = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = remaining.pop_front() {
        if part == ".." {
            current.pop();
            continue;
        }
        let next = current.join(part);
        let metadata = fs::symlink_metadata(&next).map_err(|cause| unreadable(&next, cause))?;
        check_owner_and_mode(&next, metadata.uid(), metadata.mode(), kind(&metadata), me)?;
        if !metadata.is_symlink() {
            current = next;
            last = Some(metadata);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(unreadable(
                &file,
                io::Error::from_raw_os_error(nix::libc::ELOOP),
            ));
        }
        let target = fs::read_link(&next).map_err(|cause| unreadable(&next, cause))?;
        if target.is_absolute() {
            current = PathBuf::from("/");
        }
        for part in parts(&target).into_iter().rev() {
            remaining.push_front(part);
        }
    }
    Ok(last)
}

/// Checks that a user can read a file, by the modes of the file and of its directories.
///
/// # Errors
/// The first path that the user cannot pass, or the file.
pub(super) fn check_readable(file: &Path, user: &User) -> Result<(), UnsafePermissions> {
    let unreadable = |cause: io::Error| UnsafePermissions::Unreadable {
        path: file.to_owned(),
        cause,
    };
    let real = file.canonicalize().map_err(unreadable)?;
    let name = CString::new(user.name.as_str()).unwrap_or_default();
    let groups = getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid]);
    let mut paths: Vec<_> = real.ancestors().collect();
    paths.reverse();
    for path in paths {
        let metadata = fs::metadata(path).map_err(unreadable)?;
        let (needed, remedy) = if metadata.is_dir() {
            (1, "o+x")
        } else {
            (4, "o+r")
        };
        let shift = if metadata.uid() == user.uid.as_raw() {
            6
        } else if groups.iter().any(|group| group.as_raw() == metadata.gid()) {
            3
        } else {
            0
        };
        if !user.uid.is_root() && metadata.mode() >> shift & needed == 0 {
            return Err(UnsafePermissions::NotReadable {
                path: path.to_owned(),
                user: user.name.clone(),
                remedy,
            });
        }
    }
    Ok(())
}

/// The components of a path without `.`; an absolute path starts with the root.
fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

/// The file types that the check distinguishes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Directory,
    Link,
    Other,
}

fn kind(metadata: &Metadata) -> FileKind {
    match () {
        () if metadata.is_dir() => FileKind::Directory,
        () if metadata.is_symlink() => FileKind::Link,
        () => FileKind::Other,
    }
}

fn check_owner_and_mode(
    path: &Path,
    owner: u32,
    mode: u32,
    kind: FileKind,
    me: u32,
) -> Result<(), UnsafePermissions> {
    let path = path.to_owned();
    if owner != 0 && owner != me && !is_unmapped(owner) {
        return Err(UnsafePermissions::Owner { path, owner });
    }
    let mode = mode & 0o7777;
    // Only its owner replaces a file of a sticky directory. The mode of a link has no effect.
    let sticky = kind == FileKind::Directory && mode & 0o1000 != 0;
    if mode & 0o022 != 0 && !sticky && kind != FileKind::Link {
        return Err(UnsafePermissions::Writable { path, mode });
    }
    Ok(())
}

/// The user id that the kernel shows for users that a user namespace does not map (user_namespaces(7)).
const OVERFLOW: u32 = 65_534;

/// Whether the owner is a user outside this user namespace, most likely root. Privileges in here end at the namespace, so
/// such an owner can do no more than its own ones.
fn is_unmapped(owner: u32) -> bool {
    owner == OVERFLOW && {
        let map = fs::read_to_string("/proc/self/uid_map");
        map.is_ok_and(|map| !maps(&map, owner))
    }
}

/// Whether a map has a user id: lines of first id inside, first id outside, and number.
fn maps(map: &str, user: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        match (first, count) {
            (Some(Ok(first)), Some(Ok(count))) => (first..first + count).contains(&user.into()),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    fn writable(file: &Path) -> PathBuf {
        match check_path(file, Uid::effective()) {
            Err(UnsafePermissions::Writable { path, .. }) => path,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_root_and_this_user_may_own_and_write() {
        let file = Path::new("/etc/voicelane.toml");
        let is_safe =
            |owner, mode, kind, me| check_owner_and_mode(file, owner, mode, kind, me).is_ok();
        assert!(is_safe(0, 0o100_644, FileKind::Other, 1000));
        assert!(is_safe(1000, 0o100_600, FileKind::Other, 1000));
        assert!(!is_safe(1000, 0o100_600, FileKind::Other, 0));
        assert!(!is_safe(0, 0o100_664, FileKind::Other, 0));
        assert!(!is_safe(0, 0o100_646, FileKind::Other, 0));
        assert!(is_safe(0, 0o041_777, FileKind::Directory, 0));
        assert!(!is_safe(0, 0o040_777, FileKind::Directory, 0));
        assert!(!is_safe(0, 0o101_666, FileKind::Other, 0));
        assert!(is_safe(0, 0o120_777, FileKind::Link, 0));
        assert!(!is_safe(1000, 0o120_777, FileKind::Link, 0));
    }

    #[test]
    fn owners_outside_a_user_namespace_are_unmapped() {
        assert!(maps("         0          0 4294967295\n", OVERFLOW));
        assert!(!maps("         0       1000          1\n", OVERFLOW));
        assert!(maps("0 1000 1\n1 100000 65536\n", OVERFLOW));
        assert!(!maps("", OVERFLOW) && !maps("0 x 1", 1));
        assert!(!is_unmapped(1000));
    }

    #[test]
    fn the_user_of_the_service_needs_read_permission() {
        let dir = tempfile::tempdir().expect("a directory");
        chmod(dir.path(), 0o755);
        let file = dir.path().join("it.toml");
        fs::write(&file, "version = 1").expect("a file");
        let nobody = User::from_name("nobody")
            .expect("it can be read")
            .expect("it is everywhere");
        let denied = || match check_readable(&file, &nobody) {
            Err(UnsafePermissions::NotReadable { path, remedy, .. }) => Some((path, remedy)),
            other => other.map(|()| None).expect("the paths can be read"),
        };
        chmod(&file, 0o644);
        assert_eq!(denied(), None);
        chmod(&file, 0o600);
        assert_eq!(denied(), Some((file.clone(), "o+r")));
        chmod(dir.path(), 0o700);
        let real = dir.path().canonicalize().expect("it exists");
        assert_eq!(denied(), Some((real, "o+x")));
    }

    #[test]
    fn every_component_and_link_of_the_path_is_checked() {
        let dir = tempfile::tempdir().expect("a directory");
        let (open, closed) = (dir.path().join("open"), dir.path().join("closed"));
        for dir in [&open, &closed] {
            fs::create_dir(dir).expect("a directory");
            chmod(dir, 0o755);
        }
        let file = open.join("it.toml");
        fs::write(&file, "version = 1").expect("a file");
        chmod(&file, 0o644);
        let link = closed.join("it.toml");
        symlink("../open/./it.toml", &link).expect("a link");
        check_path(&file, Uid::effective()).expect("safe");
        check_path(&link, Uid::effective()).expect("safe");

        chmod(&file, 0o664);
        assert_eq!(writable(&file), file);
        assert_eq!(writable(&link), file);
        chmod(&file, 0o644);
        chmod(&open, 0o777);
        assert_eq!(writable(&link), open);
        chmod(&open, 0o1777);
        check_path(&link, Uid::effective()).expect("only its owner replaces a file there");

        let link_loop = closed.join("loop");
        symlink("loop", &link_loop).expect("a link");
        for missing in [link_loop, closed.join("none.toml")] {
            assert!(matches!(
                check_path(&missing, Uid::effective()),
                Err(UnsafePermissions::Unreadable { .. })
            ));
        }
    }
}
