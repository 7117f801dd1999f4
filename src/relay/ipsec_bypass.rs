//! Which sockets are exempt from IPsec policies.
//!
//! An exemption costs each datagram a look-up and each socket 2 KB in the kernel, so it is made only of families of which
//! this machine has policies. When the first one comes, sockets that are open follow, some at a time: each takes two calls,
//! and 20,000 at once would hold packets up.

use std::ops::Range;

use crate::net::{Family, PerFamily};

/// Places that are looked at in a row.
const BATCH: usize = 64;

/// Families whose direct sockets are to be exempt, and places of sockets that are still to be looked at.
#[derive(Debug, Default)]
pub(super) struct IpsecBypass {
    families: PerFamily<bool>,
    left: Range<usize>,
}

impl IpsecBypass {
    /// Whether a family's sockets are to be exempt.
    pub(super) fn has(&self, family: Family) -> bool {
        self.families[family]
    }

    /// Takes other families; what is open has these many places.
    pub(super) fn set(&mut self, families: PerFamily<bool>, places: usize) {
        self.families = families;
        self.left = 0..places;
    }

    /// Whether there are places to be looked at.
    pub(super) fn is_stale(&self) -> bool {
        !self.left.is_empty()
    }

    /// The next places to be looked at.
    pub(super) fn batch(&mut self) -> Range<usize> {
        let start = self.left.start;
        self.left.start = self.left.end.min(start + BATCH);
        start..self.left.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_looked_at_once() {
        let mut exempt = IpsecBypass::default();
        assert!(!exempt.is_stale() && exempt.batch().is_empty());
        exempt.set(
            PerFamily {
                v4: true,
                v6: false,
            },
            2 * BATCH + 1,
        );
        let mut seen = Vec::new();
        while exempt.is_stale() {
            let batch = exempt.batch();
            assert!(batch.len() <= BATCH);
            seen.extend(batch);
        }
        assert!(seen.into_iter().eq(0..=2 * BATCH));
        assert!(exempt.has(Family::V4) && !exempt.has(Family::V6));
    }
}
