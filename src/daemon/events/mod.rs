//! What happened and why: recorded once, logged, kept in memory for those who ask, and on the disk across a restart.
//!
//! Whoever records neither waits nor fails. The disk has a thread of its own, for it may stall and media may not; when
//! it refuses, or falls behind, that is said in the status, and the events in memory are there all the same.

mod store;

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};

use crate::control::{EVENT_VERSION, Event, EventKind, Events as Reply};
use store::Store;

/// How many events are kept in memory: what a client is told at most.
const KEPT: usize = 1_024;

/// How many events may wait for the disk.
const WAITING: usize = 256;

/// The recorder. Clones record into the same place.
#[derive(Clone, Debug)]
pub(super) struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: Mutex<Memory>,
    trouble: Arc<Mutex<Option<String>>>,
    disk: Option<SyncSender<Event>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Memory {
    last_sequence: u64,
    events: VecDeque<Event>,
}

impl Events {
    /// Takes up where the store of a directory ended. A store that cannot be read or written is said, and is no error.
    pub(super) fn open(dir: &Path) -> Self {
        let trouble = Arc::new(Mutex::new(None));
        let complain = |error: &io::Error| {
            let dir = dir.display();
            let sentence = format!("Events are not saved across a restart: {dir}: {error}");
            warn!("{sentence}");
            *lock(&trouble) = Some(sentence);
        };
        let events = store::read(dir).unwrap_or_else(|error| {
            complain(&error);
            Vec::new()
        });
        let memory = Memory {
            last_sequence: events.last().map_or(0, |event| event.sequence),
            events: events.into_iter().rev().take(KEPT).rev().collect(),
        };
        let (disk, waiting) = sync_channel(WAITING);
        let told = Arc::clone(&trouble);
        let writer = Store::open(dir).and_then(|store| {
            let thread = thread::Builder::new().name("events".to_owned());
            thread.spawn(move || write(store, &waiting, &told))
        });
        let writer = writer.map_err(|error| complain(&error)).ok();
        Self(Arc::new(Inner {
            memory: Mutex::new(memory),
            trouble,
            disk: writer.as_ref().map(|_| disk),
            writer,
        }))
    }

    /// Notes that something happened to `subject`, and why.
    pub(super) fn record(&self, kind: EventKind, subject: impl Display, reason: impl Display) {
        self.note(kind, subject.to_string(), reason.to_string(), None);
    }

    /// Notes that something happened, and how long it took to deal with it.
    pub(super) fn record_timed(
        &self,
        kind: EventKind,
        subject: impl Display,
        reason: impl Display,
        took: Duration,
    ) {
        self.note(kind, subject.to_string(), reason.to_string(), Some(took));
    }

    /// What happened after the event with this number.
    pub(super) fn after(&self, sequence: u64) -> Reply {
        let memory = lock(&self.0.memory);
        let later = memory.events.iter().filter(|it| it.sequence > sequence);
        Reply {
            last_sequence: memory.last_sequence,
            events: later.cloned().collect(),
        }
    }

    /// Why events do not reach the disk, if they do not.
    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.0.trouble).clone()
    }

    fn note(&self, kind: EventKind, subject: String, reason: String, took: Option<Duration>) {
        if kind.is_alarming() {
            warn!("{kind}: {subject}: {reason}");
        } else {
            info!("{kind}: {subject}: {reason}");
        }
        let mut memory = lock(&self.0.memory);
        memory.last_sequence += 1;
        let event = Event {
            version: EVENT_VERSION,
            sequence: memory.last_sequence,
            time: Timestamp::now(),
            kind,
            subject,
            reason,
            duration_us: took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        };
        if memory.events.len() == KEPT {
            memory.events.pop_front();
        }
        memory.events.push_back(event.clone());
        // Sent under the lock, so that the disk has them in order.
        if let Some(disk) = &self.0.disk
            && let Err(TrySendError::Full(_)) = disk.try_send(event)
        {
            let sentence = "The disk is too slow: some events were not saved.";
            *lock(&self.0.trouble) = Some(sentence.to_owned());
        }
    }
}

/// Reads what a service that does not run left behind.
///
/// # Errors
/// When the store is there and cannot be read.
pub fn read_events(dir: &Path) -> io::Result<Vec<Event>> {
    store::read(dir)
}

impl Drop for Inner {
    /// Lets the disk catch up.
    fn drop(&mut self) {
        self.disk = None;
        if let Some(writer) = self.writer.take() {
            // It panics only with the process.
            let _ = writer.join();
        }
    }
}

fn write(mut store: Store, waiting: &Receiver<Event>, trouble: &Mutex<Option<String>>) {
    while let Ok(event) = waiting.recv() {
        let written = store.append(&event);
        *lock(trouble) = written
            .err()
            .map(|error| format!("Events are not saved across a restart: {error}"));
    }
}

/// What is behind these locks is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn numbers_go_on_after_a_restart() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let events = Events::open(dir.path());
        events.record(EventKind::Started, "voicelane", "a test");
        events.record(EventKind::Stopped, "voicelane", "a test");
        drop(events);
        let events = Events::open(dir.path());
        events.record(EventKind::Started, "voicelane", "again");
        let told = events.after(1);
        let sequences: Vec<_> = told.events.iter().map(|event| event.sequence).collect();
        assert_eq!((told.last_sequence, sequences), (3, vec![2, 3]));
        assert_eq!(events.trouble(), None);
        drop(events);
        assert_eq!(read_events(dir.path()).expect("readable").len(), 3);
    }

    #[test]
    fn without_a_disk_events_are_known_and_the_trouble_is_said() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let file = dir.path().join("not-a-directory");
        fs::write(&file, "").expect("writable");
        let events = Events::open(&file);
        events.record_timed(
            EventKind::RulesRestored,
            "rules",
            "a test",
            Duration::from_micros(3),
        );
        let told = events.after(0).events;
        assert_eq!((told.len(), told[0].duration_us), (1, Some(3)));
        let trouble = events.trouble().expect("said");
        assert!(trouble.contains("not-a-directory"), "{trouble}");
    }

    #[test]
    fn memory_is_bounded() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let events = Events::open(dir.path());
        for _ in 0..KEPT + 10 {
            events.record(EventKind::Ready, "wlan0", "a test");
        }
        let told = events.after(0);
        assert_eq!(told.events.len(), KEPT);
        assert_eq!(told.events[0].sequence, 11);
    }
}
