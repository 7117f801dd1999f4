//! The last configuration that worked, in the state directory.
//!
//! A start with a faulty configuration uses it, so that an error in a file does not put the media of every machine into
//! the VPN. A separate thread writes it, because the disk may stall.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::config::{Config, Document, Layer};

/// The name of the file in the state directory.
const FILE: &str = "last-good.json";

/// The version of the file.
const VERSION: u32 = 1;

/// The largest file in bytes: that of several large configuration files.
const MAX_LEN: u64 = 32 << 20;

/// A configuration and the texts from which it was read.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// Its texts, without those of the command line.
    pub documents: Vec<Document>,
}

/// The place of the last configuration that worked.
#[derive(Clone, Debug)]
pub struct LastGood {
    dir: PathBuf,
    /// The file or directory of the configuration: another one's last configuration is not used.
    origin: String,
    warning: Arc<Mutex<Option<String>>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Stored {
    version: u32,
    origin: String,
    saved: Timestamp,
    documents: Vec<StoredDocument>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredDocument {
    layer: String,
    name: String,
    text: String,
}

impl LastGood {
    /// The file in a state directory for the configuration at `origin`.
    #[must_use]
    pub fn new(dir: &Path, origin: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            origin: origin.display().to_string(),
            warning: Arc::default(),
        }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Reads the texts and the time since when they are known to work. None if there are none for this origin.
    ///
    /// # Errors
    /// When the file exists and cannot be read, or is not valid.
    pub fn read(&self) -> io::Result<Option<(Timestamp, Vec<Document>)>> {
        let bytes = match crate::files::read_regular(&self.path(), MAX_LEN) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let stored = parse(&bytes)?;
        Ok(stored
            .filter(|(origin, ..)| *origin == self.origin)
            .map(|(_, saved, documents)| (saved, documents)))
    }

    /// Stores texts that work, in a thread of its own. A failure becomes a warning.
    pub(super) fn save(&self, documents: Vec<Document>) {
        let place = self.clone();
        let spawned = thread::Builder::new()
            .name("last-good".to_owned())
            .spawn(move || {
                let written = place.write(documents);
                place.set_warning(written.err());
            });
        if let Err(error) = spawned {
            self.set_warning(Some(error));
        }
    }

    /// The warning if the configuration could not be stored.
    pub(super) fn warning(&self) -> Option<String> {
        let warning = self.warning.lock();
        warning.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_warning(&self, error: Option<io::Error>) {
        let text = error.map(|error| {
            format!(
                "The configuration is not stored for a start with a faulty file: {}: {error}",
                self.dir.display()
            )
        });
        if let Some(text) = &text {
            warn!("{text}");
        }
        let warning = self.warning.lock();
        *warning.unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn write(&self, documents: Vec<Document>) -> io::Result<()> {
        if let Ok(Some((_, stored))) = self.read()
            && stored == documents
        {
            return Ok(());
        }
        let documents = documents.into_iter().map(|document| StoredDocument {
            layer: document.layer.name().to_owned(),
            name: document.name,
            text: document.text,
        });
        let stored = Stored {
            version: VERSION,
            origin: self.origin.clone(),
            saved: Timestamp::now(),
            documents: documents.collect(),
        };
        fs::create_dir_all(&self.dir)?;
        // The file is replaced as a whole: a crash leaves the previous one.
        let new = self.dir.join("last-good.json.new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(&stored)?)?;
        file.sync_all()?;
        fs::rename(&new, self.path())
    }
}

/// A file's origin, time and texts.
type Parsed = (String, Timestamp, Vec<Document>);

/// Parses the file. None if it has another version or an unknown layer.
///
/// # Errors
/// When it is not the JSON of such a file.
pub fn parse(bytes: &[u8]) -> io::Result<Option<Parsed>> {
    let stored: Stored = serde_json::from_slice(bytes)?;
    if stored.version != VERSION {
        return Ok(None);
    }
    let layers = [Layer::Main, Layer::DropIn, Layer::Credential];
    let documents = stored.documents.into_iter().map(|document| {
        let layer = layers.iter().find(|it| it.name() == document.layer)?;
        Some(Document {
            layer: *layer,
            name: document.name,
            text: document.text,
        })
    });
    let documents: Option<Vec<_>> = documents.collect();
    Ok(documents.map(|documents| (stored.origin, stored.saved, documents)))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn documents(text: &str) -> Vec<Document> {
        let document = |layer| Document {
            layer,
            name: "it.toml".to_owned(),
            text: text.to_owned(),
        };
        vec![document(Layer::Main), document(Layer::DropIn)]
    }

    #[test]
    fn what_was_stored_is_read_by_the_same_origin_alone() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let place = LastGood::new(dir.path(), Path::new("/etc/voicelane"));
        assert_eq!(place.read().expect("readable"), None);
        for text in ["version = 1", "version = 1\n"] {
            place.write(documents(text)).expect("writable");
            let (_, read) = place.read().expect("readable").expect("stored");
            assert_eq!(read, documents(text));
        }
        let first = fs::read(place.path()).expect("stored");
        place.write(documents("version = 1\n")).expect("writable");
        assert_eq!(
            fs::read(place.path()).expect("stored"),
            first,
            "the time stays"
        );
        let other = LastGood::new(dir.path(), Path::new("/etc/other"));
        assert_eq!(other.read().expect("readable"), None);
    }

    #[test]
    fn a_torn_file_is_an_error_and_the_next_one_replaces_it() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let place = LastGood::new(dir.path(), Path::new("/etc/voicelane"));
        place.write(documents("version = 1")).expect("writable");
        let whole = fs::read(place.path()).expect("stored");
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).is_err(), "cut at {cut}");
        }
        fs::write(place.path(), &whole[..9]).expect("writable");
        assert!(place.read().is_err());
        place.write(documents("version = 1")).expect("writable");
        assert!(place.read().expect("readable").is_some());
    }

    #[test]
    fn an_unwritable_directory_is_a_warning() {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("writable");
        let place = LastGood::new(&file, Path::new("/etc/voicelane"));
        let error = place.write(documents("")).expect_err("not a directory");
        place.set_warning(Some(error));
        let warning = place.warning().expect("a warning");
        assert!(warning.contains("/file"), "{warning}");
    }
}
