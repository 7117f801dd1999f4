//! The command line: one file per command.
//!
//! Exit codes: 0 done; 1 failed; 2 the command line or the configuration is wrong, and nothing was touched; 3 the
//! service is not running (`status`, `reload`), or the system forbids what the demo needs (`demo`).

mod check;
mod cleanup;
mod config;
mod events;
mod explain;
mod log;
mod policy;
mod reload;
mod run;
mod status;
mod trust;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use tracing::Level;

use crate::daemon;

/// Talkdesk voice media leaves the VPN, marked EF; everything else stays in.
#[derive(Debug, Parser)]
#[command(name = "voicelane", version, arg_required_else_help = true)]
struct Cli {
    /// How much to log on standard error: error, warn, info, debug or trace.
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "VOICELANE_LOG",
        default_value = "info"
    )]
    log: Level,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service in the foreground (as root or with CAP_NET_ADMIN).
    Run(run::RunArgs),
    /// Show what the running service does.
    Status(status::StatusArgs),
    /// Let the running service read its configuration anew; a bad one leaves in force what is.
    Reload(reload::ReloadArgs),
    /// Tell what happened to the service and the network around it, and why.
    Events(events::EventsArgs),
    /// Tell what happens to a destination, and which rule says so.
    Explain(explain::ExplainArgs),
    /// Validate a configuration file.
    Check(check::CheckArgs),
    /// Look at the configuration's format.
    Config(config::ConfigArgs),
    /// Look at the policy.
    Policy(policy::PolicyArgs),
    /// Remove what a killed service left behind, and nothing else.
    Cleanup(cleanup::CleanupArgs),
    /// Show the main job in a world of its own, without touching this machine's network.
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
}

/// The exit code of a command line or a configuration that is wrong; nothing was touched.
const BAD_CONFIG: u8 = 2;

/// The exit code when no service answers.
const NOT_RUNNING: u8 = 3;

/// Where the service keeps its control socket and its journal.
#[derive(Debug, Args)]
struct RuntimeDir {
    /// The service's runtime directory.
    #[arg(
        long,
        value_name = "DIR",
        env = "VOICELANE_RUNTIME_DIR",
        default_value = "/run/voicelane"
    )]
    runtime_dir: PathBuf,
}

/// The definition of the command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line, runs the command, and answers its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { log, command } = Cli::parse();
    log::begin(log);
    let outcome = match command {
        Command::Run(args) => run::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Explain(args) => explain::run(&args, daemon::find_uplink),
        Command::Check(args) => check::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => crate::demo::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("voicelane: {error:#}");
        ExitCode::FAILURE
    })
}

/// Prints to standard output. A reader that has gone (`| head`) is no error.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
