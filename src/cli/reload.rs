//! `voicelane reload`: makes the running service reload its configuration, and shows the resulting state.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::control::{self, Body, Request, State};

use super::{RuntimeDir, exit, status};

#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    let runtime_dir = &args.runtime.runtime_dir;
    match control::ask(runtime_dir, Request::Reload)?.body {
        Body::Reloaded {} => {}
        Body::NotReloaded { error } => {
            complain!(
                "voicelane: Not reloaded. The previous configuration stays active. Error: {error}"
            );
            return Ok(ExitCode::from(exit::INVALID));
        }
        _ => bail!("the service sent an unexpected reply"),
    }
    let current = control::status(runtime_dir)?;
    let state = status::phrase(&current);
    super::print(&match &current.reason {
        Some(reason) => format!("Reloaded. State: {state}\n{reason}\n"),
        None => format!("Reloaded. State: {state}\n"),
    })?;
    Ok(match current.state {
        // A pause is what an administrator requested.
        State::NotWorking if current.paused_until.is_some() => ExitCode::SUCCESS,
        State::Working | State::Degraded => ExitCode::SUCCESS,
        State::NotWorking => ExitCode::FAILURE,
    })
}
