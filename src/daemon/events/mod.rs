//! The event log: each event is logged, kept in memory for clients, and stored on the disk across a restart.
//!
//! Recording neither waits nor fails. A separate thread writes to the disk, which may stall. A failing or slow disk is a
//! warning in the status.

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

use crate::control::{EVENT_VERSION, Event, EventKind, EventList};
use store::EventStore;
#[cfg(feature = "lab")]
pub use store::parse as parse_events;

use super::counted;

/// The events in memory, and thus in a reply, at most.
const KEPT: usize = 1_024;

/// The events that may wait for the disk.
const WAITING: usize = 256;

/// A handle to the event log. Clones share the log.
#[derive(Clone, Debug)]
pub(super) struct EventLog(Arc<EventLogState>);

#[derive(Debug)]
struct EventLogState {
    recent: Mutex<RecentEvents>,
    warning: Arc<Mutex<Option<String>>>,
    disk: Option<SyncSender<Event>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct RecentEvents {
    last_sequence: u64,
    events: VecDeque<Event>,
}

impl EventLog {
    /// Opens the log and continues the numbers of the store in `dir`. A failing store becomes a warning.
    pub(super) fn open(dir: &Path) -> Self {
        let warning = Arc::new(Mutex::new(None));
        let warn_of = |error: &io::Error| {
            let dir = dir.display();
            let text = format!("Events are not saved across a restart: {dir}: {error}");
            warn!("{text}");
            *lock(&warning) = Some(text);
        };
        let events = store::read(dir).unwrap_or_else(|error| {
            warn_of(&error);
            Vec::new()
        });
        let last_sequence = events.iter().map(|event| event.sequence).max();
        let last_sequence = last_sequence.unwrap_or(0);
        let recent = RecentEvents {
            last_sequence,
            events: events.into_iter().rev().take(KEPT).rev().collect(),
        };
        let (disk, waiting) = sync_channel(WAITING);
        let writer_warning = Arc::clone(&warning);
        let writer = EventStore::open(dir).and_then(|store| {
            let thread = thread::Builder::new().name("events".to_owned());
            thread.spawn(move || write(store, last_sequence, &waiting, &writer_warning))
        });
        let writer = writer.map_err(|error| warn_of(&error)).ok();
        Self(Arc::new(EventLogState {
            recent: Mutex::new(recent),
            warning,
            disk: writer.as_ref().map(|_| disk),
            writer,
        }))
    }

    /// Records an event about `subject`, with its reason.
    pub(super) fn record(&self, kind: EventKind, subject: impl Display, reason: impl Display) {
        self.append(kind, subject.to_string(), reason.to_string(), None);
    }

    /// Records an event and the time from its notification to the end of its handling.
    pub(super) fn record_timed(
        &self,
        kind: EventKind,
        subject: impl Display,
        reason: impl Display,
        took: Duration,
    ) {
        self.append(kind, subject.to_string(), reason.to_string(), Some(took));
    }

    /// Returns the events after the event with this number.
    pub(super) fn after(&self, sequence: u64) -> EventList {
        let recent = lock(&self.0.recent);
        let later = recent.events.iter().filter(|it| it.sequence > sequence);
        EventList {
            last_sequence: recent.last_sequence,
            events: later.cloned().collect(),
        }
    }

    /// The warning if events do not reach the disk.
    pub(super) fn warning(&self) -> Option<String> {
        lock(&self.0.warning).clone()
    }

