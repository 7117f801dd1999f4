//! `voicelane run`: the service in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::daemon::{self, Options};

use super::{RuntimeDir, check};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The configuration file; without one the Talkdesk policy that is compiled in.
    #[arg(long, value_name = "FILE", env = "VOICELANE_CONFIG")]
    config: Option<PathBuf>,
    /// The interface that media leaves by, instead of the one that is found.
    #[arg(long, value_name = "IFACE", env = "VOICELANE_UPLINK")]
    uplink: Option<String>,
    /// The TUN's name, instead of the configured one.
    #[arg(long, value_name = "NAME", env = "VOICELANE_TUN")]
    tun: Option<String>,
    /// Where events are kept; the runtime directory if not given, which does not outlive a reboot.
    #[arg(long, value_name = "DIR", env = "VOICELANE_STATE_DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let config = match check::load_trusted(args.config.as_deref()) {
        Ok(config) => config,
        Err(error) => return Ok(error.report()),
    };
    let options = Options {
        uplink: args.uplink.clone(),
        tun: args.tun.clone(),
        state_dir: args.state_dir.clone(),
        runtime_dir: args.runtime.runtime_dir.clone(),
    };
    let file = args.config.clone();
    daemon::run(&config, &options, move || {
        Ok(check::load_trusted(file.as_deref())?)
    })?;
    Ok(ExitCode::SUCCESS)
}
