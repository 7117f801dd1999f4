//! Which configuration a command reads: the files, what the command line adds, and whether they may be obeyed.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use nix::unistd::Uid;

use crate::config::{Config, Document, Effective, Faults, Layer};

use super::trust::{Distrust, trust};

/// The exit code of a bad configuration.
pub(super) const BAD_CONFIG: u8 = 2;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// A file cannot be read, or is not UTF-8.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// Somebody else could change what a file says.
    #[error("the configuration is not safe to obey")]
    Distrusted(#[from] Distrust),
    /// The files have faults.
    #[error("{0}")]
    Faulty(#[from] Faults),
}

impl LoadError {
    /// Tells a person on stderr; answers the exit code for a bad configuration, 2.
    #[must_use]
    pub(super) fn report(&self) -> ExitCode {
        match self {
            Self::Read { cause, .. } => eprintln!("error: {self}: {cause}"),
            Self::Distrusted(why @ Distrust::Hidden { cause, .. }) => {
                eprintln!("error: {self}: {why}: {cause}");
            }
            Self::Distrusted(why) => eprintln!("error: {self}: {why}"),
            Self::Faulty(faults) => {
                let colour = io::stderr().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
                eprintln!("{}\n\n{}", faults.render(colour), count(faults));
            }
        }
        ExitCode::from(BAD_CONFIG)
    }
}

fn count(faults: &Faults) -> String {
    match faults.list().len() {
        1 => "1 fault; nothing was changed".into(),
        many => format!("{many} faults; nothing was changed"),
    }
}

/// The files of a command's configuration.
#[derive(Clone, Debug, Args)]
pub(super) struct Files {
    /// This configuration file alone, without drop-ins, instead of those in the configuration's directory
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The configuration's directory: voicelane.toml, and conf.d/*.toml in the order of their names
    #[arg(long, value_name = "DIR", default_value = "/etc/voicelane")]
    pub config_dir: PathBuf,
}

impl Files {
    /// One file alone.
    pub(super) fn of_file(file: &Path) -> Self {
        Self {
            config: Some(file.to_owned()),
            config_dir: PathBuf::new(),
        }
    }

    /// Those that there are, the one with the last word last.
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

    /// Reads all layers.
    ///
    /// # Errors
    /// [`LoadError`] for a file that cannot be read and for faults.
    pub(super) fn load(&self, overrides: &Overrides) -> Result<Effective, LoadError> {
        let mut documents = Vec::new();
        for (layer, path) in self.list()? {
            let text = fs::read_to_string(&path).map_err(|cause| LoadError::Read {
                path: path.clone(),
                cause,
            })?;
            let name = path.to_string_lossy().into_owned();
            documents.push(Document { layer, name, text });
        }
        documents.extend(overrides.0.iter().cloned());
        Ok(Effective::read(documents)?)
    }

    /// The same for a command that changes the machine's network: others may not write a file or what leads to it, or
    /// put one there.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(super) fn load_trusted(&self, overrides: &Overrides) -> Result<Config, LoadError> {
        self.judge()?;
        Ok(self.load(overrides)?.into_config())
    }

    /// Whether nobody but root and we can change what the files say.
    ///
    /// # Errors
    /// [`LoadError::Distrusted`], and what keeps it from being found out.
    pub(super) fn judge(&self) -> Result<(), LoadError> {
        self.judge_for(Uid::effective())
    }

    /// The same for a service of another user.
    ///
    /// # Errors
    /// Likewise.
    pub(super) fn judge_for(&self, me: Uid) -> Result<(), LoadError> {
        if self.config.is_none() {
            for dir in [self.config_dir.clone(), self.drop_in_dir()] {
                if exists(&dir)? {
                    trust(&dir, me)?;
                }
            }
        }
        for (_, file) in self.list()? {
            trust(&file, me)?;
        }
        Ok(())
    }

    fn drop_in_dir(&self) -> PathBuf {
        self.config_dir.join("conf.d")
    }
}

/// What systemd hands to the service, as the service sees it and as root does. Nobody else may look there.
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

/// The names of a directory's drop-ins in the order of their bytes. What does not end in `.toml` is somebody's backup.
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

/// What the command line says beside the files: the last layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Overrides(Vec<Document>);

/// The flags that are settings: flag, key, placeholder, help.
const SETTINGS: [(&str, &str, &str, &str); 2] = [
    (
        "uplink",
        "uplink.interface",
        "IFACE",
        "The interface that media leave by, instead of the one that is configured or found",
    ),
    (
        "tun",
        "tun.name",
        "NAME",
        "Our interface's name, instead of the configured one",
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
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
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
        let Err(LoadError::Faulty(faults)) = files.load(&Overrides::default()) else {
            panic!("two faults")
        };
        let places: Vec<_> = faults
            .list()
            .iter()
            .map(|fault| fault.place.to_string())
            .collect();
        assert_eq!(places.len(), 2);
        assert!(
            places[0].ends_with("/voicelane.toml:3:8")
                && places[1].ends_with("/conf.d/x.toml:2:11")
        );
        assert_eq!(count(&faults), "2 faults; nothing was changed");
    }

    #[test]
    fn a_directory_that_others_may_write_is_not_obeyed() {
        let (dir, files) = directory();
        let drop_ins = dir.path().join("conf.d");
        write(&drop_ins.join("x.toml"), "version = 1");
        chmod(dir.path(), 0o755);
        chmod(&drop_ins, 0o755);
        chmod(&drop_ins.join("x.toml"), 0o644);
        files
            .load_trusted(&Overrides::default())
            .expect("ours alone");
        let distrusted = || {
            matches!(
                files.judge(),
                Err(LoadError::Distrusted(Distrust::Writable { .. }))
            )
        };
        // Nobody has put a file there yet, but anybody could.
        fs::remove_file(drop_ins.join("x.toml")).expect("it is there");
        chmod(&drop_ins, 0o777);
        assert!(distrusted());
        chmod(&drop_ins, 0o755);
        assert!(!distrusted());
        chmod(dir.path(), 0o775);
        assert!(distrusted());
    }
}
