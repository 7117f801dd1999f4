//! What was changed on things that are not ours, kept on disk so that it is put back even after a kill.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{SysctlError, SysctlKey, read, write};

/// The file's name in the runtime directory.
const FILE: &str = "state.json";

/// A journal that could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum SavedSysctlsError {
    /// The file could not be read or written.
    #[error("cannot keep the journal {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is not a journal of ours.
    #[error("{} is no journal: remove it after a look at it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A setting could not be changed.
    #[error(transparent)]
    Setting(#[from] SysctlError),
}

/// One changed setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSysctl {
    /// The setting.
    pub key: SysctlKey,
    /// Its value before us.
    pub before: String,
    /// The value that we gave it.
    pub after: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    settings: Vec<SavedSysctl>,
}

/// The settings that were changed and not yet put back.
#[derive(Debug)]
pub struct SavedSysctls {
    path: PathBuf,
    entries: Vec<SavedSysctl>,
}

impl SavedSysctls {
    /// Opens the journal of a runtime directory; one that is not there is empty.
    ///
    /// # Errors
    /// [`SavedSysctlsError::File`] or [`SavedSysctlsError::Format`].
    pub fn open(runtime_dir: &Path) -> Result<Self, SavedSysctlsError> {
        let path = runtime_dir.join(FILE);
        let entries = match fs::read(&path) {
            Ok(text) => match serde_json::from_slice::<Contents>(&text) {
                Ok(contents) => contents.settings,
                Err(source) => return Err(SavedSysctlsError::Format { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(SavedSysctlsError::File { path, source }),
        };
        Ok(Self { path, entries })
    }

    /// What was changed and not yet put back.
    #[must_use]
    pub fn entries(&self) -> &[SavedSysctl] {
        &self.entries
    }

    /// Changes a setting, after its present value is safe on disk. A setting that has the value is left alone.
    ///
    /// # Errors
    /// [`SavedSysctlsError`]; the setting is then unchanged.
    pub fn set(&mut self, key: &SysctlKey, value: &str) -> Result<(), SavedSysctlsError> {
        let present = read(key)?;
        if present == value {
            return Ok(());
        }
        self.entries.retain(|entry| entry.key != *key);
        self.entries.push(SavedSysctl {
            key: key.clone(),
            before: present,
            after: value.to_owned(),
        });
        self.save()?;
        Ok(write(key, value)?)
    }

    /// Puts back the settings that `wanted` picks and that still have the value that we gave them. Somebody else's
    /// value stays; a setting whose interface is gone is forgotten.
    ///
    /// # Errors
    /// [`SavedSysctlsError`]; what could not be put back stays in the journal.
    pub fn restore(
        &mut self,
        wanted: impl Fn(&SavedSysctl) -> bool,
    ) -> Result<Vec<SavedSysctl>, SavedSysctlsError> {
        let (mut restored, mut first_error) = (Vec::new(), None);
        self.entries.retain(|entry| {
            if !wanted(entry) {
                return true;
            }
            let outcome = match read(&entry.key) {
                Ok(present) if present == entry.after => {
                    write(&entry.key, &entry.before).map(|()| true)
                }
                Ok(_) => Ok(false),
                Err(error) if error.is_missing() => Ok(false),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(true) => restored.push(entry.clone()),
                Ok(false) => {}
                Err(error) => {
                    first_error.get_or_insert(error);
                    return true;
                }
            }
            false
        });
        self.save()?;
        match first_error {
            None => Ok(restored),
            Some(error) => Err(error.into()),
        }
    }

    /// Writes the file anew, or removes it when nothing is to be remembered: whole or not at all, and on the disk.
    fn save(&self) -> Result<(), SavedSysctlsError> {
        let saved = if self.entries.is_empty() {
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            }
        } else {
            self.replace()
        };
        saved.map_err(|source| SavedSysctlsError::File {
            path: self.path.clone(),
            source,
        })
    }

    fn replace(&self) -> io::Result<()> {
        let contents = Contents {
            version: 1,
            settings: self.entries.clone(),
        };
        let draft = self.path.with_extension("json.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        serde_json::to_writer_pretty(&mut file, &contents)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        match self.path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}
