//! The event store: two files with a line of JSON per event. The new file replaces the old one when it is full.
//!
//! A line that is cut off by a crash is skipped. At most twice [`MAX_SIZE`] bytes are on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::control::Event;

/// The name of the new file.
const NEW: &str = "events.jsonl";

/// The name of the old file.
const OLD: &str = "events.1.jsonl";

/// The maximum size of a file, in bytes: about a thousand events.
const MAX_SIZE: u64 = 256 << 10;

/// The open store.
#[derive(Debug)]
pub(super) struct EventStore {
    path: PathBuf,
    old_path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
}

impl EventStore {
    /// Opens the store of a directory, which is created if it is missing.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(NEW);
        let mut file = open(&path)?;
        let mut size = file.seek(SeekFrom::End(0))?;
        if size > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                size += 1;
            }
        }
        Ok(Self {
            path,
            old_path: dir.join(OLD),
            file,
            size,
            max_size: MAX_SIZE,
        })
    }

    /// Appends an event.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn append(&mut self, event: &Event) -> io::Result<()> {
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
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// Reads the events of a directory, the oldest first, and skips invalid lines.
///
/// # Errors
/// When a file exists and cannot be read.
pub(super) fn read(dir: &Path) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for name in [OLD, NEW] {
        let text = match fs::read(dir.join(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let lines = text.split(|byte| *byte == b'\n');
        events.extend(lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok()));
    }
    Ok(events)
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
            let lines = whole[..cut].split(|byte| *byte == b'\n');
            let complete = lines.filter(|line| line.ends_with(b"}")).count() as u64;
            let expected: Vec<_> = (1..=complete).chain([9]).collect();
            assert_eq!(sequences(&dir), expected, "cut at {cut}");
        }
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
