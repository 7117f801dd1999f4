//! Limits connections at once and the request rate of each user.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::peer::{Access, PeerCredentials, Privilege};
use super::user_rates::UserRates;

/// Connections at once.
#[derive(Clone, Copy, Debug)]
struct ConnectionLimit {
    total: usize,
    per_user: usize,
}

/// The limit of root and the service's user.
const ROOT: ConnectionLimit = ConnectionLimit {
    total: 16,
    per_user: 16,
};

/// The limit of users with a group of `[control]`.
const MEMBERS: ConnectionLimit = ConnectionLimit {
    total: 8,
    per_user: 4,
};

/// The limit of all other users.
const OTHERS: ConnectionLimit = ConnectionLimit {
    total: 4,
    per_user: 2,
};

/// An admitted connection. Its drop frees its slot.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) privilege: Privilege,
    /// The user has sent too many requests.
    pub(super) is_over_rate: bool,
    _slot: Slot,
}

/// Admits connections. Each of three classes of users has slots of its own, so that none can take those of another.
pub(super) struct AdmissionControl {
    access: Access,
    rates: UserRates,
    root: SlotPool,
    members: SlotPool,
    others: SlotPool,
}

impl AdmissionControl {
    pub(super) fn new(access: Access) -> Self {
        Self {
            access,
            rates: UserRates::default(),
            root: SlotPool::new(ROOT),
            members: SlotPool::new(MEMBERS),
            others: SlotPool::new(OTHERS),
        }
    }

    /// Admits a client. None if it has to be closed without a reply, because the slots of its class are in use.
    pub(super) fn admit(&mut self, peer: &PeerCredentials, now: Instant) -> Option<Admission> {
        let privilege = self.access.grants(peer);
        let is_root = peer.uid.is_root();
        let pool = match privilege {
            _ if is_root => &self.root,
            Privilege::Summary => &self.others,
            Privilege::Read | Privilege::Write => &self.members,
        };
        let slot = pool.take(peer.uid.as_raw())?;
        Some(Admission {
            privilege,
            is_over_rate: !is_root && !self.rates.allows(peer.uid.as_raw(), now),
            _slot: slot,
        })
    }
}

/// Slots in use, by user.
type SlotsInUse = Arc<Mutex<BTreeMap<u32, usize>>>;

#[derive(Debug)]
struct SlotPool {
    limit: ConnectionLimit,
    in_use: SlotsInUse,
}

impl SlotPool {
    fn new(limit: ConnectionLimit) -> Self {
        Self {
            limit,
            in_use: SlotsInUse::default(),
        }
    }

    fn take(&self, user: u32) -> Option<Slot> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = in_use.values().sum();
        let own = in_use.get(&user).copied().unwrap_or(0);
        if total >= self.limit.total || own >= self.limit.per_user {
            return None;
        }
        in_use.insert(user, own + 1);
        drop(in_use);
        Some(Slot {
            user,
            in_use: Arc::clone(&self.in_use),
        })
    }
}

#[derive(Debug)]
struct Slot {
    user: u32,
    in_use: SlotsInUse,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = in_use.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                in_use.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_cannot_take_all_slots_and_a_drop_frees_one() {
        let pool = SlotPool::new(OTHERS);
        let mut held: Vec<_> = (0..9).filter_map(|_| pool.take(1_000)).collect();
        assert_eq!(held.len(), OTHERS.per_user);
        held.extend((0..9).filter_map(|_| pool.take(1_001)));
        assert_eq!(held.len(), OTHERS.total);
        assert!(pool.take(1_002).is_none());
        held.clear();
        assert!(pool.take(1_002).is_some());
        assert!(pool.in_use.lock().expect("not poisoned").is_empty());
    }
}
