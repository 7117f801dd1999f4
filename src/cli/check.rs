//! `voicelane check`: validates a configuration and prints all of its errors.

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::civil::Date;
use serde_json::json;

use crate::config::Config;
use crate::daemon;
use crate::net::Protocol;
use crate::policy::Policy;

use super::RuntimeDir;
use super::sources::{BAD_CONFIG, Files, LoadError, Overrides};

/// The arguments of `voicelane check`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Configuration file to check; by default all files that the service reads
    pub file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The files without a named one
    #[command(flatten)]
    pub files: Files,
    /// The directory of the running service
    #[command(flatten)]
    pub runtime: RuntimeDir,
}

/// Checks a configuration and prints the result. Exit code 0 for a valid one, 2 for one that the service would refuse.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let named = args.file.as_deref().map(Files::of_file);
    let files = named.as_ref().unwrap_or(&args.files);
    let names = match files.list() {
        Ok(list) => list.into_iter(),
        Err(error) => return Ok(error.report_as(args.json)),
    };
    let names: Vec<_> = names
        .map(|(_, path)| path.to_string_lossy().into_owned())
        .collect();
    let effective = match files.load(&Overrides::default()) {
        Ok(effective) => effective,
        Err(LoadError::Invalid(diagnostics)) if args.json => {
            let invalid = json!({"version": 1, "files": names, "valid": false, "diagnostics": diagnostics.list()});
            super::print(&format!("{invalid}\n"))?;
            return Ok(ExitCode::from(BAD_CONFIG));
        }
        Err(error) => return Ok(error.report_as(args.json)),
    };
    let (config, today) = (effective.config(), daemon::today());
    let mut warnings = warnings(config);
    warnings.extend(super::system_warnings::warnings(
        config,
        &args.runtime.runtime_dir,
    ));
    // A file elsewhere will have other permissions once it is installed.
    let file = args.file.as_ref();
    let is_installed = file.is_none_or(|file| {
        let file = file.canonicalize();
        let dir = args.files.config_dir.canonicalize();
        file.ok()
            .zip(dir.ok())
            .is_some_and(|(file, dir)| file.starts_with(dir))
    });
    match files.check_permissions_of_service() {
        Ok(()) => {}
        Err(error) if is_installed => return Ok(error.report_as(args.json)),
        Err(error) => warnings.push(format!(
            "the service rejects this file: {}",
            error.sentence()
        )),
    }
    if args.json {
        super::print(&format!(
            "{}\n",
            valid_json(&names, config, today, &warnings)
        ))?;
    } else {
        super::print(&format!("{}\n", summary(&names, config, today)))?;
        for warning in warnings {
            complain!("warning: {warning}");
        }
    }
    Ok(ExitCode::SUCCESS)
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
        "no traffic leaves the VPN".into()
    } else {
        ranges.join(", ")
    };
    let name = if names.is_empty() {
        "built-in defaults".to_owned()
    } else {
        names.join(", ")
    };
    format!(
        "{name}: valid; {active} of {} services active today: {ranges}",
        policy.rules().len()
    )
}

fn valid_json(
    names: &[String],
    config: &Config,
    today: Date,
    warnings: &[String],
) -> serde_json::Value {
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
        "diagnostics": [],
        "warnings": warnings,
        "services": policy.rules().len(),
        "active": active,
    })
}

/// Warns of TCP 443 outside the VPN: vendors that allow-list the VPN's address reject such logins.
fn warnings(config: &Config) -> Vec<String> {
    let https = config.services().iter().filter(|service| {
        service.enabled
            && service.protocol == Protocol::Tcp
            && service.ports.iter().any(|ports| ports.contains(443))
    });
    https
        .map(|service| {
            format!(
                "service {:?} takes TCP 443 out of the VPN; if the vendor accepts logins only from the VPN's address, \
                 agents cannot log in",
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
    fn the_summary_of_a_valid_file_is_one_line() {
        assert_eq!(
            summary(&["it.toml".to_owned()], &config(""), TODAY),
            "it.toml: valid; 12 of 23 services active today: udp 3478, udp 10000-60000"
        );
        assert_eq!(
            summary(&["it.toml".to_owned()], &config("include = []"), TODAY),
            "it.toml: valid; 0 of 0 services active today: no traffic leaves the VPN"
        );
    }

    #[test]
    fn tcp_443_causes_a_warning() {
        assert_eq!(warnings(&config("")), Vec::<String>::new());
        let config = config("enable = ['talkdesk-signalling', 'talkdesk-media-fallback']");
        let warned = warnings(&config);
        assert_eq!(warned.len(), 1);
        assert!(
            warned[0].starts_with("service \"talkdesk-signalling\" takes TCP 443 out of the VPN")
        );
        let json = valid_json(&["it.toml".to_owned()], &config, TODAY, &warned);
        assert_eq!(
            (&json["valid"], &json["active"]),
            (&json!(true), &json!(14))
        );
        assert_eq!(json["warnings"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn invalid_files_exit_with_2() {
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
                runtime: RuntimeDir {
                    runtime_dir: dir.path().to_owned(),
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
