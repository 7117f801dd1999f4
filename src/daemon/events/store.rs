//! The event store: two files with a line of JSON per event. The new file replaces the old one when it is full.
//!
//! A line that is cut off by a crash or a full disk is removed before the next one is written. At most twice [`MAX_SIZE`] bytes are on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use crate::control::Event;
use crate::files::read_regular;

/// The name of the new file.
const NEW: &str = "events.jsonl";

/// The name of the old file.
const OLD: &str = "events.1.jsonl";

/// The maximum size of a file, in bytes: about a thousand events.
const MAX_SIZE: u64 = 256 << 10;

/// The largest file that is read, in bytes.
const MAX_READ: u64 = 1 << 20;

/// The end of the sequence numbers: JSON readers keep 53 bits of a number (RFC 8259 section 6).
const MAX_SEQUENCE: u64 = 1 << 53;

/// The open store.
#[derive(Debug)]
pub(super) struct EventStore {
    path: PathBuf,
    old_path: PathBuf,
    file: File,
    /// The length of the complete lines.
    size: u64,
    max_size: u64,
    /// The last write failed, and may have left a part of a line.
    is_torn: bool,
}

impl EventStore {
    /// Opens the store of a directory, which is created if it is missing.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(NEW);
        let file = open(&path)?;
        let text = read_regular(&path, MAX_READ)?;
        let last = text.iter().rposition(|byte| *byte == b'\n');
        let size = last.map_or(0, |last| last as u64 + 1);
        let is_torn = text.len() as u64 > size;
        Ok(Self {
            path,
            old_path: dir.join(OLD),
            file,
            size,
            max_size: MAX_SIZE,
            is_torn,
        })
    }

    /// Appends an event.
    ///
    /// # Errors
    /// When it cannot be written. The next call removes what was written of it.
    pub(super) fn append(&mut self, event: &Event) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.size)?;
        }
        self.is_torn = true;
        self.write_line(event)?;
        self.is_torn = false;
        Ok(())
    }

    fn write_line(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let length = line.len() as u64;
        if self.size + length > self.max_size {
            fs::rename(&self.path, &self.old_path)?;
            self.file = open(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(&line)?;
        self.size += length;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)
}

/// Reads the events of a directory, the oldest first, and skips invalid lines.
///
/// # Errors
/// When a file exists and cannot be read.
pub(super) fn read(dir: &Path) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for name in [OLD, NEW] {
        let text = match read_regular(&dir.join(name), MAX_READ) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        events.extend(parse(&text));
    }
    Ok(events)
}

/// Parses the events of a file, and skips invalid lines.
pub fn parse(text: &[u8]) -> impl Iterator<Item = Event> {
    let lines = text.split(|byte| *byte == b'\n');
    let events = lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok());
    events.filter(|event| event.sequence < MAX_SEQUENCE)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tempfile::TempDir;

    use super::*;
    use crate::control::{EVENT_VERSION, EventKind};

    fn event(sequence: u64) -> Event {
        Event {
            version: EVENT_VERSION,
            sequence,
            time: Timestamp::UNIX_EPOCH,
            kind: EventKind::Ready,
            subject: "wlan0".to_owned(),
            reason: "a test".to_owned(),
            duration_us: None,
        }
    }

    fn sequences(dir: &TempDir) -> Vec<u64> {
        let events = read(dir.path()).expect("readable");
        events.iter().map(|event| event.sequence).collect()
    }

    #[test]
    fn a_torn_last_line_costs_one_event() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let mut store = EventStore::open(dir.path()).expect("writable");
        for sequence in 1..=3 {
            store.append(&event(sequence)).expect("there is room");
        }
        drop(store);
        let path = dir.path().join(NEW);
        let whole = fs::read(&path).expect("it is there");
        for cut in 1..whole.len() {
            fs::write(&path, &whole[..cut]).expect("writable");
            let mut store = EventStore::open(dir.path()).expect("writable");
            store.append(&event(9)).expect("there is room");
            let complete = whole[..cut].split(|byte| *byte == b'\n').count() as u64 - 1;
            let expected: Vec<_> = (1..=complete).chain([9]).collect();
            assert_eq!(sequences(&dir), expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_part_of_a_line_on_a_full_disk_does_not_damage_the_next() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let mut store = EventStore::open(dir.path()).expect("writable");
        store.append(&event(1)).expect("there is room");
        // Like a full disk: a part of the line is written, then the kernel refuses.
        let path = dir.path().join(NEW);
        store.file = File::open(&path).expect("readable");
        store.append(&event(2)).expect_err("opened for reading");
        let mut part = open(&path).expect("writable");
        part.write_all(b"{\"version\":1,\"seq").expect("writable");
        store.file = part;
        store.append(&event(3)).expect("there is room again");
        assert_eq!(sequences(&dir), [1, 3]);
        let text = fs::read_to_string(path).expect("readable");
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_number_at_the_end_of_its_range_is_skipped() {
        let line = |sequence| serde_json::to_vec(&event(sequence)).expect("plain data");
        let text = [line(1), line(u64::MAX), line(2)].join(&b'\n');
        let read: Vec<_> = parse(&text).map(|event| event.sequence).collect();
        assert_eq!(read, [1, 2]);
    }

    #[test]
    fn it_keeps_the_newest_within_its_bound() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let mut store = EventStore::open(dir.path()).expect("writable");
        store.max_size = 1_000;
        for sequence in 1..=100 {
            store.append(&event(sequence)).expect("there is room");
            let sizes = [NEW, OLD].map(|name| {
                fs::metadata(dir.path().join(name)).map_or(0, |metadata| metadata.len())
            });
            assert!(sizes.iter().all(|size| *size <= 1_000), "{sizes:?}");
        }
        let kept = sequences(&dir);
        assert!(kept.len() > 5 && kept.ends_with(&[99, 100]), "{kept:?}");
        assert!(kept.is_sorted(), "{kept:?}");
    }
}
