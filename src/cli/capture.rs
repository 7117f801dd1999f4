//! `voicelane capture`: records packets into a file for Wireshark, on the applications' side or on the uplink's.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::control;
use crate::diagnostics::{self, CaptureLimits, StopReason};
use crate::text::count;

use super::sources::{Files, Overrides};
use super::{RuntimeDir, exit};

/// The place of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    /// The TUN: packets as applications send and receive them
    Tun,
    /// The uplink: packets after address translation, only from and to addresses of the policy
    Uplink,
}

impl Side {
    const fn description(self) -> &'static str {
        match self {
            Self::Tun => "the applications' side, before address translation",
            Self::Uplink => {
                "the uplink's side, after address translation, from and to addresses of the policy"
            }
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct CaptureArgs {
    /// Side of the translator that is recorded
    #[arg(long, value_enum, value_name = "SIDE", default_value = "tun")]
    side: Side,
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
    files: Files,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &CaptureArgs) -> anyhow::Result<ExitCode> {
    let status = match control::status(&args.runtime.runtime_dir) {
        Ok(status) => status,
        Err(error) => return Ok(exit::report(&error, false)),
    };
    let limits = CaptureLimits {
        time: Duration::from_secs(args.seconds),
        packets: args.packets,
    };
    let mut policy = Vec::new();
    if args.side == Side::Uplink {
        match args.files.load(&Overrides::default()) {
            Ok(effective) => {
                let services = effective.config().services().iter();
                policy.extend(services.flat_map(|service| service.prefixes.clone()));
            }
            Err(error) => return Ok(error.report()),
        }
    }
    let is_vendor = |address| policy.iter().any(|prefix| prefix.contains(address));
    let is_wanted = |from, to| args.side == Side::Tun || is_vendor(from) || is_vendor(to);
    let uplink = status.uplink.or(status.uplink_v6);
    let link = match args.side {
        Side::Tun => status.tun,
        Side::Uplink => uplink.context("there is no uplink to record")?.interface,
    };
    let (side, file) = (args.side.description(), args.output.display());
    complain!(
        "Recording {link} ({side}) for at most {} s. Press Ctrl-C to stop.",
        args.seconds
    );
    let captured = diagnostics::capture(&link, &args.output, args.payload, limits, is_wanted)
        .with_context(|| format!("could not record {link} into {file} (recording needs root)"))?;
    let reason = match captured.stop {
        StopReason::Time => "time limit reached",
        StopReason::Packets => "packet limit reached",
        StopReason::Signal => "interrupted",
        StopReason::Link => "the interface is gone",
    };
    let packets = count(captured.packets, "packet");
    super::print(&format!(
        "Recorded {packets} of {link} into {file} ({reason}): {side}.\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}
