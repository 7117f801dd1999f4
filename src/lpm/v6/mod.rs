//! The engine for IPv6: a binary search.

use super::Level;

/// A compiled table of IPv6 intervals.
#[derive(Clone)]
pub(super) struct Engine {
    starts: Box<[u128]>,
    classes: Box<[u32]>,
}

impl Engine {
    /// Compiles intervals (start and class): ascending, the first start is 0.
    pub(super) fn new(intervals: &[(u128, u32)], _: Level) -> Self {
        let (starts, classes): (Vec<_>, Vec<_>) = intervals.iter().copied().unzip();
        Self {
            starts: starts.into(),
            classes: classes.into(),
        }
    }

    /// The class of the interval that holds `key`.
    pub(super) fn lookup(&self, key: u128) -> u32 {
        let after = self.starts.partition_point(|start| *start <= key);
        self.classes[after - 1]
    }

    /// The class of the interval that holds each of `keys`.
    pub(super) fn lookup_batch(&self, keys: &[u128], classes: &mut [u32]) {
        for (key, class) in keys.iter().zip(classes) {
            *class = self.lookup(*key);
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.classes)
    }

    /// What it is, for reports.
    pub(super) fn name(&self) -> &'static str {
        match self.starts.len() {
            1 => "one interval",
            _ => "binary search",
        }
    }
}
