//! The credentials of a client, recorded by the kernel when it connected (unix(7)), and its privileges.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of_val;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::unistd::{Gid, Group, Uid};
use tokio::net::UnixStream;

/// Supplementary groups in the first request. The kernel reports if there are more.
const GROUPS: usize = 64;

/// A privilege; a later one includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privilege {
    /// Read a summary of the state, without addresses and calls. Every user may.
    Summary,
    /// Read the state.
    Read,
    /// Read and change the state.
    Write,
}

/// The groups with privileges.
///
/// Every user may connect, and the kernel's credentials of the client decide. Thus the service needs neither membership in
/// the groups nor the right to change the group of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    readers: Option<Gid>,
    admins: Option<Gid>,
}

impl Access {
    /// Root, the service's user and members of `admins` may write; members of `readers` may read.
    ///
    /// A group that does not exist grants nothing. The second value has a warning for each, with the remedy.
    #[must_use]
    pub fn of_groups(readers: Option<&str>, admins: Option<&str>) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let mut id = |key: &str, name: Option<&str>| {
            let name = name?;
            let group = group_id(name);
            if group.is_none() {
                warnings.push(format!(
                    "[control] {key} has no effect: the group {name:?} does not exist. Create it (groupadd --system \
                     {name}) and restart voicelane, or remove the line."
                ));
            }
            group
        };
        let access = Self {
            readers: id("group", readers),
            admins: id("admin_group", admins),
        };
        (access, warnings)
    }

    /// The privilege of a client.
    pub(super) fn grants(self, peer: &PeerCredentials) -> Privilege {
        let is_in = |group: Option<Gid>| group.is_some_and(|group| peer.groups.contains(&group));
        if peer.uid.is_root() || peer.uid == Uid::effective() || is_in(self.admins) {
            Privilege::Write
        } else if is_in(self.readers) {
            Privilege::Read
        } else {
            Privilege::Summary
        }
    }
}

fn group_id(name: &str) -> Option<Gid> {
    Some(Group::from_name(name).ok()??.gid)
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
    fn readers_read_admins_write_and_others_get_a_summary() {
        let gid = |gid| Some(Gid::from_raw(gid));
        let access = Access {
            readers: gid(50),
            admins: gid(60),
        };
        let granted = |uid, groups: &[u32]| access.grants(&peer(uid, groups));
        assert_eq!(granted(0, &[]), Privilege::Write);
        assert_eq!(granted(4_000, &[4_000, 60]), Privilege::Write);
        assert_eq!(granted(4_000, &[50, 60]), Privilege::Write);
        assert_eq!(granted(4_000, &[50]), Privilege::Read);
        assert_eq!(granted(4_000, &[4_000, 0]), Privilege::Summary);
        let closed = Access::default();
        assert_eq!(closed.grants(&peer(4_000, &[50, 60])), Privilege::Summary);
    }

    #[test]
    fn a_missing_group_is_named_and_grants_nothing() {
        let (access, warnings) = Access::of_groups(Some("no-such-group"), Some("root"));
        assert_eq!(access.readers, None);
        assert_eq!(access.admins, Some(Gid::from_raw(0)));
        let [warning] = &warnings[..] else {
            panic!("{warnings:?}")
        };
        assert!(
            warning.contains("groupadd --system no-such-group"),
            "{warning}"
        );
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
