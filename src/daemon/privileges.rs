//! Drops privileges once they are no longer needed.
//!
//! `CAP_NET_ADMIN` stays: routes, rules and sysctls change with the network, and each new socket needs a mark and an
//! IPsec bypass. All other capabilities are dropped from every set and cannot be gained again.

use caps::{CapSet, Capability};
use nix::sys::prctl::set_no_new_privs;

/// The capability that is kept.
const KEPT: Capability = Capability::CAP_NET_ADMIN;

/// An error while dropping privileges.
#[derive(Debug, thiserror::Error)]
pub(super) enum DropError {
    /// A capability set could not be changed.
    #[error("could not drop capabilities")]
    Capabilities(#[from] caps::errors::CapsError),
    /// `no_new_privs` could not be set.
    #[error("could not set no_new_privs")]
    NewPrivileges(#[source] nix::Error),
}

/// Drops everything but [`KEPT`] from the calling thread, and thus from threads that it starts later.
///
/// # Errors
/// [`DropError`].
pub(super) fn drop_all_but_needed() -> Result<(), DropError> {
    set_no_new_privs().map_err(DropError::NewPrivileges)?;
    let mut kept = caps::read(None, CapSet::Permitted)?;
    if kept.iter().all(|capability| *capability == KEPT) {
        // The service manager has dropped them, and may have forbidden changes.
        return Ok(());
    }
    kept.retain(|capability| *capability == KEPT);
    // Only CAP_SETPCAP may change the bounding set.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for surplus in caps::read(None, CapSet::Bounding)? {
            if surplus != KEPT {
                caps::drop(None, CapSet::Bounding, surplus)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    // The effective set must be a subset of the permitted set, so it is first.
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept)?;
    }
    Ok(())
}
