//! The command line: one file per command.
//!
//! `exit` has the exit codes. Each flag also has an environment variable: `--tun` is `VOICELANE_TUN`.

/// Prints a line to standard error. A closed pipe is not an error.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($text)*);
    }};
}

mod bugreport;
mod capture;
mod check;
mod cleanup;
mod config;
mod doctor;
mod events;
mod exit;
mod explain;
mod log;
mod mappings;
mod pause;
mod permissions;
mod policy;
mod programs;
mod reload;
mod run;
mod sources;
mod status;
mod summary;
mod system_warnings;
mod watch;

pub use exit::exit_codes;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use caps::{CapSet, Capability};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::Level;

/// Sends Talkdesk voice media past the VPN, marked EF. All other traffic stays in the VPN.
#[derive(Debug, Parser)]
#[command(name = "voicelane", version, arg_required_else_help = true)]
struct Cli {
    /// Log level: error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    log: Level,
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run the service in the foreground (needs root)
    Run(run::RunArgs),
    /// Show the state of the running service
    Status(status::StatusArgs),
    /// List the calls of the running service and their endpoints
    Mappings(mappings::MappingsArgs),
    /// Reload the configuration. If it has errors, the current one stays active
    Reload(reload::ReloadArgs),
    /// Keep all media in the VPN for a time
    Pause(pause::PauseArgs),
    /// End a pause
    Resume(pause::ResumeArgs),
    /// Show the events of the service and the network, and their causes
    Events(events::EventsArgs),
    /// Check this machine for problems and show the remedies
    Doctor(doctor::DoctorArgs),
    /// Write an archive for support, without names and addresses
    Bugreport(bugreport::BugreportArgs),
    /// Record packets of the TUN or of the uplink for Wireshark, by default headers only
    Capture(capture::CaptureArgs),
    /// Show the path that packets to a destination take now, and the reason
    Explain(explain::ExplainArgs),
    /// Check the configuration for errors
    Check(check::CheckArgs),
    /// Show the active configuration, or the schema of its files
    Config(config::ConfigArgs),
    /// Show the policy, or export it for other products
    Policy(policy::PolicyArgs),
    /// Remove rules, routes and settings of a killed service
    Cleanup(cleanup::CleanupArgs),
    /// Run a self-contained demo in network namespaces
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
}

/// The directory of the control socket and of the saved sysctls.
#[derive(Clone, Debug, Args)]
struct RuntimeDir {
    /// Runtime directory of the service
    #[arg(long, value_name = "DIR", default_value = "/run/voicelane")]
    runtime_dir: PathBuf,
}

/// Returns the definition of the whole command line, for the program, man pages and shell completions.
#[must_use]
pub fn command() -> clap::Command {
    with_environment_variables(Cli::command())
}

/// Adds its environment variable to every flag. The help hides them; the man pages list them.
fn with_environment_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_long().map(environment_variable) {
        Some(variable) => arg.env(variable).hide_env(true),
        None => arg,
    });
    command.mut_subcommands(with_environment_variables)
}

/// Returns the environment variable of a flag.
fn environment_variable(flag: &str) -> String {
    format!("VOICELANE_{}", flag.to_uppercase().replace('-', "_"))
}

/// Parses the command line, runs the command, and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let matches = with_exit_codes(command()).get_matches();
    let json = wants_json(&matches);
    let parsed = Cli::from_arg_matches(&matches);
    let Cli { log, command } = parsed.unwrap_or_else(|error| error.exit());
    log::start(log);
    let outcome = match command {
        CliCommand::Run(args) => run::run(&args),
        CliCommand::Status(args) => status::run(&args),
        CliCommand::Reload(args) => reload::run(&args),
        CliCommand::Pause(args) => pause::pause(&args),
        CliCommand::Resume(args) => pause::resume(&args),
        CliCommand::Mappings(args) => mappings::run(&args),
        CliCommand::Events(args) => events::run(&args),
        CliCommand::Doctor(args) => doctor::run(&args),
        CliCommand::Bugreport(args) => bugreport::run(&args),
        CliCommand::Capture(args) => capture::run(&args),
        CliCommand::Explain(args) => explain::run(&args),
        CliCommand::Check(args) => check::run(&args),
        CliCommand::Config(args) => config::run(&args),
        CliCommand::Policy(args) => policy::run(&args),
        CliCommand::Cleanup(args) => cleanup::run(&args),
        #[cfg(feature = "demo")]
        CliCommand::Demo(args) => crate::demo::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        exit::report_text(&format!("{error:#}"), exit::of_error(&error), json)
    })
}

/// Whether the command has the flag `--json`.
fn wants_json(matches: &ArgMatches) -> bool {
    let flag = matches.try_get_one::<bool>("json").ok().flatten();
    let is_nested = |(_, matches): (&str, &ArgMatches)| wants_json(matches);
    flag.copied().unwrap_or(false) || matches.subcommand().is_some_and(is_nested)
}

/// Adds the exit codes to the help of each command. The man pages have a section of their own.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    let help = exit::help(command.get_name());
    let command = command.after_help(help);
    command.mut_subcommands(with_exit_codes)
}

/// Checks that this process may change the machine's network.
///
/// # Errors
/// Without `CAP_NET_ADMIN`. The text names the command for root.
fn require_admin(command: &str) -> anyhow::Result<()> {
    let may_administer = caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN);
    if may_administer.unwrap_or(false) {
        Ok(())
    } else {
        Err(exit::NoPermission(command.to_owned()).into())
    }
}

/// Prints to standard output. A closed pipe (`| head`) is not an error.
fn print(text: &str) -> io::Result<()> {
    print_while_read(text).map(drop)
}

/// Prints to standard output. Returns false if the pipe is closed.
fn print_while_read(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn for_each_argument(command: &clap::Command, visit: &mut impl FnMut(&clap::Arg)) {
        command.get_arguments().for_each(&mut *visit);
        for command in command.get_subcommands() {
            for_each_argument(command, visit);
        }
    }

    #[test]
    fn the_definition_is_valid() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        let mut flags = 0;
        for_each_argument(&command(), &mut |arg| {
            if let Some(long) = arg.get_long() {
                let variable = arg.get_env().and_then(|env| env.to_str());
                let expected = format!("VOICELANE_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(variable, Some(expected.as_str()), "--{long}");
                flags += 1;
            }
        });
        assert!(flags > 20, "{flags}");
    }

    #[test]
    fn every_default_of_a_flag_is_in_the_manual() {
        let manual = include_str!("../manual/defaults.rs");
        for_each_argument(&command(), &mut |arg| {
            let long = arg.get_long().unwrap_or_default();
            for default in arg.get_default_values() {
                let default = default.to_str().expect("UTF-8");
                // A switch is off by default.
                if ["true", "false"].contains(&default) {
                    continue;
                }
                let row = format!("`--{long}`");
                let mut rows = manual.lines().filter(|line| line.contains(&row));
                let row = rows.next().unwrap_or_else(|| panic!("--{long} is missing"));
                assert!(row.contains(&format!("`{default}`")), "{row}");
            }
        });
    }
}
