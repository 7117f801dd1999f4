//! `voicelane bugreport`: writes an archive for support, without names and addresses.

use std::collections::BTreeSet;
use std::fmt::{Display, Write};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use nix::sys::utsname::uname;

use crate::config::Layer;
use crate::control::{self, AskError, Body, Event, Reply, Request};
use crate::daemon;
use crate::diagnostics::{self, Archive, ArchiveFile, IdentifyingNames, Redactor};
use crate::doctor::{self, SystemFacts};
use crate::route::observed::Observed;

use super::RuntimeDir;
use super::sources::{Files, Overrides};

#[derive(Debug, Args)]
pub(super) struct BugreportArgs {
    /// New archive; an existing file is not overwritten
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "voicelane-bugreport.tar.gz"
    )]
    output: PathBuf,
    /// Directory of the events of a stopped service; default: the runtime directory
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    runtime: RuntimeDir,
}

/// The programs that show the unit. Its files and its other properties may hold credentials and variables with secrets.
const SERVICE: &[&[&str]] = &[
    &[
        "systemctl",
        "show",
        "--no-pager",
        "--property=LoadState,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,NRestarts,UnitFileState",
        "--property=StateChangeTimestamp,FragmentPath,DropInPaths,NeedDaemonReload,User,Group,SupplementaryGroups",
        "voicelane.service",
    ],
    &[
        "journalctl",
        "--no-pager",
        "--no-hostname",
        "--output=short-iso",
        "--lines=2000",
        "--unit=voicelane.service",
    ],
];

/// The programs that show what other programs have put into the kernel.
const FIREWALL: &[&[&str]] = &[
    &["nft", "--numeric", "list", "ruleset"],
    &["iptables-save", "--counters"],
    &["ip6tables-save", "--counters"],
    &["ip", "-4", "rule"],
    &["ip", "-6", "rule"],
    &["ip", "-4", "route", "show", "table", "all"],
    &["ip", "-6", "route", "show", "table", "all"],
];

