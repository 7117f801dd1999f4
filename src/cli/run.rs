//! `voicelane run`: runs the service in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::daemon::{self, Options};

use super::RuntimeDir;
use super::sources::{Files, Overrides};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Directory of the events; default: the runtime directory, which a reboot clears
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let config = match args.files.load_checked(&args.overrides) {
        Ok(config) => config,
        Err(error) => return Ok(error.report()),
    };
    super::require_admin("run")?;
    let options = Options {
        state_dir: args.state_dir.clone(),
        runtime_dir: args.runtime.runtime_dir.clone(),
    };
    let (files, overrides) = (args.files.clone(), args.overrides.clone());
    let source = move || Ok(files.load_checked(&overrides)?);
    daemon::run(&config, &options, source)?;
    Ok(ExitCode::SUCCESS)
}
