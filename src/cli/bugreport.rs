//! `voicelane bugreport`: one archive for whoever helps, without names and addresses.

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
use crate::diagnostics::{Archive, ArchiveFile, IdentifyingNames, Redactor};
use crate::doctor::{self, SystemFacts};
use crate::route::observed::Observed;

use super::RuntimeDir;
use super::sources::{Files, Overrides};

#[derive(Debug, Args)]
pub(super) struct BugreportArgs {
    /// The archive to make; one that is there is not written over
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "voicelane-bugreport.tar.gz"
    )]
    output: PathBuf,
    /// Where a service that does not run has left its events; its runtime directory if not given
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    runtime: RuntimeDir,
}

pub(super) fn run(args: &BugreportArgs) -> anyhow::Result<ExitCode> {
    let options = super::doctor::options(&args.files, &args.overrides, &args.runtime);
    let facts = SystemFacts::collect(options)?;
    let report = doctor::run_checks(&facts);
    let rules = facts.policy().rules().iter();
    let vendor = rules.flat_map(|rule| rule.prefixes.iter().copied());
    let mut redactor = Redactor::new(&secrets(), vendor.collect());
    let file = |name, about, text| ArchiveFile { name, about, text };
    let files = vec![
        file(
            "doctor.txt",
            "what is wrong, and what to do",
            super::doctor::text(&report),
        ),
        file(
            "doctor.json",
            "the same for programs",
            serde_json::to_string_pretty(&report)?,
        ),
        file(
            "status.json",
            "what the service says of itself",
            status(&facts)?,
        ),
        file("events.jsonl", "what happened, and why", told(events(args))),
        file(
            "config.toml",
            "the configuration in force, and which line says so",
            config(args),
        ),
        file(
            "network.txt",
            "links, addresses, routes and rules, by our own netlink",
            network(facts.observed()),
        ),
        file("versions.txt", "program, kernel, distribution", versions()),
    ];
    let archive = Archive::new(files, &mut redactor);
    archive
        .write(&args.output)
        .with_context(|| format!("could not make {}", args.output.display()))?;
    let mut out = format!("{} has:\n", args.output.display());
    for ArchiveFile { name, about, .. } in archive.files() {
        writeln!(out, "  {name:<14} {about}").expect("a string takes everything");
    }
    out.push_str("Names and addresses were taken out; look through it before you pass it on.\n");
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

/// A text, or why there is none.
fn told(text: anyhow::Result<String>) -> String {
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
            // Users must not read what came by a credential, and an archive is read by more than users.
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
        let set = |is, word| if is { word } else { "-" };
        writeln!(
            out,
            "link #{} {} {kind} {} {} mtu {mtu} address {hardware}",
            link.index,
            link.name,
            set(link.up, "up"),
            set(link.carrier, "carrier"),
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

/// The first number of a person's account; below are the system's (`UID_MIN` of login.defs(5)).
const FIRST_PERSON: u32 = 1_000;
/// Accounts that every system has.
const EVERYBODYS: [&str; 3] = ["root", "nobody", "voicelane"];
/// Directories that every system has.
const COMMON: [&str; 5] = ["/", "/root", "/home", "/nonexistent", "/var/empty"];

/// What is known here to say who and where.
fn secrets() -> IdentifyingNames {
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
    users.retain(|name| !EVERYBODYS.contains(&name.as_str()));
    homes.retain(|home| !COMMON.contains(&home.as_str()));
    IdentifyingNames {
        hosts: hosts.into_iter().collect(),
        users: users.into_iter().collect(),
        homes: homes.into_iter().collect(),
    }
}
