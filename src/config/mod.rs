//! The configuration: from a text to settings and services that are valid by construction, or to every fault in it.
//!
//! Three types, one after the other. The raw file (`raw`) is a TOML tree in which each value knows its place. The
//! [`Config`] is what remains when everything was checked: newtypes, no strings that stand for numbers, names that
//! exist, rules that do not contradict each other. The policy is compiled from it for a given day and is what the data
//! path reads. Nothing here opens a file: it is given a text and a name for it.

mod catalogue;
mod fault;
mod problem;
mod raw;
mod schema;
mod service;
mod settings;
mod space;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use fault::{Fault, Faults, Place};
pub use problem::Problem;
pub use schema::schema;
pub use service::Service;
pub use settings::{
    Control, Fallback, InterfaceName, InterfaceNameError, Nat, Route, Tun, Uplink, VpnMark,
};
pub use space::{Block, shortest};

use catalogue::CATALOGUES;
use fault::Source;
use problem::closest;
use raw::{At, Findings, Section, text};
use service::Draft;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    services: Vec<Service>,
    uplink: Uplink,
    tun: Tun,
    route: Route,
    nat: Nat,
    fallback: Fallback,
    control: Control,
}

impl Config {
    /// Reads a file's text; `file` is what faults call it.
    ///
    /// # Errors
    /// Every fault that the text has, at once.
    pub fn parse(file: &str, text: &str) -> Result<Self, Faults> {
        let source = Arc::new(Source {
            name: file.to_owned(),
            text: Cow::Owned(text.to_owned()),
        });
        let mut findings = Findings::new(source);
        let config = open(&mut findings, Self::read);
        match Faults::of(findings.faults) {
            Some(faults) => Err(faults),
            None => Ok(config),
        }
    }

    /// Every service, a catalogue's first, in the order of the files.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The way out for what leaves the VPN.
    #[must_use]
    pub const fn uplink(&self) -> &Uplink {
        &self.uplink
    }

    /// Where captured packets enter.
    #[must_use]
    pub const fn tun(&self) -> &Tun {
        &self.tun
    }

    /// The numbers of rules, tables and sockets.
    #[must_use]
    pub const fn route(&self) -> &Route {
        &self.route
    }

    /// How a mapping behaves.
    #[must_use]
    pub const fn nat(&self) -> &Nat {
        &self.nat
    }

    /// What becomes of a call whose direct way fails.
    #[must_use]
    pub const fn fallback(&self) -> &Fallback {
        &self.fallback
    }

    /// Who may ask the running service.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    fn read(root: &mut Section<'_>, findings: &mut Findings) -> Self {
        root.required(findings, "version", "version = 1", version);
        let include = root.list(
            findings,
            "include",
            "a list of catalogues, such as [\"talkdesk\"]",
            catalogue,
        );
        let names = "a list of services, such as [\"talkdesk-signalling\"]";
        let enable = root.list(findings, "enable", names, text("a service's name"));
        let disable = root.list(findings, "disable", names, text("a service's name"));
        let (uplink, tun) = settings::interfaces(root, findings);
        let (route, table) = settings::route(root, findings);
        let nat = settings::nat(root, findings);
        let fallback = settings::fallback(root, findings);
        let control = settings::control(root, findings);

        let included = include.map_or_else(
            || vec!["talkdesk"],
            |list| list.value.into_iter().map(|name| name.value).collect(),
        );
        let mut drafts = Vec::new();
        for catalogue in CATALOGUES
            .iter()
            .filter(|catalogue| included.contains(&catalogue.name))
        {
            drafts.extend(open_catalogue(catalogue, findings));
        }
        drafts.extend(root.sections(findings, "service", Draft::read));

        unique_names(&drafts, findings);
        let names =
            |list: Option<At<Vec<At<String>>>>| list.map_or_else(Vec::new, |list| list.value);
        switch(&mut drafts, &names(enable), &names(disable), findings);
        for (index, draft) in drafts.iter().enumerate() {
            findings.faults.extend(
                drafts[..index]
                    .iter()
                    .filter_map(|earlier| draft.contradiction(earlier)),
            );
        }
        let services: Vec<_> = drafts
            .into_iter()
            .filter_map(|draft| draft.service)
            .collect();
        enough_tables(&services, table.as_ref(), findings);
        Self {
            services,
            uplink,
            tun,
            route,
            nat,
            fallback,
            control,
        }
    }
}

impl Default for Config {
    /// What is in force without a file: the Talkdesk catalogue and every default.
    fn default() -> Self {
        Self::parse("defaults", "version = 1").expect("the compiled-in catalogue is valid, tested")
    }
}

