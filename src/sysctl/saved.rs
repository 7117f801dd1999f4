//! Former values of sysctls, kept on disk so that they are restored even after a kill.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{SysctlError, SysctlKey, read, write};

/// Name of the file in the runtime directory.
const FILE: &str = "state.json";

/// The saved sysctls could not be read, written or restored.
#[derive(Debug, thiserror::Error)]
pub enum SavedSysctlsError {
    /// The file could not be read or written.
    #[error("cannot read or write the saved sysctls {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file has another format.
    #[error("{} holds no saved sysctls: look at it, then remove it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The error in it.
        source: serde_json::Error,
    },
    /// A sysctl could not be changed.
    #[error(transparent)]
    Setting(#[from] SysctlError),
}

/// A changed sysctl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSysctl {
    /// The sysctl.
    pub key: SysctlKey,
    /// Value before the change.
    pub before: String,
    /// Value after the change.
    pub after: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    settings: Vec<SavedSysctl>,
}

/// Sysctls that were changed and not yet restored.
#[derive(Debug)]
pub struct SavedSysctls {
    path: PathBuf,
    entries: Vec<SavedSysctl>,
}

impl SavedSysctls {
    /// Reads the file of a runtime directory. A missing file is empty.
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

    /// Returns the changed sysctls.
    #[must_use]
    pub fn entries(&self) -> &[SavedSysctl] {
        &self.entries
    }

    /// Changes a sysctl, after its present value is on disk. No effect if it already has the value.
    ///
    /// # Errors
    /// [`SavedSysctlsError`]; the sysctl is then unchanged.
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

    /// Restores the sysctls that `is_selected` accepts, and returns them.
    ///
    /// A sysctl with a value of another program stays as it is. A sysctl of a missing interface is forgotten.
    ///
    /// # Errors
    /// [`SavedSysctlsError`]; a sysctl that could not be restored stays in the file.
    pub fn restore(
        &mut self,
        is_selected: impl Fn(&SavedSysctl) -> bool,
    ) -> Result<Vec<SavedSysctl>, SavedSysctlsError> {
        let (mut restored, mut first_error) = (Vec::new(), None);
        self.entries.retain(|entry| {
            if !is_selected(entry) {
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

    /// Replaces the file atomically, or removes it if nothing is saved.
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
        let temporary = self.path.with_extension("json.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        serde_json::to_writer_pretty(&mut file, &contents)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        match self.path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}
