//! `voicelane reload`: makes the running service reload its configuration.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::control::{self, AskError, Body, Request};

use super::{RuntimeDir, exit};

#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    match control::ask(&args.runtime.runtime_dir, Request::Reload) {
        Ok(reply) => match reply.body {
            Body::Reloaded {} => Ok(ExitCode::SUCCESS),
            Body::NotReloaded { error } => {
                eprintln!(
                    "voicelane: Not reloaded. The previous configuration stays active. Error: {error}"
                );
                Ok(ExitCode::from(exit::INVALID))
            }
            _ => bail!("the service sent an unexpected reply"),
        },
        Err(error @ AskError::NotRunning(_)) => {
            eprintln!("voicelane: {error}");
            Ok(ExitCode::from(exit::NOT_RUNNING))
        }
        Err(error) => Err(error.into()),
    }
}
