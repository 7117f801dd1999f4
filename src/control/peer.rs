//! The credentials of a client, recorded by the kernel when it connected (unix(7)), and its privileges.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of_val;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::unistd::{Gid, Group, Uid};
use tokio::net::UnixStream;

use super::listen_error::ListenError;

/// Supplementary groups in the first request. The kernel reports if there are more.
const GROUPS: usize = 64;

/// A privilege; a later one includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privilege {
    /// Read the state.
    Read,
    /// Read and change the state.
    Write,
}

/// The groups with privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    readers: Option<Gid>,
    admins: Option<Gid>,
}

impl Access {
    /// Root, the service's user and members of `admins` may write; members of `readers` may read.
    ///
    /// # Errors
    /// [`ListenError::NoGroup`].
    pub fn of_groups(readers: Option<&str>, admins: Option<&str>) -> Result<Self, ListenError> {
        Ok(Self {
            readers: readers.map(group_id).transpose()?,
            admins: admins.map(group_id).transpose()?,
        })
    }

    /// The group and mode of the socket's file. A file has only one group: with two groups everybody may connect, and
    /// the credentials decide.
    pub(super) fn file_permissions(self) -> (Option<Gid>, u32) {
        match (self.readers, self.admins) {
            (None, None) => (None, 0o600),
            (Some(readers), Some(admins)) if readers != admins => (Some(readers), 0o666),
            (one, other) => (one.or(other), 0o660),
        }
    }

    /// The privilege of a client, if any.
    pub(super) fn grants(self, peer: &PeerCredentials) -> Option<Privilege> {
        let is_in = |group: Option<Gid>| group.is_some_and(|group| peer.groups.contains(&group));
        if peer.uid.is_root() || peer.uid == Uid::effective() || is_in(self.admins) {
            Some(Privilege::Write)
        } else {
            is_in(self.readers).then_some(Privilege::Read)
        }
    }
}

fn group_id(name: &str) -> Result<Gid, ListenError> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        _ => Err(ListenError::NoGroup(name.to_owned())),
    }
}

/// The credentials of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerCredentials {
    pub(super) uid: Uid,
    /// All groups of its process. The user database is not read, because it may be a slow server.
    groups: Vec<Gid>,
}

impl PeerCredentials {
    /// Reads the credentials from the kernel.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let mut groups = supplementary(stream)?;
        groups.push(Gid::from_raw(credentials.gid()));
        Ok(Self {
            uid: Uid::from_raw(credentials.uid()),
            groups,
        })
    }
}

fn supplementary(stream: &UnixStream) -> io::Result<Vec<Gid>> {
    let mut groups: Vec<libc::gid_t> = vec![0; GROUPS];
    loop {
        let size = size_of_val(groups.as_slice());
        let mut length = libc::socklen_t::try_from(size).expect("the kernel knows 65,536 groups");
        // SAFETY: the socket is open; the kernel writes at most `length` bytes, which the vector has, and sets `length`.
        let outcome = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let needed = length as usize / size_of::<libc::gid_t>();
        if outcome == 0 {
            groups.truncate(needed);
            return Ok(groups.into_iter().map(Gid::from_raw).collect());
        }
        let error = io::Error::last_os_error();
        // The buffer is too small; `length` is the required size.
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, groups: &[u32]) -> PeerCredentials {
        PeerCredentials {
            uid: Uid::from_raw(uid),
            groups: groups.iter().copied().map(Gid::from_raw).collect(),
        }
    }

    #[test]
    fn readers_read_admins_write_and_others_have_no_privilege() {
        let gid = |gid| Some(Gid::from_raw(gid));
        let access = Access {
            readers: gid(50),
            admins: gid(60),
        };
        let granted = |uid, groups: &[u32]| access.grants(&peer(uid, groups));
        assert_eq!(granted(0, &[]), Some(Privilege::Write));
        assert_eq!(granted(4_000, &[4_000, 60]), Some(Privilege::Write));
        assert_eq!(granted(4_000, &[50, 60]), Some(Privilege::Write));
        assert_eq!(granted(4_000, &[50]), Some(Privilege::Read));
        assert_eq!(granted(4_000, &[4_000, 0]), None);
        let closed = Access {
            readers: None,
            admins: None,
        };
        assert_eq!(closed.grants(&peer(4_000, &[50, 60])), None);
    }

    #[test]
    fn the_file_permits_no_more_than_necessary() {
        let mode = |readers: Option<u32>, admins: Option<u32>| {
            let gid = |gid: Option<u32>| gid.map(Gid::from_raw);
            let access = Access {
                readers: gid(readers),
                admins: gid(admins),
            };
            let (group, mode) = access.file_permissions();
            (group.map(Gid::as_raw), mode)
        };
        assert_eq!(mode(None, None), (None, 0o600));
        assert_eq!(mode(Some(50), None), (Some(50), 0o660));
        assert_eq!(mode(None, Some(60)), (Some(60), 0o660));
        assert_eq!(mode(Some(50), Some(50)), (Some(50), 0o660));
        assert_eq!(mode(Some(50), Some(60)), (Some(50), 0o666));
    }

    #[tokio::test]
    async fn credentials_are_those_of_this_process() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let peer = PeerCredentials::of(&ours).expect("the kernel knows");
        assert_eq!(peer.uid, Uid::effective());
        let mut groups = nix::unistd::getgroups().expect("ours");
        groups.push(Gid::effective());
        assert_eq!(peer.groups, groups);
    }
}
