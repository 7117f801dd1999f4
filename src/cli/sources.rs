//! The configuration of a command: its files, the settings of the command line, and the permission check.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use nix::unistd::{Uid, User};

use crate::config::{Diagnostics, Document, Effective, Layer};
use crate::daemon::{LastGood, LoadedConfig};
use crate::files::read_regular;

use super::permissions::{UnsafePermissions, check_directory, check_path, check_readable};

pub(super) use super::exit::INVALID as BAD_CONFIG;

/// The user of the unit `voicelane.service`.
const SERVICE_USER: &str = "voicelane";

/// Largest configuration file in bytes.
const MAX_FILE_LEN: u64 = 4 << 20;

/// The reason why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// A file cannot be read, or is not UTF-8.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        cause: io::Error,
    },
    /// Other users can change a file.
    #[error("the permissions of the configuration are wrong")]
    Unsafe(#[from] UnsafePermissions),
    /// The files have errors.
    #[error(transparent)]
    Invalid(#[from] Diagnostics),
}

impl LoadError {
    /// Prints the error as JSON to stdout, or as text to stderr. Returns the exit code of an invalid configuration, 2.
    pub(super) fn report_as(&self, json: bool) -> ExitCode {
        if json {
            return super::exit::report_text(&self.sentence(), BAD_CONFIG, true);
        }
        self.report()
    }

    /// The error with its causes as one sentence.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::Read { cause, .. } => format!("{self}: {cause}"),
            Self::Unsafe(why @ UnsafePermissions::Unreadable { cause, .. }) => {
                format!("{self}: {why}: {cause}")
            }
            Self::Unsafe(why) => format!("{self}: {why}"),
            Self::Invalid(_) => self.to_string().replace('\n', "; "),
        }
    }

    /// Prints the error to stderr. Returns the exit code of an invalid configuration, 2.
    #[must_use]
    pub(super) fn report(&self) -> ExitCode {
        match self {
            Self::Read { .. } | Self::Unsafe(_) => complain!("error: {}", self.sentence()),
            Self::Invalid(diagnostics) => {
                let colour = io::stderr().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
                complain!("{}\n\n{}", diagnostics.render(colour), count(diagnostics));
            }
        }
        ExitCode::from(BAD_CONFIG)
    }
}

fn count(diagnostics: &Diagnostics) -> String {
    match diagnostics.list().len() {
        1 => "1 error; nothing was changed".into(),
        many => format!("{many} errors; nothing was changed"),
    }
}

/// The files of a command's configuration.
#[derive(Clone, Debug, Args)]
pub(super) struct Files {
    /// Read only this configuration file, without drop-ins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Configuration directory: voicelane.toml, then conf.d/*.toml in the order of their names
    #[arg(long, value_name = "DIR", default_value = "/etc/voicelane")]
    pub config_dir: PathBuf,
}

impl Files {
    /// Selects one file without drop-ins.
    pub(super) fn of_file(file: &Path) -> Self {
        Self {
            config: Some(file.to_owned()),
            config_dir: PathBuf::new(),
        }
    }

    /// Returns the files that exist. A later file overrides an earlier one.
    ///
    /// # Errors
    /// [`LoadError::Read`].
    pub(super) fn list(&self) -> Result<Vec<(Layer, PathBuf)>, LoadError> {
        if let Some(file) = &self.config {
            return Ok(vec![(Layer::Main, file.clone())]);
        }
        let main = self.config_dir.join("voicelane.toml");
        let mut files = Vec::new();
        if exists(&main)? {
            files.push((Layer::Main, main));
        }
        let drop_ins = self.drop_in_dir();
        if exists(&drop_ins)? {
            let names = names(&drop_ins).map_err(|cause| LoadError::Read {
                path: drop_ins.clone(),
                cause,
            })?;
            let paths = names.into_iter().map(|name| drop_ins.join(name));
            files.extend(paths.map(|path| (Layer::DropIn, path)));
        }
        files.extend(credential().map(|path| (Layer::Credential, path)));
        Ok(files)
    }

