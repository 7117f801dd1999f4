//! `voicelane doctor`: what is wrong on this machine, and what to do about it.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use clap::Args;
use nix::unistd::Uid;

use crate::config::Config;
use crate::control;
use crate::doctor::{self, CheckOptions, CheckVerdict, DoctorReport, Finding, SystemFacts};

use super::RuntimeDir;
use super::permissions::UnsafePermissions;
use super::sources::{Files, LoadError, Overrides};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON (version 1) instead of text
    #[arg(long)]
    json: bool,
    /// Also see where on the way EF is lost: sends eight small datagrams of each family towards the vendor (as root)
    #[arg(long)]
    path: bool,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut options = options(&args.files, &args.overrides, &args.runtime);
    options.path = args.path;
    let report = doctor::run_checks(&SystemFacts::collect(options)?);
    if args.json {
        super::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        super::print(&text(&report))?;
    }
    Ok(ExitCode::from(match report.verdict {
        CheckVerdict::Ok | CheckVerdict::Unknown => 0,
        CheckVerdict::Warning => 1,
        CheckVerdict::Fault => 2,
    }))
}

/// What is to be examined; with a configuration that has faults, by the defaults.
pub(super) fn options(files: &Files, overrides: &Overrides, runtime: &RuntimeDir) -> CheckOptions {
    let (config, config_fault) = match files.load(overrides) {
        Ok(effective) => (effective.into_config(), None),
        Err(error) => (Config::default(), Some(sentence(&error))),
    };
    // Whoever asks, it is the service that obeys: its socket says whose it is.
    let socket = runtime.runtime_dir.join(control::SOCKET);
    let service = fs::metadata(socket).map_or(0, |socket| socket.uid());
    let trust = match files.check_permissions_for(Uid::from_raw(service)) {
        Ok(()) => Some(Ok(())),
        Err(LoadError::Unsafe(UnsafePermissions::Unreadable { cause, .. }))
            if cause.kind() == io::ErrorKind::PermissionDenied =>
        {
            None
        }
        // What cannot be read is the configuration's fault.
        Err(LoadError::Read { .. } | LoadError::Invalid(_)) => None,
        Err(LoadError::Unsafe(why)) => Some(Err(why.to_string())),
    };
    CheckOptions {
        config,
        config_fault,
        trust,
        runtime_dir: runtime.runtime_dir.clone(),
        path: false,
    }
}

fn sentence(error: &LoadError) -> String {
    match error {
        LoadError::Read { cause, .. } => format!("{error}: {cause}"),
        _ => error.to_string().replace('\n', "; "),
    }
}

/// A report for a person.
pub(super) fn text(report: &DoctorReport) -> String {
    let mut out = String::new();
    let mut line = |verdict: &str, name: &str, what: &str| {
        writeln!(out, "{verdict:<8} {name:<14} {what}").expect("a string takes everything");
    };
    for finding in &report.findings {
        line(finding.verdict.name(), finding.name, &finding.found);
        if let Some(remedy) = &finding.remedy {
            line("", "", &format!("-> {remedy}"));
        }
    }
    let count = |verdict| {
        let findings = report.findings.iter();
        findings.filter(|it| it.verdict == verdict).count()
    };
    let counts = [
        CheckVerdict::Fault,
        CheckVerdict::Warning,
        CheckVerdict::Unknown,
        CheckVerdict::Ok,
    ]
    .map(|verdict| format!("{} {}", count(verdict), verdict.name()));
    writeln!(out, "\n{}", counts.join(", ")).expect("a string takes everything");
    let hidden: Vec<_> = report.findings.iter().filter(|it| it.root_knows).collect();
    if !hidden.is_empty() {
        let names: Vec<_> = hidden
            .iter()
            .map(|finding: &&Finding| finding.name)
            .collect();
        writeln!(
            out,
            "root would know more of: {} (sudo voicelane doctor)",
            names.join(", ")
        )
        .expect("a string takes everything");
    }
    out
}
