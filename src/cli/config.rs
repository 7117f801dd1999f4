//! `voicelane config schema`: what a configuration file may hold, for editors and other programs.

use std::process::ExitCode;

use crate::config::schema;

/// What `voicelane config` is asked.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// What to tell of the configuration
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// The commands on the configuration.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the JSON schema of a configuration file
    Schema,
}

/// Runs a command on the configuration.
///
/// # Errors
/// When nothing can be printed.
pub(super) fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let ConfigCommand::Schema = args.command;
    super::print(&format!("{:#}\n", schema()))?;
    Ok(ExitCode::SUCCESS)
}