    /// Reads the files and the settings of the command line.
    ///
    /// # Errors
    /// [`LoadError::Read`] and [`LoadError::Invalid`].
    pub(super) fn load(&self, overrides: &Overrides) -> Result<Effective, LoadError> {
        let mut documents = self.documents()?;
        documents.extend(overrides.0.iter().cloned());
        Ok(Effective::read(documents)?)
    }

    /// Reads the texts of the files.
    fn documents(&self) -> Result<Vec<Document>, LoadError> {
        let mut documents = Vec::new();
        for (layer, path) in self.list()? {
            let text = read_text(&path).map_err(|cause| LoadError::Read {
                path: path.clone(),
                cause,
            })?;
            let name = path.to_string_lossy().into_owned();
            documents.push(Document { layer, name, text });
        }
        Ok(documents)
    }

    /// Does the same for a command that changes the machine's network: checks the permissions first.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(super) fn load_checked(&self, overrides: &Overrides) -> Result<LoadedConfig, LoadError> {
        self.check_permissions()?;
        Ok(overrides.load(self.documents()?)?)
    }

    /// The place of the last configuration that worked with these files.
    pub(super) fn last_good(&self, state_dir: &Path) -> LastGood {
        let origin = self.config.as_ref().unwrap_or(&self.config_dir);
        let origin = std::path::absolute(origin).unwrap_or_else(|_| origin.clone());
        LastGood::new(state_dir, &origin)
    }

    /// Checks that only root and this user can change the configuration.
    ///
    /// # Errors
    /// [`LoadError::Unsafe`], and [`LoadError::Read`] for an unreadable directory.
    pub(super) fn check_permissions(&self) -> Result<(), LoadError> {
        self.check_permissions_for(Uid::effective())
    }

    /// Does the same for a service that runs as the user `me`.
    ///
    /// # Errors
    /// As [`Files::check_permissions`].
    pub(super) fn check_permissions_for(&self, me: Uid) -> Result<(), LoadError> {
        if self.config.is_none() {
            for dir in [self.config_dir.clone(), self.drop_in_dir()] {
                if exists(&dir)? {
                    check_directory(&dir, me)?;
                }
            }
        }
        for (_, file) in self.list()? {
            check_path(&file, me)?;
        }
        Ok(())
    }

    /// Checks that the service accepts and can read the files: as its user, where packages have created it.
    ///
    /// # Errors
    /// As [`Files::check_permissions`].
    pub(super) fn check_permissions_of_service(&self) -> Result<(), LoadError> {
        let Ok(Some(user)) = User::from_name(SERVICE_USER) else {
            return self.check_permissions();
        };
        self.check_permissions_for(user.uid)?;
        for (layer, file) in self.list()? {
            // The service manager passes credentials.
            if layer != Layer::Credential {
                check_readable(&file, &user)?;
            }
        }
        Ok(())
    }

    fn drop_in_dir(&self) -> PathBuf {
        self.config_dir.join("conf.d")
    }
}

/// Reads a regular file up to [`MAX_FILE_LEN`].
fn read_text(path: &Path) -> io::Result<String> {
    if path.is_dir() {
        return Err(io::Error::other(
            "it is a directory; for a configuration directory run: voicelane check --config-dir DIR",
        ));
    }
    decode(read_regular(path, MAX_FILE_LEN)?).map_err(io::Error::other)
}

/// Decodes UTF-8, with or without a byte-order mark. Names the encoding of other text.
fn decode(mut bytes: Vec<u8>) -> Result<String, &'static str> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    // ASCII characters of UTF-16 have a zero in every second byte. TOML has none.
    let zeros = |first: usize| {
        let every_second = bytes.iter().skip(first).step_by(2).take(32);
        bytes.len() > 1
            && every_second.clone().filter(|it| **it == 0).count() * 2 > every_second.count()
    };
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || zeros(0) || zeros(1) {
        return Err("the file is UTF-16; save it as UTF-8");
    }
    String::from_utf8(bytes).map_err(|_| "the file is not UTF-8; save it as UTF-8")
}

