//! The command line: one file per command.
//!
//! Exit codes: 0 done; 1 failed; 2 the command line or the configuration is wrong, and nothing was touched; 3 the
//! service is not running (`status`, `reload`), or the system forbids what the demo needs (`demo`). `status` answers 0 for working, 1 for
//! degraded, 2 for not working, 3 for not running, 4 when it cannot be told. `doctor` answers 0 when nothing is wrong as
//! far as it could look, 1 for warnings, 2 for faults.

mod bugreport;
mod capture;
mod check;
mod cleanup;
mod config;
mod doctor;
mod events;
mod explain;
mod log;
mod mappings;
mod permissions;
mod policy;
mod reload;
mod run;
mod sources;
mod status;
mod watch;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::Level;

use crate::daemon;

/// Talkdesk voice media leaves the VPN, marked EF; everything else stays in.
#[derive(Debug, Parser)]
#[command(name = "voicelane", version, arg_required_else_help = true)]
struct Cli {
    /// How much to log on standard error: error, warn, info, debug or trace.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    log: Level,
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run the service in the foreground (as root or with CAP_NET_ADMIN).
    Run(run::RunArgs),
    /// Show what the running service does.
    Status(status::StatusArgs),
    /// List who is on the phone, and by which endpoints.
    Mappings(mappings::MappingsArgs),
    /// Let the running service read its configuration anew; a bad one leaves in force what is.
    Reload(reload::ReloadArgs),
    /// Tell what happened to the service and the network around it, and why.
    Events(events::EventsArgs),
    /// Examine this machine: what is wrong, and what to do about it.
    Doctor(doctor::DoctorArgs),
    /// Write one archive for whoever helps, without names and addresses.
    Bugreport(bugreport::BugreportArgs),
    /// Record what passes the TUN for Wireshark: headers alone, unless more is asked for.
    Capture(capture::CaptureArgs),
    /// Tell what happens to a destination, and which rule says so.
    Explain(explain::ExplainArgs),
    /// Validate a configuration file.
    Check(check::CheckArgs),
    /// Look at the configuration in force, and at its format.
    Config(config::ConfigArgs),
    /// Look at the policy.
    Policy(policy::PolicyArgs),
    /// Remove what a killed service left behind, and nothing else.
    Cleanup(cleanup::CleanupArgs),
    /// Show the main job in a world of its own, without touching this machine's network.
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
}

/// The exit code when no service answers.
const NOT_RUNNING: u8 = 3;

/// Where the service keeps its control socket and its journal.
#[derive(Debug, Args)]
struct RuntimeDir {
    /// The service's runtime directory.
    #[arg(long, value_name = "DIR", default_value = "/run/voicelane")]
    runtime_dir: PathBuf,
}

/// The whole command line, for whoever draws from its definition.
#[must_use]
pub fn command() -> clap::Command {
    with_environment_variables(Cli::command())
}

/// Gives every flag its environment variable.
fn with_environment_variables(command: clap::Command) -> clap::Command {
    let twinned = command.mut_args(|arg| match arg.get_long().map(environment_variable) {
        Some(environment_variable) => arg.env(environment_variable),
        None => arg,
    });
    twinned.mut_subcommands(with_environment_variables)
}

/// The environment variable that says the same as a flag.
fn environment_variable(flag: &str) -> String {
    format!("VOICELANE_{}", flag.to_uppercase().replace('-', "_"))
}

/// Parses the command line, runs the command, and answers its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let parsed = Cli::from_arg_matches(&command().get_matches());
    let Cli { log, command } = parsed.unwrap_or_else(|error| error.exit());
    log::begin(log);
    let outcome = match command {
        CliCommand::Run(args) => run::run(&args),
        CliCommand::Status(args) => status::run(&args),
        CliCommand::Reload(args) => reload::run(&args),
        CliCommand::Mappings(args) => mappings::run(&args),
        CliCommand::Events(args) => events::run(&args),
        CliCommand::Doctor(args) => doctor::run(&args),
        CliCommand::Bugreport(args) => bugreport::run(&args),
        CliCommand::Capture(args) => capture::run(&args),
        CliCommand::Explain(args) => explain::run(&args, daemon::find_uplink),
        CliCommand::Check(args) => check::run(&args),
        CliCommand::Config(args) => config::run(&args),
        CliCommand::Policy(args) => policy::run(&args),
        CliCommand::Cleanup(args) => cleanup::run(&args),
        #[cfg(feature = "demo")]
        CliCommand::Demo(args) => crate::demo::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("voicelane: {error:#}");
        ExitCode::FAILURE
    })
}

/// Prints to standard output. A reader that has gone (`| head`) is no error.
fn print(text: &str) -> io::Result<()> {
    stream(text).map(drop)
}

/// Prints to standard output, one text of many; answers whether somebody still reads.
fn stream(text: &str) -> io::Result<bool> {
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

    fn walk(command: &clap::Command, visit: &mut impl FnMut(&clap::Arg)) {
        command.get_arguments().for_each(&mut *visit);
        for command in command.get_subcommands() {
            walk(command, visit);
        }
    }

    #[test]
    fn the_definition_holds() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        let mut flags = 0;
        walk(&command(), &mut |arg| {
            if let Some(long) = arg.get_long() {
                let environment_variable = arg.get_env().and_then(|env| env.to_str());
                let wanted = format!("VOICELANE_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(environment_variable, Some(wanted.as_str()), "--{long}");
                flags += 1;
            }
        });
        assert!(flags > 20, "{flags}");
    }

    #[test]
    fn every_default_of_a_flag_is_in_the_manual() {
        let manual = include_str!("../manual/defaults.rs");
        walk(&command(), &mut |arg| {
            let long = arg.get_long().unwrap_or_default();
            for default in arg.get_default_values() {
                let default = default.to_str().expect("UTF-8");
                // A switch is off by default.
                if ["true", "false"].contains(&default) {
                    continue;
                }
                let row = format!("`--{long}`");
                let mut rows = manual.lines().filter(|line| line.contains(&row));
                let row = rows
                    .next()
                    .unwrap_or_else(|| panic!("--{long} is not there"));
                assert!(row.contains(&format!("`{default}`")), "{row}");
            }
        });
    }
}
