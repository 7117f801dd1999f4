//! Timers for objects that are refreshed far more often than they expire.
//!
//! # Theory of operation
//!
//! Every packet of a call refreshes its mapping, 50 times a second; the mapping expires once. So the owner keeps each
//! object's real deadline in the object. [`Timers`] holds one entry per object, with the deadline at the time of queueing,
//! never later than the real one. When an entry is due, [`Timers::pop_expired`] gets the real deadline from the owner. It
//! then queues the entry again, drops it, or returns the key. The cost is O(log n) per lifetime, whatever the number of
//! packets.
//!
//! There is no clock here: `now` is an argument.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::time::Instant;

/// Entries queued again in one call, so that packets are not delayed by many entries of one age.
const REQUEUE_LIMIT: usize = 256;

/// A queue of keys by deadline, in which extending a deadline costs nothing.
///
/// A key must not be reused for another object, whose entry would be mistaken. A [`MappingId`](crate::net::MappingId) has a
/// generation for that.
#[derive(Clone, Debug)]
pub struct Timers<K> {
    queue: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Ord + Copy> Timers<K> {
    /// Creates an empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue: BinaryHeap::new(),
        }
    }

    /// Queues a new key, or a key whose deadline is earlier now. A later deadline needs no call.
    pub fn schedule(&mut self, key: K, deadline: Instant) {
        self.queue.push(Reverse((deadline, key)));
    }

    /// Returns when [`Timers::pop_expired`] is due: at or before the first real deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Returns the next key whose deadline is not after `now`, in the order of deadlines. `None` if there is none, or if many
    /// entries were queued again: [`Timers::poll_timeout`] is then still due.
    ///
    /// `deadline_of` returns the real deadline of a key, or `None` if the object is gone. Each key is returned once for each
    /// call of [`Timers::schedule`].
    pub fn pop_expired(
        &mut self,
        now: Instant,
        mut deadline_of: impl FnMut(K) -> Option<Instant>,
    ) -> Option<K> {
        for _ in 0..REQUEUE_LIMIT {
            let mut first = self.queue.peek_mut()?;
            let Reverse((queued, key)) = *first;
            if queued > now {
                return None;
            }
            match deadline_of(key) {
                Some(real) if real > queued => *first = Reverse((real, key)),
                Some(_) => {
                    PeekMut::pop(first);
                    return Some(key);
                }
                None => {
                    PeekMut::pop(first);
                }
            }
        }
        None
    }
}

impl<K: Ord + Copy> Default for Timers<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum TimerOperation {
        Start { lifetime: u64 },
        Refresh { which: usize, lifetime: u64 },
        Shorten { which: usize, lifetime: u64 },
        End { which: usize },
        Advance { by: u64 },
    }

    fn step() -> impl Strategy<Value = TimerOperation> {
        let (which, lifetime) = (any::<usize>(), 0..50u64);
        prop_oneof![
            lifetime
                .clone()
                .prop_map(|lifetime| TimerOperation::Start { lifetime }),
            (which, lifetime.clone())
                .prop_map(|(which, lifetime)| TimerOperation::Refresh { which, lifetime }),
            (which, lifetime)
                .prop_map(|(which, lifetime)| TimerOperation::Shorten { which, lifetime }),
            which.prop_map(|which| TimerOperation::End { which }),
            (0..40u64).prop_map(|by| TimerOperation::Advance { by }),
        ]
    }

    fn nth(live: &mut BTreeMap<u32, Instant>, which: usize) -> Option<(u32, &mut Instant)> {
        let index = which.checked_rem(live.len())?;
        live.iter_mut().nth(index).map(|(key, at)| (*key, at))
    }

    proptest! {
        /// The model searches all live objects at every step.
        #[test]
        fn expires_what_a_full_search_would(steps in prop::collection::vec(step(), 0..200)) {
            let mut now = Instant::now();
            let after = |now: Instant, seconds| now + Duration::from_secs(seconds);
            let mut timers = Timers::new();
            let mut live = BTreeMap::new();
            let mut fresh = 0..;
            for step in steps {
                match step {
                    TimerOperation::Start { lifetime } => {
                        let (key, deadline) = (fresh.next().expect("endless"), after(now, lifetime));
                        live.insert(key, deadline);
                        timers.schedule(key, deadline);
                    }
                    TimerOperation::Refresh { which, lifetime } => {
                        if let Some((_, deadline)) = nth(&mut live, which) {
                            *deadline = (*deadline).max(after(now, lifetime));
                        }
                    }
                    TimerOperation::Shorten { which, lifetime } => {
                        if let Some((key, deadline)) = nth(&mut live, which)
                            && after(now, lifetime) < *deadline
                        {
                            *deadline = after(now, lifetime);
                            timers.schedule(key, *deadline);
                        }
                    }
                    TimerOperation::End { which } => {
                        if let Some((key, _)) = nth(&mut live, which) {
                            live.remove(&key);
                        }
                    }
                    TimerOperation::Advance { by } => {
                        now = after(now, by);
                        let mut due: Vec<_> = live
                            .iter()
                            .filter(|(_, deadline)| **deadline <= now)
                            .map(|(key, deadline)| (*deadline, *key))
                            .collect();
                        due.sort_unstable();
                        let mut popped = Vec::new();
                        while let Some(key) = timers.pop_expired(now, |key| live.get(&key).copied()) {
                            popped.push((live.remove(&key).expect("only live keys come out"), key));
                        }
                        prop_assert_eq!(popped, due);
                        prop_assert!(timers.poll_timeout().is_none_or(|next| next > now));
                    }
                }
                let first = live.values().min().copied();
                prop_assert!(first.is_none_or(|first| timers.poll_timeout().is_some_and(|next| next <= first)));
            }
        }
    }

    #[test]
    fn a_refresh_moves_no_entry_until_its_first_deadline() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::new();
        timers.schedule('a', at(300));
        assert_eq!(
            timers.pop_expired(at(299), |_| unreachable!("nothing is due")),
            None
        );
        assert_eq!(timers.pop_expired(at(300), |_| Some(at(599))), None);
        assert_eq!(timers.poll_timeout(), Some(at(599)));
        assert_eq!(timers.pop_expired(at(599), |_| Some(at(599))), Some('a'));
        assert_eq!(timers.poll_timeout(), None);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.schedule(1, start);
        assert_eq!(timers.pop_expired(start, |_| None), None);
        assert_eq!(timers.poll_timeout(), None);
    }
}
