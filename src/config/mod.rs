//! The configuration: from a text to settings and services that are valid by construction, or to every fault in it.
//!
//! Three types, one after the other. The raw file (`raw`) is a TOML tree in which each value knows its place. The
//! [`Config`] is what remains when everything was checked: newtypes, no strings that stand for numbers, names that
//! exist, rules that do not contradict each other. The policy is compiled from it for a given day and is what the data
//! path reads. Nothing here opens a file: it is given texts and names for them.
//!
//! # Layers
//!
//! A configuration has layers: what is compiled in, IT's main file, drop-ins, the command line. Each value is the one
//! of the last layer that has it, key by key; a list is replaced as a whole, and a service by the whole service of the
//! same name. Every file is checked in full, also where a later one overrides it. [`Effective`] says where each value
//! comes from.

mod catalogue;
mod effective;
mod fault;
mod layer;
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

use toml::de::{DeTable, DeValue};

pub use effective::{Effective, Origin, Section as EffectiveSection, Value};
pub use fault::{Fault, Faults, Place};
pub use layer::{Document, Layer};
pub use problem::Problem;
pub use schema::schema;
pub use service::Service;
pub use settings::{
    Control, Fallback, Gateway, InterfaceName, InterfaceNameError, Listen, Metrics, Nat, Relay,
    Route, Tun, Uplink, VpnMark,
};
pub use space::{Block, shortest};

use catalogue::CATALOGUES;
use fault::Source;
use problem::closest;
use raw::{At, Findings, Section, text};
use service::Draft;

/// Where the values of a table stand, by key.
type Places = Vec<(&'static str, Place)>;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    services: Vec<Service>,
    uplink: Uplink,
    tun: Tun,
    route: Route,
    nat: Nat,
    fallback: Fallback,
    gateway: Gateway,
    relay: Relay,
    control: Control,
    metrics: Metrics,
}

impl Config {
    /// Reads a single file's text; `file` is what faults call it.
    ///
    /// # Errors
    /// Every fault that the text has, at once.
    pub fn parse(file: &str, text: &str) -> Result<Self, Faults> {
        let document = Document {
            layer: Layer::Main,
            name: file.to_owned(),
            text: text.to_owned(),
        };
        Ok(Effective::read(vec![document])?.into_config())
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

    /// Whose media is carried besides this machine's own.
    #[must_use]
    pub const fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// How packets are carried.
    #[must_use]
    pub const fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Who may ask the running service.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Where a monitoring system may read.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Reads the root of all files; the places of each service's values go with it.
    fn read(root: &mut Section<'_>, findings: &mut Findings) -> (Self, Vec<Places>) {
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
        let gateway = settings::gateway(root, (&uplink, &tun), findings);
        let relay = settings::relay(root, findings);
        let control = settings::control(root, findings);
        let metrics = settings::metrics(root, findings);

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
        root.note_origins(findings);

        let mut drafts = unique(drafts, findings);
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
        let read = drafts.into_iter();
        let (services, places): (Vec<_>, _) = read
            .filter_map(|draft| Some((draft.service?, draft.places)))
            .unzip();
        enough_tables(&services, table.as_ref(), findings);
        let config = Self {
            services,
            uplink,
            tun,
            route,
            nat,
            fallback,
            gateway,
            relay,
            control,
            metrics,
        };
        (config, places)
    }
}

impl Default for Config {
    /// What is in force without a file: the Talkdesk catalogue and every default.
    fn default() -> Self {
        let effective = Effective::read(Vec::new());
        effective
            .expect("the compiled-in catalogue is valid, tested")
            .into_config()
    }
}

/// Parses the texts as far as they go and reads them as one. Where one is no TOML, faults that may only follow from
/// that are left out.
fn open<R>(
    sources: &[Arc<Source>],
    findings: &mut Findings,
    read: impl FnOnce(&mut Section<'_>, &mut Findings) -> R,
) -> R {
    let parsed: Vec<_> = sources
        .iter()
        .map(|source| (source, DeTable::parse_recoverable(&source.text)))
        .collect();
    let mut section = Section::root(parsed.iter().map(|(source, (root, _))| (*source, root)));
    let answer = read(&mut section, findings);
    section.close(findings);

    let followed = std::mem::take(&mut findings.faults);
    for (source, (_, errors)) in &parsed {
        for error in errors {
            let (message, expected) = error
                .message()
                .split_once(", expected ")
                .unwrap_or((error.message(), "TOML"));
            let problem = Problem::Syntax {
                message: message.to_owned(),
                expected: expected.to_owned(),
            };
            let place = Place::new(source, error.span().unwrap_or_default());
            findings.push(place, String::new(), problem);
        }
    }
    let broken: Vec<Place> = findings
        .faults
        .iter()
        .map(|fault| fault.place.clone())
        .collect();
    let certain = |fault: &Fault| {
        let line = |place: &Place| place.line_and_column().0;
        let mut breaks = broken.iter();
        !breaks.any(|other| {
            let same_file = other.shares_file(&fault.place);
            same_file && (fault.problem.needs_whole_file() || line(other) == line(&fault.place))
                || fault.problem.needs_every_file()
        })
    };
    findings.faults.extend(followed.into_iter().filter(certain));
    answer
}

fn open_catalogue(catalogue: &catalogue::Catalogue, findings: &mut Findings) -> Vec<Draft> {
    let source = Arc::new(Source {
        layer: Layer::Vendor,
        rank: 0,
        name: catalogue.file.to_owned(),
        text: Cow::Borrowed(catalogue.text),
    });
    let mut own = Findings::default();
    let drafts = open(&[source], &mut own, |root, findings| {
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

/// Lets a service take the place of one of the same name in an earlier file. Reports two in the same file, and more
/// services than there are rule ids.
fn unique(drafts: Vec<Draft>, findings: &mut Findings) -> Vec<Draft> {
    let mut kept: Vec<Draft> = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let Some(name) = draft.name.clone() else {
            kept.push(draft);
            continue;
        };
        let same = |earlier: &&mut Draft| {
            let its = earlier.name.as_ref();
            its.is_some_and(|its| its.value == name.value)
        };
        match kept.iter_mut().find(same) {
            Some(earlier) if earlier.place().shares_file(&name.place) => {
                findings.faults.push(Fault {
                    related: Some(earlier.place()),
                    ..name.fault(Some(&name.value), Problem::DuplicateService)
                });
            }
            Some(earlier) => *earlier = draft,
            None => kept.push(draft),
        }
        if kept.len() > usize::from(u16::MAX) {
            let problem = Problem::TooManyServices { most: u16::MAX };
            findings.faults.push(name.fault(None, problem));
            break;
        }
    }
    kept
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
            for draft in drafts.iter_mut() {
                draft.switch(name, enabled);
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
