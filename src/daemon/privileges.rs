//! What is left of our privileges once everything that needs more is done.
//!
//! `CAP_NET_ADMIN` stays: routes, rules and settings must be taken anew at every change of the network, and each new
//! socket takes a mark and an exemption from IPsec. All others go, from every set, and none comes back: neither by a
//! program that is run nor by being root.

use caps::{CapSet, Capability};
use nix::sys::prctl::set_no_new_privs;

/// What is kept, as far as it is there.
const KEPT: Capability = Capability::CAP_NET_ADMIN;

/// A privilege that could not be dropped.
#[derive(Debug, thiserror::Error)]
pub(super) enum DropError {
    /// A set of capabilities could not be made smaller.
    #[error("could not drop capabilities")]
    Capabilities(#[from] caps::errors::CapsError),
    /// Programs that are run could still gain privileges.
    #[error("could not set no_new_privs")]
    NewPrivileges(#[source] nix::Error),
}

/// Drops everything but [`KEPT`] from the calling thread; threads that it makes from now on have no more either.
///
/// # Errors
/// [`DropError`]: the kernel refuses to take a privilege away, which it never has a reason to.
pub(super) fn drop_all_but_needed() -> Result<(), DropError> {
    set_no_new_privs().map_err(DropError::NewPrivileges)?;
    let mut kept = caps::read(None, CapSet::Permitted)?;
    if kept.iter().all(|capability| *capability == KEPT) {
        // Whoever started us has seen to it, and perhaps to our not changing it.
        return Ok(());
    }
    kept.retain(|capability| *capability == KEPT);
    // The bounding set is for those who may change it; who may not was bound by whoever started us.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for surplus in caps::read(None, CapSet::Bounding)? {
            if surplus != KEPT {
                caps::drop(None, CapSet::Bounding, surplus)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    // What is effective must be permitted, so it goes first.
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept)?;
    }
    Ok(())
}
