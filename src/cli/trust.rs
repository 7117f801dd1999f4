//! Whether a file is safe to obey with privileges: nobody but root and we can change it, or what leads to it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Component, Path, PathBuf};

use nix::unistd::Uid;

/// Why a file cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Distrust {
    /// A stretch of the path cannot be looked at.
    #[error("cannot look at {}", path.display())]
    Hidden {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// Somebody else owns the file, or something on the way to it.
    #[error("{} belongs to user {owner}, who could change it: chown root {0}", path.display())]
    Owner {
        /// What.
        path: PathBuf,
        /// Whose.
        owner: u32,
    },
    /// Others may write the file, or replace something on the way to it.
    #[error("{} has mode {mode:04o}, so that others could change it: chmod go-w {0}", path.display())]
    Writable {
        /// What.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// Links that are followed before a path counts as endless, as the kernel has it (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// Follows a path as the kernel does, link by link, and judges everything that it touches.
///
/// # Errors
/// The first thing on the way that others than root and `me` could change.
pub(super) fn trust(file: &Path, me: Uid) -> Result<(), Distrust> {
    let me = me.as_raw();
    let hidden = |path: &Path, cause| Distrust::Hidden {
        path: path.to_owned(),
        cause,
    };
    let file = path::absolute(file).map_err(|cause| hidden(file, cause))?;
    let mut ahead = parts(&file);
    let mut here = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(part);
        let found = fs::symlink_metadata(&next).map_err(|cause| hidden(&next, cause))?;
        judge(&next, found.uid(), found.mode(), kind(&found), me)?;
        if !found.is_symlink() {
            here = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(hidden(
                &file,
                io::Error::from_raw_os_error(nix::libc::ELOOP),
            ));
        }
        let target = fs::read_link(&next).map_err(|cause| hidden(&next, cause))?;
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
        for part in parts(&target).into_iter().rev() {
            ahead.push_front(part);
        }
    }
    Ok(())
}

/// What a path is made of, the root first where it begins with it.
fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

/// What matters of a file's type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    Link,
    Other,
}

fn kind(found: &Metadata) -> Kind {
    match () {
        () if found.is_dir() => Kind::Directory,
        () if found.is_symlink() => Kind::Link,
        () => Kind::Other,
    }
}

fn judge(path: &Path, owner: u32, mode: u32, kind: Kind, me: u32) -> Result<(), Distrust> {
    let path = path.to_owned();
    if owner != 0 && owner != me {
        return Err(Distrust::Owner { path, owner });
    }
    let mode = mode & 0o7777;
    // In a sticky directory nobody replaces what is another's; a link's own mode means nothing.
    let sticky = kind == Kind::Directory && mode & 0o1000 != 0;
    if mode & 0o022 != 0 && !sticky && kind != Kind::Link {
        return Err(Distrust::Writable { path, mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    }

    fn writable(file: &Path) -> PathBuf {
        match trust(file, Uid::effective()) {
            Err(Distrust::Writable { path, .. }) => path,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn root_and_we_may_and_nobody_else() {
        let file = Path::new("/etc/voicelane.toml");
        let judge = |owner, mode, kind, me| judge(file, owner, mode, kind, me).is_ok();
        assert!(judge(0, 0o100_644, Kind::Other, 1000));
        assert!(judge(1000, 0o100_600, Kind::Other, 1000));
        assert!(!judge(1000, 0o100_600, Kind::Other, 0));
        assert!(!judge(0, 0o100_664, Kind::Other, 0));
        assert!(!judge(0, 0o100_646, Kind::Other, 0));
        assert!(judge(0, 0o041_777, Kind::Directory, 0));
        assert!(!judge(0, 0o040_777, Kind::Directory, 0));
        assert!(!judge(0, 0o101_666, Kind::Other, 0));
        assert!(judge(0, 0o120_777, Kind::Link, 0));
        assert!(!judge(1000, 0o120_777, Kind::Link, 0));
    }

    #[test]
    fn everything_on_the_way_is_looked_at() {
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
        trust(&file, Uid::effective()).expect("safe");
        trust(&link, Uid::effective()).expect("safe");

        chmod(&file, 0o664);
        assert_eq!(writable(&file), file);
        assert_eq!(writable(&link), file);
        chmod(&file, 0o644);
        chmod(&open, 0o777);
        assert_eq!(writable(&link), open);
        chmod(&open, 0o1777);
        trust(&link, Uid::effective()).expect("nobody replaces another's file there");

        let circle = closed.join("circle");
        symlink("circle", &circle).expect("a link");
        for lost in [circle, closed.join("none.toml")] {
            assert!(matches!(
                trust(&lost, Uid::effective()),
                Err(Distrust::Hidden { .. })
            ));
        }
    }
}