/// Parses the text as far as it goes and reads it. Where it is no TOML, faults that may only follow from that are
/// left out.
fn open<R>(findings: &mut Findings, read: impl FnOnce(&mut Section<'_>, &mut Findings) -> R) -> R {
    let source = Arc::clone(&findings.source);
    let (root, errors): (Spanned<DeTable<'_>>, _) = DeTable::parse_recoverable(&source.text);
    let mut section = Section::root(&root);
    let answer = read(&mut section, findings);
    section.close(findings);
    if !errors.is_empty() {
        let line = |fault: &Fault| fault.place.line_and_column().0;
        let followed = std::mem::take(&mut findings.faults);
        for error in errors {
            let (message, expected) = error
                .message()
                .split_once(", expected ")
                .unwrap_or((error.message(), "TOML"));
            let problem = Problem::Syntax {
                message: message.to_owned(),
                expected: expected.to_owned(),
            };
            findings.push(error.span().unwrap_or_default(), String::new(), problem);
        }
        let broken: BTreeSet<usize> = findings.faults.iter().map(line).collect();
        let certain =
            |fault: &Fault| !fault.problem.needs_whole_file() && !broken.contains(&line(fault));
        findings.faults.extend(followed.into_iter().filter(certain));
    }
    answer
}

fn open_catalogue(catalogue: &catalogue::Catalogue, findings: &mut Findings) -> Vec<Draft> {
    let mut own = Findings::new(Arc::new(Source {
        name: catalogue.file.to_owned(),
        text: Cow::Borrowed(catalogue.text),
    }));
    let drafts = open(&mut own, |root, findings| {
        root.required(findings, "version", "version = 1", version);
        root.sections(findings, "service", Draft::read)
    });
    findings.faults.extend(own.faults);
    drafts
}

fn version(value: &DeValue<'_>) -> Result<(), Problem> {
    match value {
        DeValue::Integer(number) if number.as_str() == "1" => Ok(()),
        DeValue::Integer(number) => Err(Problem::Version(number.to_string())),
        other => Err(Problem::Type {
            found: other.type_str(),
            expected: "a whole number",
        }),
    }
}

fn catalogue(value: &DeValue<'_>) -> Result<&'static str, Problem> {
    let name = text("a catalogue's name, such as \"talkdesk\"")(value)?;
    let known = || CATALOGUES.iter().map(|catalogue| catalogue.name);
    known()
        .find(|known| *known == name)
        .ok_or_else(|| Problem::UnknownName {
            noun: "catalogue",
            meant: closest(&name, known()).map(str::to_owned),
            known: known().map(str::to_owned).collect(),
        })
}

/// Reports names that an earlier service has, and more services than there are rule ids.
fn unique_names(drafts: &[Draft], findings: &mut Findings) {
    for (index, draft) in drafts.iter().enumerate() {
        let Some(name) = &draft.name else { continue };
        let same = |earlier: &&Draft| {
            earlier
                .name
                .as_ref()
                .is_some_and(|its| its.value == name.value)
        };
        if let Some(earlier) = drafts[..index].iter().find(same) {
            findings.faults.push(Fault {
                related: Some(earlier.place()),
                ..name.fault(Some(&name.value), Problem::DuplicateService)
            });
        }
        if index == usize::from(u16::MAX) {
            findings
                .faults
                .push(name.fault(None, Problem::TooManyServices { most: u16::MAX }));
        }
    }
}

/// Applies `enable` and `disable`.
fn switch(
    drafts: &mut [Draft],
    enable: &[At<String>],
    disable: &[At<String>],
    findings: &mut Findings,
) {
    let known: Vec<_> = drafts
        .iter()
        .filter_map(|draft| draft.name.as_ref())
        .map(|name| name.value.clone())
        .collect();
    for (list, enabled) in [(enable, true), (disable, false)] {
        for name in list {
            if !known.contains(&name.value) {
                let problem = Problem::UnknownName {
                    noun: "service",
                    meant: closest(&name.value, &known).cloned(),
                    known: known.clone(),
                };
                findings.faults.push(name.fault(None, problem));
            }
            if !enabled && enable.iter().any(|other| other.value == name.value) {
                findings
                    .faults
                    .push(name.fault(None, Problem::EnabledAndDisabled));
            }
            let named = drafts.iter_mut().filter_map(|draft| draft.service.as_mut());
            for service in named.filter(|service| service.name == name.value) {
                service.enabled = enabled;
            }
        }
    }
}

/// Reports a base table above which there is no room: the direct table and one for each port range of any day.
fn enough_tables(services: &[Service], table: Option<&At<u32>>, findings: &mut Findings) {
    let Some(table) = table else { return };
    let enabled = services.iter().filter(|service| service.enabled);
    let ranges: BTreeSet<_> = enabled
        .flat_map(|service| service.ports.iter().map(|ports| (service.protocol, *ports)))
        .collect();
    let needed = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
    let (base, last) = (table.value, u64::from(table.value) + u64::from(needed));
    let clash = [0, 253, 254, 255]
        .into_iter()
        .find(|kernel| (u64::from(base)..=last).contains(&u64::from(*kernel)));
    let problem = match clash {
        Some(clash) => Problem::ReservedTable { clash, base, last },
        None if last > u64::from(u32::MAX) => Problem::TablesExhausted { base, needed },
        None => return,
    };
    findings.faults.push(table.fault(None, problem));
}
