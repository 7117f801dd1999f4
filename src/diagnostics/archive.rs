//! The archive of a bug report: texts, redacted, with a list of what is inside.

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

/// What everything in the archive lies in.
const FOLDER: &str = "voicelane-bugreport";

/// One text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveFile {
    /// Its name in the archive.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// What it says.
    pub text: String,
}

/// Texts that were redacted.
#[derive(Clone, Debug)]
pub struct Archive {
    files: Vec<ArchiveFile>,
}

impl Archive {
    /// Redacts the texts and adds a list of them.
    #[must_use]
    pub fn new(files: Vec<ArchiveFile>, redactor: &mut Redactor) -> Self {
        let redact = |file: ArchiveFile| ArchiveFile {
            text: redactor.redact(&file.text),
            ..file
        };
        let mut files: Vec<_> = files.into_iter().map(redact).collect();
        let (addresses, hardware) = redactor.counts();
        let mut list = format!(
            "What voicelane {} says of a machine, for whoever helps.\n\nTaken out, each with a stand-in that stays the \
             same: {addresses} addresses, {hardware} hardware addresses, names of hosts, users and homes. The policy's \
             own addresses stay. Look through it before it goes to somebody else.\n\n",
            env!("CARGO_PKG_VERSION")
        );
        for file in &files {
            writeln!(list, "{:<14} {}", file.name, file.about).expect("a string takes everything");
        }
        let about = "what is inside";
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

    /// The texts, the list of them first.
    #[must_use]
    pub fn files(&self) -> &[ArchiveFile] {
        &self.files
    }

    /// Writes a new file, a compressed tape archive, which nobody but its owner can read.
    ///
    /// # Errors
    /// When the file is there already, or cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        // A name that somebody else has put there, a link to elsewhere perhaps, is refused.
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
