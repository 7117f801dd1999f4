//! `voicelane check`: is a configuration valid, and if not, everything that is wrong with it.

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::civil::Date;
use serde_json::json;

use crate::config::Config;
use crate::daemon;
use crate::net::Protocol;
use crate::policy::Policy;

use super::sources::{BAD_CONFIG, Files, LoadError, Overrides};

/// What `voicelane check` is asked.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The one configuration file to check; without it, all that the service would read
    pub file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The files, if none is named
    #[command(flatten)]
    pub files: Files,
}

/// Checks a configuration and prints the result: exit code 0 for a valid one, 2 for a bad one.
///
/// # Errors
/// When nothing can be printed.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let files = args.file.as_deref().map(Files::of_file);
    let files = files.as_ref().unwrap_or(&args.files);
    let names = match files.list() {
        Ok(list) => list.into_iter(),
        Err(error) => return Ok(error.report()),
    };
    let names: Vec<_> = names
        .map(|(_, path)| path.to_string_lossy().into_owned())
        .collect();
    match files.load(&Overrides::default()) {
        Ok(effective) => {
            let (config, today) = (effective.config(), daemon::today());
            if args.json {
                super::print(&format!("{}\n", valid_json(&names, config, today)))?;
            } else {
                super::print(&format!("{}\n", summary(&names, config, today)))?;
                for warning in warnings(config) {
                    eprintln!("warning: {warning}");
                }
                if let Err(LoadError::Distrusted(why)) = files.judge() {
                    eprintln!("warning: `voicelane run` will not obey this: {why}");
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(LoadError::Faulty(faults)) if args.json => {
            let faulty =
                json!({"version": 1, "files": names, "valid": false, "faults": faults.list()});
            super::print(&format!("{faulty}\n"))?;
            Ok(ExitCode::from(BAD_CONFIG))
        }
        Err(error) => Ok(error.report()),
    }
}

fn summary(names: &[String], config: &Config, today: Date) -> String {
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
    let name = if names.is_empty() {
        "compiled in".to_owned()
    } else {
        names.join(", ")
    };
    format!(
        "{name}: valid; {active} of {} services active today: {ranges}",
        policy.rules().len()
    )
}

fn valid_json(names: &[String], config: &Config, today: Date) -> serde_json::Value {
    let policy = Policy::compile(config, today);
    let active = policy
        .rules()
        .iter()
        .filter(|rule| rule.is_active())
        .count();
    json!({
        "version": 1,
        "files": names,
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
    use std::fs;
    use std::path::Path;

    use super::*;

    const TODAY: Date = jiff::civil::date(2024, 6, 1);

    fn config(lines: &str) -> Config {
        Config::parse("it.toml", &format!("version = 1\n{lines}")).expect("valid")
    }

    #[test]
    fn a_valid_file_is_summed_up_in_a_line() {
        assert_eq!(
            summary(&["it.toml".to_owned()], &config(""), TODAY),
            "it.toml: valid; 12 of 23 services active today: udp 3478, udp 10000-60000"
        );
        assert_eq!(
            summary(&["it.toml".to_owned()], &config("include = []"), TODAY),
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
        let json = valid_json(&["it.toml".to_owned()], &config, TODAY);
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
            path
        };
        let code = |file: Option<&Path>, json| {
            let args = CheckArgs {
                file: file.map(Path::to_owned),
                json,
                files: Files {
                    config: None,
                    config_dir: dir.path().join("none"),
                },
            };
            run(&args).expect("an exit code")
        };
        let bad = ExitCode::from(2);
        assert_eq!(
            code(Some(&file("good.toml", b"version = 1")), false),
            ExitCode::SUCCESS
        );
        assert_eq!(code(Some(&file("bad.toml", b"version = 2")), false), bad);
        assert_eq!(code(Some(&file("latin1.toml", b"# \xe9")), false), bad);
        assert_eq!(code(Some(&dir.path().join("none.toml")), true), bad);
        assert_eq!(code(None, true), ExitCode::SUCCESS);
    }
}
