//! `voicelane doctor`: checks this machine for faults and names the remedies.

use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use clap::Args;
use nix::unistd::Uid;

use crate::config::Config;
use crate::control::{self, AskError};
use crate::doctor::{self, CheckOptions, CheckVerdict, DoctorReport, Finding, SystemFacts};
use crate::text::count;

use super::RuntimeDir;
use super::permissions::UnsafePermissions;
use super::sources::{Files, LoadError, Overrides};

/// The program that reads the journal. An absolute path, because root may run the doctor.
const JOURNALCTL: &str = "/usr/bin/journalctl";

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON (version 1)
    #[arg(long)]
    json: bool,
    /// Show the checks that found no problem too
    #[arg(long)]
    all: bool,
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
        super::print(&text(&report, args.all))?;
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
        last_error: last_error(&runtime.runtime_dir),
        path: false,
    }
}

/// The last error in the service's journal; none while the service runs, or if this user may not read the journal.
fn last_error(runtime_dir: &Path) -> Option<String> {
    if !matches!(control::status(runtime_dir), Err(AskError::NotRunning(_))) {
        return None;
    }
    let journal = Command::new(JOURNALCTL)
        .args([
            "--unit=voicelane",
            "--lines=50",
            "--output=cat",
            "--no-pager",
            "--quiet",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    last_error_of(&String::from_utf8_lossy(&journal.ok()?.stdout))
}

/// Returns the last line of a journal that reports an error of the program.
fn last_error_of(journal: &str) -> Option<String> {
    let is_error = |line: &&str| line.starts_with("voicelane: ") || line.starts_with("error: ");
    let line = journal.lines().rev().find(is_error)?;
    let (_, error) = line.split_once(": ")?;
    Some(error.to_owned())
}

fn sentence(error: &LoadError) -> String {
    match error {
        LoadError::Read { cause, .. } => format!("{error}: {cause}"),
        _ => error.to_string().replace('\n', "; "),
    }
}

/// Returns the report as text: the verdict first, then the findings, the worst first. `all` includes checks without problem.
pub(super) fn text(report: &DoctorReport, all: bool) -> String {
    let mut out = format!("{}\n\n", summary(report));
    let mut line = |verdict: &str, name: &str, what: &str| {
        writeln!(out, "{verdict:<8} {name:<14} {what}").expect("a string takes everything");
    };
    let is_shown = |it: &&Finding| all || it.verdict != CheckVerdict::Ok;
    for finding in report.findings.iter().filter(is_shown) {
        line(finding.verdict.name(), finding.name, &finding.found);
        if let Some(remedy) = &finding.remedy {
            line("", "", &format!("-> {remedy}"));
        }
    }
    let hidden = report.findings.iter().filter(|it| !is_shown(it)).count();
    if hidden > 0 {
        let hidden = count(hidden, "result");
        line(
            "ok",
            "",
            &format!("{hidden} without a problem: --all shows them"),
        );
    }
    if !report.consequences.is_empty() {
        let names = report.consequences.join(", ");
        line(
            "",
            "",
            &format!("Left out, because a problem above causes them: {names}"),
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_the_journal_is_found() {
        let journal = "Starting voicelane\nerror: first\nvoicelane: could not open the TUN: busy\nMain process exited";
        let error = last_error_of(journal);
        assert_eq!(error.as_deref(), Some("could not open the TUN: busy"));
        assert_eq!(last_error_of("INFO started\n"), None);
    }
}
