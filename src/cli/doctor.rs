//! `voicelane doctor`: checks this machine for faults and names the remedies.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use clap::Args;
use nix::unistd::Uid;

use crate::config::Config;
use crate::control;
use crate::doctor::{self, CheckOptions, CheckVerdict, DoctorReport, SystemFacts};
use crate::text::count;

use super::RuntimeDir;
use super::permissions::UnsafePermissions;
use super::sources::{Files, LoadError, Overrides};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON (version 1)
    #[arg(long)]
    json: bool,
    /// Also find the hop that changes EF: sends 8 small datagrams per address family to the vendor (needs root)
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
    Ok(super::exit::of_verdict(report.verdict))
}

/// Collects the options of the checks. A configuration with errors is replaced by the default one.
pub(super) fn options(files: &Files, overrides: &Overrides, runtime: &RuntimeDir) -> CheckOptions {
    let (config, config_fault) = match files.load(overrides) {
        Ok(effective) => (effective.into_config(), None),
        Err(error) => (Config::default(), Some(sentence(&error))),
    };
    // The user of the service reads the files, and owns its control socket.
    let socket = runtime.runtime_dir.join(control::SOCKET);
    let service = fs::metadata(socket).map_or(0, |socket| socket.uid());
    let trust = match files.check_permissions_for(Uid::from_raw(service)) {
        Ok(()) => Some(Ok(())),
        Err(LoadError::Unsafe(UnsafePermissions::Unreadable { cause, .. }))
            if cause.kind() == io::ErrorKind::PermissionDenied =>
        {
            None
        }
        // The configuration check reports these.
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

/// Returns the report as text, with the verdict first.
pub(super) fn text(report: &DoctorReport) -> String {
    let mut out = format!("{}\n\n", summary(report));
    let mut line = |verdict: &str, name: &str, what: &str| {
        writeln!(out, "{verdict:<8} {name:<14} {what}").expect("a string takes everything");
    };
    for finding in &report.findings {
        line(finding.verdict.name(), finding.name, &finding.found);
        if let Some(remedy) = &finding.remedy {
            line("", "", &format!("-> {remedy}"));
        }
    }
    let findings = report.findings.iter();
    let need_root = findings.filter(|finding| finding.root_knows);
    let need_root: Vec<_> = need_root.map(|finding| finding.name).collect();
    if !need_root.is_empty() {
        let names = need_root.join(", ");
        writeln!(
            out,
            "\nNot checked without root: {names}. Run: sudo voicelane doctor"
        )
        .expect("a string takes everything");
    }
    out
}

fn summary(report: &DoctorReport) -> String {
    let number = |verdict| {
        let findings = report.findings.iter();
        findings.filter(|it| it.verdict == verdict).count()
    };
    let problems: Vec<_> = [CheckVerdict::Fault, CheckVerdict::Warning]
        .into_iter()
        .filter(|verdict| number(*verdict) > 0)
        .map(|verdict| count(number(verdict), verdict.name()))
        .collect();
    let verdict = if problems.is_empty() {
        "No problem found".to_owned()
    } else {
        format!("Found {}", problems.join(" and "))
    };
    match number(CheckVerdict::Unknown) {
        0 => format!("{verdict}."),
        unknown => format!("{verdict}; {} not possible.", count(unknown, "check")),
    }
}
