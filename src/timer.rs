//! Deadlines of things that are used far more often than they expire.
//!
//! # Theory of operation
//! A mapping that carries a call is refreshed by every packet, 50 times a second, and expires once. So a refresh does
//! not come here at all: the owner keeps each thing's deadline in its own record and pushes it back there. [`Timers`]
//! holds one entry per thing, with the deadline as it was when the entry was queued: never later than the real one.
//! When an entry comes to the front, [`Timers::pop_expired`] asks the owner for the real deadline and queues the entry
//! again, forgets it, or hands the key out. An entry moves at most once for each time its deadline has come, which
//! makes O(log n) for each lifetime of each thing, however many packets that lifetime saw.
//!
//! There is no clock in here: `now` is an argument.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::time::Instant;

/// Entries that are queued again in one go: with a great many of one age, packets wait for no more than these.
const MOVES: usize = 256;

/// A queue of keys by deadline, in which pushing a deadline back costs nothing.
///
/// A key should not be used again for another thing (a [`MappingId`](crate::net::MappingId) with its generation is
/// not): the dead thing's entry would then stand for the new one.
#[derive(Clone, Debug)]
pub struct Timers<K> {
    queue: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Ord + Copy> Timers<K> {
    /// Makes an empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue: BinaryHeap::new(),
        }
    }

    /// Queues a new key, or one whose deadline has been moved forward.
    ///
    /// A deadline that is only pushed back needs no call.
    pub fn schedule(&mut self, key: K, deadline: Instant) {
        self.queue.push(Reverse((deadline, key)));
    }

    /// The instant at which [`Timers::pop_expired`] is to be called next: never later than the first real deadline,
    /// earlier when that one was pushed back or its thing is gone.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Takes the next key whose deadline is `now` or before, in the order of the deadlines; `None` when there is none, or
    /// when so many were pushed back that it is to be called again at once, as [`Timers::poll_timeout`] says then.
    ///
    /// `deadline_of` says the real deadline of a key, or `None` when the thing is gone. Each key is handed out once for
    /// each call of [`Timers::schedule`]: the caller ends the thing, or schedules its next deadline.
    pub fn pop_expired(
        &mut self,
        now: Instant,
        mut deadline_of: impl FnMut(K) -> Option<Instant>,
    ) -> Option<K> {
        for _ in 0..MOVES {
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
        /// The model looks at every live thing at every step.
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
