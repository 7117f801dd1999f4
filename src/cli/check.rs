//! `voicelane check`: is a configuration valid, and if not, everything that is wrong with it.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::civil::Date;
use serde_json::json;

use crate::config::{Config, Faults};
use crate::daemon;
use crate::net::Protocol;
use crate::policy::Policy;

use super::BAD_CONFIG;
use super::trust::{Distrust, trust};

/// What `voicelane check` is asked.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The configuration to check; without one, what is compiled in
    pub file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// The file cannot be read, or is not UTF-8.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// Somebody else could change what the file says.
    #[error("the configuration is not safe to obey")]
    Distrusted(#[from] Distrust),
    /// The file has faults.
    #[error(transparent)]
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

/// Reads a configuration file; without one, answers what is compiled in.
///
/// # Errors
/// [`LoadError`] for a file that cannot be read and for one with faults.
pub(super) fn load(file: Option<&Path>) -> Result<Config, LoadError> {
    let Some(path) = file else {
        return Ok(Config::default());
    };
    let text = fs::read_to_string(path).map_err(|cause| LoadError::Read {
        path: path.to_owned(),
        cause,
    })?;
    Ok(Config::parse(&path.to_string_lossy(), &text)?)
}

/// The same for a command that changes the machine's network: others may not write the file or what leads to it.
///
/// # Errors
/// [`LoadError`].
pub(super) fn load_trusted(file: Option<&Path>) -> Result<Config, LoadError> {
    file.map_or(Ok(()), trust)?;
    load(file)
}

/// Checks a configuration and prints the result: exit code 0 for a valid one, 2 for a bad one.
///
/// # Errors
/// When nothing can be printed.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let name = args
        .file
        .as_ref()
        .map_or("compiled in".into(), |path| path.to_string_lossy());
    match load(args.file.as_deref()) {
        Ok(config) => {
            let today = daemon::today();
            if args.json {
                super::print(&format!("{}\n", valid_json(&name, &config, today)))?;
            } else {
                super::print(&format!("{}\n", summary(&name, &config, today)))?;
                for warning in warnings(&config) {
                    eprintln!("warning: {warning}");
                }
                if let Some(Err(why)) = args.file.as_deref().map(trust) {
                    eprintln!("warning: `voicelane run` will not obey this file: {why}");
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(LoadError::Faulty(faults)) if args.json => {
            let faulty =
                json!({"version": 1, "file": name, "valid": false, "faults": faults.list()});
            super::print(&format!("{faulty}\n"))?;
            Ok(ExitCode::from(BAD_CONFIG))
        }
        Err(error) => Ok(error.report()),
    }
}

fn count(faults: &Faults) -> String {
    match faults.list().len() {
        1 => "1 fault; nothing was changed".into(),
        many => format!("{many} faults; nothing was changed"),
    }
}

fn summary(name: &str, config: &Config, today: Date) -> String {
    let policy = Policy::compile(config, today);
    let active = policy
        .rules()
        .iter()
        .filter(|rule| rule.is_active())
        .count();
    let captures = policy.captures().iter();
    let ranges: Vec<_> = captures
        .map(|capture| format!("{} {}", capture.protocol, capture.ports))
        .collect();
    let ranges = if ranges.is_empty() {
        "nothing leaves the VPN".into()
    } else {
        ranges.join(", ")
    };
    format!(
        "{name}: valid; {active} of {} services active today: {ranges}",
        policy.rules().len()
    )
}

fn valid_json(name: &str, config: &Config, today: Date) -> serde_json::Value {
    let policy = Policy::compile(config, today);
    let active = policy
        .rules()
        .iter()
        .filter(|rule| rule.is_active())
        .count();
    json!({
        "version": 1,
        "file": name,
        "valid": true,
        "faults": [],
        "warnings": warnings(config),
        "services": policy.rules().len(),
        "active": active,
    })
}

/// What is allowed but worth a second thought: TCP 443 outside the VPN meets vendors that allow-list the VPN's address.
fn warnings(config: &Config) -> Vec<String> {
    let https = config.services().iter().filter(|service| {
        service.enabled
            && service.protocol == Protocol::Tcp
            && service.ports.iter().any(|ports| ports.contains(443))
    });
    https
        .map(|service| {
            format!(
                "service {:?} takes TCP 443 out of the VPN; where the vendor allow-lists the VPN's address for \
                 logins, agents can be locked out",
                service.name
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: Date = jiff::civil::date(2024, 6, 1);

    fn config(lines: &str) -> Config {
        Config::parse("it.toml", &format!("version = 1\n{lines}")).expect("valid")
    }

    #[test]
    fn a_valid_file_is_summed_up_in_a_line() {
        assert_eq!(
            summary("it.toml", &config(""), TODAY),
            "it.toml: valid; 12 of 23 services active today: udp 3478, udp 10000-60000"
        );
        assert_eq!(
            summary("it.toml", &config("include = []"), TODAY),
            "it.toml: valid; 0 of 0 services active today: nothing leaves the VPN"
        );
    }

    #[test]
    fn tcp_443_is_warned_of() {
        assert_eq!(warnings(&config("")), Vec::<String>::new());
        let config = config("enable = ['talkdesk-signalling', 'talkdesk-media-fallback']");
        let warned = warnings(&config);
        assert_eq!(warned.len(), 1);
        assert!(
            warned[0].starts_with("service \"talkdesk-signalling\" takes TCP 443 out of the VPN")
        );
        let json = valid_json("it.toml", &config, TODAY);
        assert_eq!(
            (&json["valid"], &json["active"]),
            (&json!(true), &json!(14))
        );
        assert_eq!(json["warnings"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn files_are_read_and_bad_ones_end_with_2() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("a file");
            CheckArgs {
                file: Some(path),
                json: false,
            }
        };
        let code = |args: &CheckArgs| run(args).expect("an exit code");
        assert_eq!(code(&file("good.toml", b"version = 1")), ExitCode::SUCCESS);
        assert_eq!(code(&file("bad.toml", b"version = 2")), ExitCode::from(2));
        assert_eq!(code(&file("latin1.toml", b"# \xe9")), ExitCode::from(2));
        assert_eq!(
            code(&CheckArgs {
                file: Some(dir.path().join("none.toml")),
                json: true
            }),
            ExitCode::from(2)
        );
        assert_eq!(
            code(&CheckArgs {
                file: None,
                json: true
            }),
            ExitCode::SUCCESS
        );
        let bad = load(file("two.toml", b"version = 2\nx = 1").file.as_deref());
        let Err(LoadError::Faulty(faults)) = bad else {
            panic!("expected faults, got {bad:?}")
        };
        assert_eq!(count(&faults), "2 faults; nothing was changed");
        assert!(faults.list()[0].place.file().ends_with("two.toml"));
    }
}