pub(super) fn run(args: &BugreportArgs) -> anyhow::Result<ExitCode> {
    let options = super::doctor::options(&args.files, &args.overrides, &args.runtime);
    let facts = SystemFacts::collect(options)?;
    let report = doctor::run_checks(&facts);
    let rules = facts.policy().rules().iter();
    let vendor = rules.flat_map(|rule| rule.service.prefixes.iter().copied());
    let mut redactor = Redactor::new(&identifying_names(), vendor.collect());
    let file = |name, about, text| ArchiveFile { name, about, text };
    let files = vec![
        file(
            "doctor.txt",
            "problems and remedies",
            super::doctor::text(&report, true),
        ),
        file(
            "doctor.json",
            "the same as JSON",
            serde_json::to_string_pretty(&report)?,
        ),
        file("status.json", "the status of the service", status(&facts)?),
        file(
            "events.jsonl",
            "events and their causes",
            or_error(events(args)),
        ),
        file(
            "config.toml",
            "the active configuration, with the origin of each value",
            config(args),
        ),
        file(
            "network.txt",
            "links, addresses, routes and rules",
            network(facts.observed()),
        ),
        file(
            "service.txt",
            "state and journal of the unit",
            diagnostics::outputs(SERVICE),
        ),
        file(
            "firewall.txt",
            "nftables and iptables rules, routing rules and routes",
            diagnostics::outputs(FIREWALL),
        ),
        file("versions.txt", "program, kernel, distribution", versions()),
    ];
    let archive = Archive::new(files, &mut redactor);
    archive.write(&args.output).with_context(|| {
        format!(
            "could not write {} (--output names another file)",
            args.output.display()
        )
    })?;
    let mut out = format!("Wrote {}:\n", args.output.display());
    for ArchiveFile { name, about, .. } in archive.files() {
        writeln!(out, "  {name:<14} {about}").expect("a string takes everything");
    }
    out.push_str("Names and addresses are replaced. Read the archive before you pass it on.\n");
    super::print(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn status(facts: &SystemFacts) -> anyhow::Result<String> {
    Ok(match facts.status() {
        Ok(status) => {
            let reply = Reply::new(Body::Status(Box::new(status.clone())));
            serde_json::to_string_pretty(&reply)?
        }
        Err(error) => serde_json::json!({ "error": error.to_string() }).to_string(),
    })
}

/// Returns a text, or its error as JSON.
fn or_error(text: anyhow::Result<String>) -> String {
    text.unwrap_or_else(|error| serde_json::json!({ "error": format!("{error:#}") }).to_string())
}

fn events(args: &BugreportArgs) -> anyhow::Result<String> {
    let runtime_dir = &args.runtime.runtime_dir;
    let events: Vec<Event> = match control::ask(runtime_dir, Request::Events { after: 0 }) {
        Ok(reply) => match reply.body {
            Body::Events(events) => events.events,
            _ => Vec::new(),
        },
        Err(AskError::NotRunning(_)) => {
            daemon::read_events(args.state_dir.as_ref().unwrap_or(runtime_dir))?
        }
        Err(error) => return Err(error.into()),
    };
    let lines = events.iter().map(serde_json::to_string);
    let lines: Vec<_> = lines.collect::<Result<_, _>>()?;
    Ok(lines.join("\n"))
}

fn config(args: &BugreportArgs) -> String {
    match args.files.load(&args.overrides) {
        Ok(effective) => {
            let mut sections = effective.sections();
            let values = sections.iter_mut().flat_map(|section| &mut section.values);
            // Values of a credential are secret.
            for value in values.filter(|it| it.origin.layer() == Layer::Credential) {
                value.written = Some("\"withheld\"".to_owned());
            }
            super::config::text(&sections)
        }
        Err(error) => format!("# {}", error.to_string().replace('\n', "\n# ")),
    }
}

fn network(observed: &Observed) -> String {
    let mut out = String::new();
    for link in &observed.links {
        let property = |name: &str| {
            let text = fs::read_to_string(format!("/sys/class/net/{}/{name}", link.name));
            text.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
        };
        let (hardware, mtu) = (property("address"), property("mtu"));
        let kind = link.kind.as_deref().unwrap_or("hardware");
        let flag = |is_set, word| if is_set { word } else { "-" };
        writeln!(
            out,
            "link #{} {} {kind} {} {} mtu {mtu} address {hardware}",
            link.index,
            link.name,
            flag(link.up, "up"),
            flag(link.carrier, "carrier"),
        )
        .expect("a string takes everything");
    }
    let mut list = |what: &str, it: &dyn Display| {
        writeln!(out, "{what} {it}").expect("a string takes everything");
    };
    for address in &observed.addresses {
        list(
            "address",
            &format_args!("{} on link #{}", address.addr, address.link),
        );
    }
    for rule in &observed.rules {
        list("policy", &format_args!("{rule} protocol {}", rule.protocol));
    }
    for route in &observed.routes {
        list(
            "route",
            &format_args!("{route} protocol {}", route.protocol),
        );
    }
    out
}

fn versions() -> String {
    let mut out = format!("voicelane {}\n", env!("CARGO_PKG_VERSION"));
    if let Ok(name) = uname() {
        let [system, release, version, machine] = [
            name.sysname(),
            name.release(),
            name.version(),
            name.machine(),
        ];
        let words = [system, release, version, machine].map(|it| it.to_string_lossy());
        writeln!(out, "{}", words.join(" ")).expect("a string takes everything");
    }
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = system
        .lines()
        .filter(|line| line.starts_with("PRETTY_NAME="));
    name.for_each(|line| writeln!(out, "{line}").expect("a string takes everything"));
    out
}

/// The first user id of a person (`UID_MIN` of login.defs(5)).
const FIRST_PERSON: u32 = 1_000;
/// Accounts that every system has.
const COMMON_USERS: [&str; 3] = ["root", "nobody", "voicelane"];
/// Home directories that every system has.
const COMMON_HOMES: [&str; 5] = ["/", "/root", "/home", "/nonexistent", "/var/empty"];

/// Returns the names that identify this machine and its users.
fn identifying_names() -> IdentifyingNames {
    let (mut hosts, mut users, mut homes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let own = uname().ok();
    let own = own.map(|name| name.nodename().to_string_lossy().into_owned());
    let kept = fs::read_to_string("/etc/hostname").unwrap_or_default();
    for name in own.iter().map(String::as_str).chain([kept.trim()]) {
        hosts.insert(name.to_owned());
        hosts.extend(name.split_once('.').map(|(short, _)| short.to_owned()));
    }
    hosts.remove("localhost");
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    for account in accounts.lines() {
        let fields: Vec<_> = account.split(':').collect();
        if let [name, _, number, _, _, home, ..] = fields[..]
            && number
                .parse()
                .is_ok_and(|number: u32| number >= FIRST_PERSON)
        {
            users.insert(name.to_owned());
            homes.insert(home.to_owned());
        }
    }
    let environment = |name| std::env::var(name).ok();
    users.extend(
        ["USER", "LOGNAME", "SUDO_USER"]
            .into_iter()
            .filter_map(environment),
    );
    homes.extend(environment("HOME"));
    users.retain(|name| !COMMON_USERS.contains(&name.as_str()));
    homes.retain(|home| !COMMON_HOMES.contains(&home.as_str()));
    IdentifyingNames {
        hosts: hosts.into_iter().collect(),
        users: users.into_iter().collect(),
        homes: homes.into_iter().collect(),
    }
}