    fn append(&self, kind: EventKind, subject: String, reason: String, took: Option<Duration>) {
        if kind.is_alarming() {
            warn!(event = %kind, "{kind}: {subject}: {reason}");
        } else {
            info!(event = %kind, "{kind}: {subject}: {reason}");
        }
        let mut recent = lock(&self.0.recent);
        recent.last_sequence += 1;
        let event = Event {
            version: EVENT_VERSION,
            sequence: recent.last_sequence,
            time: Timestamp::now(),
            kind,
            subject,
            reason,
            duration_us: took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        };
        if recent.events.len() == KEPT {
            recent.events.pop_front();
        }
        recent.events.push_back(event.clone());
        // Sent under the lock, so that the store has the same order.
        if let Some(disk) = &self.0.disk
            && let Err(TrySendError::Full(_)) = disk.try_send(event)
        {
            let text = "The disk is too slow: some events were not saved.";
            *lock(&self.0.warning) = Some(text.to_owned());
        }
    }
}

/// Reads the stored events of a directory, for the time when no service runs.
///
/// # Errors
/// When the store exists and cannot be read.
pub fn read_events(dir: &Path) -> io::Result<Vec<Event>> {
    store::read(dir)
}

impl Drop for EventLogState {
    /// Waits until all events are written.
    fn drop(&mut self) {
        self.disk = None;
        if let Some(writer) = self.writer.take() {
            // A panic of the writer has ended the process.
            let _ = writer.join();
        }
    }
}

/// Writes events. `last` is the number of the last event in the store. An event before a gap says how many are missing.
fn write(
    mut store: EventStore,
    mut last: u64,
    waiting: &Receiver<Event>,
    warning: &Mutex<Option<String>>,
) {
    while let Ok(event) = waiting.recv() {
        let written = match gap_before(&event, last) {
            Some(gap) => store.append(&gap).map(|()| last = gap.sequence),
            None => Ok(()),
        };
        let written = written.and_then(|()| store.append(&event));
        if written.is_ok() {
            last = event.sequence;
        }
        *lock(warning) = written
            .err()
            .map(|error| format!("Events are not saved across a restart: {error}"));
    }
}

/// The event for the events between the number `last` and an event, which were not saved.
fn gap_before(event: &Event, last: u64) -> Option<Event> {
    let sequence = event.sequence.checked_sub(1)?;
    let missing = sequence.checked_sub(last).filter(|missing| *missing > 0)?;
    Some(Event {
        sequence,
        kind: EventKind::EventsLost,
        subject: "event store".to_owned(),
        reason: format!(
            "{} not saved: the disk was full or too slow",
            counted(missing, "event was", "events were")
        ),
        duration_us: None,
        ..event.clone()
    })
}

/// The data behind these locks is consistent after every statement, so a poisoned lock is no error.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn numbers_continue_after_a_restart() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let events = EventLog::open(dir.path());
        events.record(EventKind::Started, "voicelane", "a test");
        events.record(EventKind::Stopped, "voicelane", "a test");
        drop(events);
        let events = EventLog::open(dir.path());
        events.record(EventKind::Started, "voicelane", "again");
        let list = events.after(1);
        let sequences: Vec<_> = list.events.iter().map(|event| event.sequence).collect();
        assert_eq!((list.last_sequence, sequences), (3, vec![2, 3]));
        assert_eq!(events.warning(), None);
        drop(events);
        assert_eq!(read_events(dir.path()).expect("readable").len(), 3);
    }

    #[test]
    fn without_a_disk_events_are_kept_in_memory_with_a_warning() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let file = dir.path().join("not-a-directory");
        fs::write(&file, "").expect("writable");
        let events = EventLog::open(&file);
        events.record_timed(
            EventKind::RulesRestored,
            "rules",
            "a test",
            Duration::from_micros(3),
        );
        let list = events.after(0).events;
        assert_eq!((list.len(), list[0].duration_us), (1, Some(3)));
        let warning = events.warning().expect("a warning");
        assert!(warning.contains("not-a-directory"), "{warning}");
    }

    #[test]
    fn a_gap_in_the_store_is_recorded() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let events = EventLog::open(dir.path());
        for _ in 0..7 {
            events.record(EventKind::Ready, "wlan0", "a test");
        }
        let all = events.after(0).events;
        drop(events);
        fs::remove_file(dir.path().join("events.jsonl")).expect("it is there");
        let (disk, waiting) = sync_channel(9);
        for kept in [0, 1, 4, 6] {
            disk.send(all[kept].clone()).expect("there is room");
        }
        drop(disk);
        let store = EventStore::open(dir.path()).expect("writable");
        write(store, 0, &waiting, &Mutex::default());
        let stored = read_events(dir.path()).expect("readable");
        let lost = |it: &Event| (it.kind == EventKind::EventsLost).then(|| it.reason.clone());
        let stored: Vec<_> = stored.iter().map(|it| (it.sequence, lost(it))).collect();
        let lost = |text: &str| Some(format!("{text} not saved: the disk was full or too slow"));
        assert_eq!(
            stored,
            [
                (1, None),
                (2, None),
                (4, lost("2 events were")),
                (5, None),
                (6, lost("1 event was")),
                (7, None)
            ]
        );
    }

    #[test]
    fn memory_is_bounded() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let events = EventLog::open(dir.path());
        for _ in 0..KEPT + 10 {
            events.record(EventKind::Ready, "wlan0", "a test");
        }
        let list = events.after(0);
        assert_eq!(list.events.len(), KEPT);
        assert_eq!(list.events[0].sequence, 11);
    }
}