/// The credential that systemd passes to the service. Only the service and root can read it.
fn credential() -> Option<PathBuf> {
    let dir = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| PathBuf::from("/run/credentials/voicelane.service"));
    let file = dir.join("voicelane.toml");
    file.exists().then_some(file)
}

fn exists(path: &Path) -> Result<bool, LoadError> {
    path.try_exists().map_err(|cause| LoadError::Read {
        path: path.to_owned(),
        cause,
    })
}

/// The drop-ins of a directory, sorted by the bytes of their names. Ignores other extensions: those are backups.
fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if Path::new(&name).extension() == Some(OsStr::new("toml")) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The settings that the command line overrides: the last layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides(Vec<Document>);

impl Overrides {
    /// Reads texts, then the settings of the command line.
    ///
    /// # Errors
    /// Every error of the texts.
    pub(super) fn load(&self, documents: Vec<Document>) -> Result<LoadedConfig, Diagnostics> {
        let all = documents.iter().chain(&self.0).cloned().collect();
        let config = Effective::read(all)?.into_config();
        Ok(LoadedConfig { config, documents })
    }
}

/// Flags that override a setting: flag, key, placeholder, help.
const SETTINGS: [(&str, &str, &str, &str); 2] = [
    (
        "uplink",
        "uplink.interface",
        "IFACE",
        "Interface through which media leaves the machine (overrides the configuration)",
    ),
    (
        "tun",
        "tun.name",
        "NAME",
        "Name of voicelane's TUN interface (overrides the configuration)",
    ),
];

