//! `voicelane cleanup`: removes rules, routes and settings of a killed service. If the configuration has
//! errors, uses the default one and exits with 2.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::config::Config;
use crate::control::{self, Request};
use crate::daemon;
use crate::steering::Leftovers;
use crate::text::count;

use super::RuntimeDir;
use super::sources::{Files, Overrides};

#[derive(Debug, Args)]
pub(super) struct CleanupArgs {
    /// The configuration of the killed service, which may have other routing tables than the default.
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let (config, code) = match args.files.load_checked(&Overrides::default()) {
        Ok(loaded) => (loaded.config, ExitCode::SUCCESS),
        // These errors may have stopped the service. Its leftovers must be removed in any case.
        Err(error) => (Config::default(), error.report()),
    };
    if control::ask(&args.runtime.runtime_dir, Request::Status).is_ok() {
        bail!("voicelane is running. Stop it: it removes its rules and routes itself");
    }
    super::require_admin("cleanup")?;
    let leftovers = daemon::cleanup(&config, &args.runtime.runtime_dir)?;
    super::print(&text(&leftovers))?;
    Ok(code)
}

fn text(leftovers: &Leftovers) -> String {
    if *leftovers == Leftovers::default() {
        return "No rules, routes or settings were left behind.\n".to_owned();
    }
    let mut out = "Removed the leftovers of a killed voicelane:\n".to_owned();
    let mut line = |change: String| writeln!(out, "  {change}").expect("a string takes everything");
    for change in &leftovers.changes {
        line(change.to_string());
    }
    if leftovers.bypasses > 0 {
        line(format!(
            "delete {}",
            count(leftovers.bypasses, "IPsec bypass")
        ));
    }
    for setting in &leftovers.settings {
        line(format!("restore {} to {}", setting.key, setting.before));
    }
    out
}
