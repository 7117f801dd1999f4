//! The IPsec bypass of direct sockets.
//!
//! A bypass costs each datagram a lookup and each socket 2 KB in the kernel. So it is set only for families with IPsec
//! policies. When the first policy appears, open sockets follow in batches: each takes two system calls, and 20,000 at once
//! would delay packets.

use std::ops::Range;

use crate::net::{Family, PerFamily};

/// Slots handled in one batch.
const BATCH: usize = 64;

/// The families whose direct sockets bypass IPsec, and the slots still to be handled.
#[derive(Debug, Default)]
pub(super) struct IpsecBypass {
    families: PerFamily<bool>,
    slots_left: Range<usize>,
}

impl IpsecBypass {
    /// Whether a family's sockets are to bypass IPsec.
    pub(super) fn applies_to(&self, family: Family) -> bool {
        self.families[family]
    }

    /// Sets the families, and starts to handle open sockets in this many slots.
    pub(super) fn set(&mut self, families: PerFamily<bool>, slots: usize) {
        self.families = families;
        self.slots_left = 0..slots;
    }

    /// Whether slots are still to be handled.
    pub(super) fn is_pending(&self) -> bool {
        !self.slots_left.is_empty()
    }

    /// Returns the next slots to be handled.
    pub(super) fn batch(&mut self) -> Range<usize> {
        let start = self.slots_left.start;
        self.slots_left.start = self.slots_left.end.min(start + BATCH);
        start..self.slots_left.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_handled_once() {
        let mut bypass = IpsecBypass::default();
        assert!(!bypass.is_pending() && bypass.batch().is_empty());
        bypass.set(
            PerFamily {
                v4: true,
                v6: false,
            },
            2 * BATCH + 1,
        );
        let mut seen = Vec::new();
        while bypass.is_pending() {
            let batch = bypass.batch();
            assert!(batch.len() <= BATCH);
            seen.extend(batch);
        }
        assert!(seen.into_iter().eq(0..=2 * BATCH));
        assert!(bypass.applies_to(Family::V4) && !bypass.applies_to(Family::V6));
    }
}
