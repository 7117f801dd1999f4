//! `voicelane capture`: what passes the TUN, in a file for Wireshark.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::control;
use crate::diagnostics::{self, CaptureLimits, StopReason};

use super::{RuntimeDir, status};

#[derive(Debug, Args)]
pub(super) struct CaptureArgs {
    /// How long to record
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How many packets to record, at most
    #[arg(long, value_name = "PACKETS", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    packets: u64,
    /// The file to make; one that is there is not written over
    #[arg(long, short, value_name = "FILE", default_value = "voicelane.pcap")]
    output: PathBuf,
    /// Record whole packets: what is in them may be confidential
    #[arg(long)]
    payload: bool,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &CaptureArgs) -> anyhow::Result<ExitCode> {
    let status = match control::status(&args.runtime.runtime_dir) {
        Ok(status) => status,
        Err(error) => return Ok(status::not_told(&error)),
    };
    let limits = CaptureLimits {
        time: Duration::from_secs(args.seconds),
        packets: args.packets,
    };
    let (tun, file) = (&status.tun, args.output.display());
    eprintln!(
        "recording {tun} for {} s at most; Ctrl-C ends it",
        args.seconds
    );
    let captured = diagnostics::capture(tun, &args.output, args.payload, limits)
        .with_context(|| format!("could not record {tun} into {file} (needs root)"))?;
    let why = match captured.stop {
        StopReason::Time => "the time is over",
        StopReason::Packets => "these are as many as were asked for",
        StopReason::Signal => "interrupted",
        StopReason::Link => "the service has ended",
    };
    super::print(&format!("{} packets in {file}: {why}\n", captured.packets))?;
    Ok(ExitCode::SUCCESS)
}