impl Args for Overrides {
    fn augment_args(command: Command) -> Command {
        SETTINGS
            .iter()
            .fold(command, |command, &(flag, _, placeholder, help)| {
                command.arg(Arg::new(flag).long(flag).value_name(placeholder).help(help))
            })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let setting = |&(flag, key, ..): &(&str, &str, &str, &str)| {
            let value = matches.get_one::<String>(flag)?;
            let origin = match matches.value_source(flag)? {
                ValueSource::EnvVariable => super::environment_variable(flag),
                _ => format!("--{flag}"),
            };
            Some(Document::setting(&origin, key, value))
        };
        Ok(Self(SETTINGS.iter().filter_map(setting).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("below the directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn directory() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().expect("a directory");
        let files = Files {
            config: None,
            config_dir: dir.path().to_owned(),
        };
        (dir, files)
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("this test owns it");
    }

    #[test]
    fn drop_ins_come_after_the_file_in_the_order_of_their_names() {
        let (dir, files) = directory();
        assert_eq!(files.list().expect("nothing is there"), []);
        let file = |name: &str, lifetime: u32| {
            let text = format!("version = 1\n[nat]\nmapping_lifetime_seconds = {lifetime}");
            write(&dir.path().join(name), &text);
        };
        file("voicelane.toml", 200);
        file("conf.d/20-b.toml", 220);
        file("conf.d/10-a.toml", 210);
        file("conf.d/90-c.toml.dpkg-old", 290);
        let names: Vec<_> = files.list().expect("readable").into_iter().collect();
        let path = |name: &str| dir.path().join(name);
        assert_eq!(
            names,
            [
                (Layer::Main, path("voicelane.toml")),
                (Layer::DropIn, path("conf.d/10-a.toml")),
                (Layer::DropIn, path("conf.d/20-b.toml")),
            ]
        );
        let lifetime = |files: &Files| {
            let effective = files.load(&Overrides::default()).expect("valid");
            effective.config().nat().mapping_lifetime.as_secs()
        };
        assert_eq!(lifetime(&files), 220);
        assert_eq!(lifetime(&Files::of_file(&path("voicelane.toml"))), 200);
    }

    #[test]
    fn faults_name_their_file() {
        let (dir, files) = directory();
        write(
            &dir.path().join("voicelane.toml"),
            "version = 1\n[tun]\nname = '..'",
        );
        write(&dir.path().join("conf.d/x.toml"), "\nversion = 2");
        let Err(LoadError::Invalid(diagnostics)) = files.load(&Overrides::default()) else {
            panic!("two errors")
        };
        let spans: Vec<_> = diagnostics
            .list()
            .iter()
            .map(|diagnostic| diagnostic.span.to_string())
            .collect();
        assert_eq!(spans.len(), 2);
        assert!(
            spans[0].ends_with("/voicelane.toml:3:8") && spans[1].ends_with("/conf.d/x.toml:2:11")
        );
        assert_eq!(count(&diagnostics), "2 errors; nothing was changed");
    }

    #[test]
    fn a_file_that_is_no_text_is_named_with_the_reason() {
        let (dir, _) = directory();
        let file = dir.path().join("voicelane.toml");
        let cause = |bytes: &[u8]| {
            fs::write(&file, bytes).expect("a file");
            match Files::of_file(&file).load(&Overrides::default()) {
                Err(LoadError::Read { cause, .. }) => cause.to_string(),
                other => panic!("{other:?}"),
            }
        };
        let latin_1 = b"# caf\xe9";
        assert_eq!(cause(latin_1), "the file is not UTF-8; save it as UTF-8");
        for utf_16 in [
            &b"\xff\xfev\0e\0r\0"[..],
            b"\xfe\xff\0v\0e\0r",
            b"v\0e\0r\0",
            b"\0v\0e\0r",
        ] {
            assert_eq!(cause(utf_16), "the file is UTF-16; save it as UTF-8");
        }
        let large = vec![b'#'; (4 << 20) + 1];
        assert_eq!(cause(&large), "the file is larger than 4 MiB");
    }

    #[test]
    fn a_byte_order_mark_is_ignored_and_no_pipe_is_waited_for() {
        let (dir, _) = directory();
        let file = dir.path().join("voicelane.toml");
        fs::write(&file, b"\xef\xbb\xbfversion = 1\n").expect("a file");
        let loaded = Files::of_file(&file).load(&Overrides::default());
        loaded.expect("the mark is no text");
        let pipe = dir.path().join("pipe.toml");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        for (path, expected) in [
            (pipe.as_path(), "not a regular file"),
            (Path::new("/dev/zero"), "not a regular file"),
            (dir.path(), "it is a directory"),
        ] {
            let error = Files::of_file(path)
                .load(&Overrides::default())
                .expect_err("no file");
            assert!(error.sentence().contains(expected), "{}", error.sentence());
        }
    }

    #[test]
    fn a_chain_of_errors_has_each_diagnostic_once() {
        let (dir, _) = directory();
        let file = dir.path().join("voicelane.toml");
        write(&file, "version = 2");
        let result = Files::of_file(&file).load(&Overrides::default());
        let error = anyhow::Error::from(result.expect_err("a wrong version"));
        assert_eq!(format!("{error:#}").matches("unsupported").count(), 1);
    }

    #[test]
    fn a_directory_that_other_users_can_write_is_rejected() {
        let (dir, files) = directory();
        let drop_ins = dir.path().join("conf.d");
        write(&drop_ins.join("x.toml"), "version = 1");
        chmod(dir.path(), 0o755);
        chmod(&drop_ins, 0o755);
        chmod(&drop_ins.join("x.toml"), 0o644);
        files
            .load_checked(&Overrides::default())
            .expect("only this user can write");
        let is_unsafe = || {
            matches!(
                files.check_permissions(),
                Err(LoadError::Unsafe(UnsafePermissions::Writable { .. }))
            )
        };
        // The directory is empty, but every user can create a file in it.
        fs::remove_file(drop_ins.join("x.toml")).expect("it is there");
        chmod(&drop_ins, 0o777);
        assert!(is_unsafe());
        chmod(&drop_ins, 0o1777);
        assert!(is_unsafe(), "a sticky directory still takes new files");
        chmod(&drop_ins, 0o755);
        assert!(!is_unsafe());
        chmod(dir.path(), 0o775);
        assert!(is_unsafe());
    }
}
