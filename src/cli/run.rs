//! `voicelane run`: runs the service in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use nix::unistd::Uid;
use tracing::warn;

use crate::daemon::{self, LastGood, LoadedConfig, Options, StartFailed};

use super::RuntimeDir;
use super::permissions::check_path;
use super::sources::{Files, Overrides};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Directory of the events and of the last configuration that worked; default: events in the runtime directory,
    /// which a reboot clears, and no last configuration
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
    let last_good = args.state_dir.as_ref().map(|dir| args.files.last_good(dir));
    let mut options = Options {
        state_dir: args.state_dir.clone(),
        runtime_dir: args.runtime.runtime_dir.clone(),
        last_good,
        start_error: None,
    };
    let fallback = || restore(options.last_good.as_ref()?, &args.overrides);
    let (loaded, fallback) = match args.files.load_checked(&args.overrides) {
        Ok(loaded) => {
            let fallback = fallback().filter(|(_, stored)| stored.documents != loaded.documents);
            (loaded, fallback)
        }
        Err(error) => {
            let code = error.report();
            let Some((saved, stored)) = fallback() else {
                return Ok(code);
            };
            options.start_error = Some(start_error(
                saved,
                &format!("{:#}", anyhow::Error::from(error)),
            ));
            (stored, None)
        }
    };
    super::require_admin("run")?;
    if let Some(error) = &options.start_error {
        warn!("{error}");
    }
    let serve = |loaded: &LoadedConfig, options: &Options| {
        let (files, overrides) = (args.files.clone(), args.overrides.clone());
        let source = move || Ok(files.load_checked(&overrides)?);
        daemon::run(loaded, options, source)
    };
    let outcome = serve(&loaded, &options);
    // The files are valid, but the kernel refused them.
    if let Err(error) = &outcome
        && error.downcast_ref::<StartFailed>().is_some()
        && let Some((saved, stored)) = fallback
    {
        let error = start_error(saved, &format!("{error:#}"));
        warn!("{error}");
        options.start_error = Some(error);
        serve(&stored, &options)?;
        return Ok(ExitCode::SUCCESS);
    }
    outcome?;
    Ok(ExitCode::SUCCESS)
}

/// The last configuration that worked, and the time since when it is known to work.
fn restore(last_good: &LastGood, overrides: &Overrides) -> Option<(Timestamp, LoadedConfig)> {
    let path = last_good.path();
    let unusable = |error: &dyn std::fmt::Display| {
        warn!(
            "The last configuration that worked is not usable: {}: {error}",
            path.display()
        );
    };
    let (saved, documents) = last_good
        .read()
        .inspect_err(|error| unusable(error))
        .ok()??;
    check_path(&path, Uid::effective())
        .inspect_err(|error| unusable(error))
        .ok()?;
    let loaded = overrides
        .load(documents)
        .inspect_err(|error| unusable(error))
        .ok()?;
    Some((saved, loaded))
}

fn start_error(saved: Timestamp, error: &str) -> String {
    let error = error.replace('\n', "; ");
    format!(
        "The configuration could not be used. The last one that worked, of {saved:.0}, is active. Correct the error and run \
         `voicelane reload`. Error: {error}"
    )
}
