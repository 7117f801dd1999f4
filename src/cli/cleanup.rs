//! `voicelane cleanup`: removes what a killed service left behind. With a bad configuration it goes by the defaults, and
//! answers 2 all the same.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::config::Config;
use crate::control::{self, Request};
use crate::daemon;
use crate::steering::Leftovers;

use super::RuntimeDir;
use super::sources::{Files, Overrides};

#[derive(Debug, Args)]
pub(super) struct CleanupArgs {
    /// The configuration of the killed service, which may have set other tables than the default ones.
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let (config, code) = match args.files.load_checked(&Overrides::default()) {
        Ok(config) => (config, ExitCode::SUCCESS),
        // It may be what the service has stumbled over. What it left behind is no less in the way.
        Err(error) => (Config::default(), error.report()),
    };
    if control::ask(&args.runtime.runtime_dir, Request::Status).is_ok() {
        bail!("voicelane is running: stop it first, it takes everything back by itself");
    }
    let leftovers = daemon::cleanup(&config, &args.runtime.runtime_dir)?;
    super::print(&text(&leftovers))?;
    Ok(code)
}

fn text(leftovers: &Leftovers) -> String {
    if *leftovers == Leftovers::default() {
        return "nothing was left behind\n".to_owned();
    }
    let mut out = String::new();
    let mut line = |what: String| writeln!(out, "{what}").expect("a string takes everything");
    for change in &leftovers.changes {
        line(change.to_string());
    }
    if leftovers.bypasses > 0 {
        line(format!("delete {} IPsec exemptions", leftovers.bypasses));
    }
    for setting in &leftovers.settings {
        line(format!("restore {} to {}", setting.key, setting.before));
    }
    out
}
