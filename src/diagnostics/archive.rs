//! The archive of a bug report: redacted texts with a list of contents.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tar::{Builder, Header};

use super::redact::Redactor;
use crate::text::count;

/// The top-level directory of the archive.
const FOLDER: &str = "voicelane-bugreport";

/// A text file of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveFile {
    /// The name in the archive.
    pub name: &'static str,
    /// The description in the list of contents.
    pub about: &'static str,
    /// The content.
    pub text: String,
}

/// An archive of redacted texts.
#[derive(Clone, Debug)]
pub struct Archive {
    files: Vec<ArchiveFile>,
}

impl Archive {
    /// Redacts the texts and adds the list of contents.
    #[must_use]
    pub fn new(files: Vec<ArchiveFile>, redactor: &mut Redactor) -> Self {
        let redact = |file: ArchiveFile| ArchiveFile {
            text: redactor.redact(&file.text),
            ..file
        };
        let mut files: Vec<_> = files.into_iter().map(redact).collect();
        let (addresses, hardware) = redactor.counts();
        let mut list = format!(
            "Bug report of voicelane {}.\n\nReplaced, each by a name that is the same everywhere: {}, {}, names of hosts, \
             users and home directories. The addresses of the policy stay. Read the archive before you pass it \
             on.\n\n",
            env!("CARGO_PKG_VERSION"),
            count(addresses, "address"),
            count(hardware, "hardware address"),
        );
        for file in &files {
            writeln!(list, "{:<14} {}", file.name, file.about).expect("a string takes everything");
        }
        let about = "this list";
        files.insert(
            0,
            ArchiveFile {
                name: "README.txt",
                about,
                text: list,
            },
        );
        Self { files }
    }

    /// Returns the files, the list of contents first.
    #[must_use]
    pub fn files(&self) -> &[ArchiveFile] {
        &self.files
    }

    /// Writes a new tar.gz file that only its owner can read.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        // Refuses an existing name, for example a symbolic link of another user.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let mut archive = Builder::new(GzEncoder::new(file, Compression::default()));
        for ArchiveFile { name, text, .. } in &self.files {
            let mut header = Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(u64::try_from(Timestamp::now().as_second()).unwrap_or_default());
            archive.append_data(&mut header, format!("{FOLDER}/{name}"), text.as_bytes())?;
        }
        archive.into_inner()?.finish()?.flush()
    }
}
