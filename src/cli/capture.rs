//! `voicelane capture`: records the packets of the TUN into a file for Wireshark.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::control;
use crate::diagnostics::{self, CaptureLimits, StopReason};
use crate::text::count;

use super::{RuntimeDir, exit};

#[derive(Debug, Args)]
pub(super) struct CaptureArgs {
    /// Recording time in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Maximum number of packets
    #[arg(long, value_name = "PACKETS", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    packets: u64,
    /// New file; an existing file is not overwritten
    #[arg(long, short, value_name = "FILE", default_value = "voicelane.pcap")]
    output: PathBuf,
    /// Record whole packets, which may contain confidential data
    #[arg(long)]
    payload: bool,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &CaptureArgs) -> anyhow::Result<ExitCode> {
    let status = match control::status(&args.runtime.runtime_dir) {
        Ok(status) => status,
        Err(error) => return Ok(exit::report(&error)),
    };
    let limits = CaptureLimits {
        time: Duration::from_secs(args.seconds),
        packets: args.packets,
    };
    let (tun, file) = (&status.tun, args.output.display());
    eprintln!(
        "Recording {tun} for at most {} s. Press Ctrl-C to stop.",
        args.seconds
    );
    let captured = diagnostics::capture(tun, &args.output, args.payload, limits)
        .with_context(|| format!("could not record {tun} into {file} (recording needs root)"))?;
    let reason = match captured.stop {
        StopReason::Time => "time limit reached",
        StopReason::Packets => "packet limit reached",
        StopReason::Signal => "interrupted",
        StopReason::Link => "the service stopped",
    };
    let packets = count(captured.packets, "packet");
    super::print(&format!("Recorded {packets} into {file} ({reason}).\n"))?;
    Ok(ExitCode::SUCCESS)
}
