//! The configuration: from a text to settings and services that are valid by construction, or to every diagnostic in it.
//!
//! Three types, one after the other. The raw file (`raw`) is a TOML tree in which each value knows its span. The
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
mod diagnostic;
mod diagnostic_kind;
mod effective;
mod layer;
mod raw;
mod schema;
mod service;
mod settings;
mod span;
mod special_purpose;
mod suggestion;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

pub use diagnostic::{Diagnostic, Diagnostics};
pub use diagnostic_kind::DiagnosticKind;
pub use effective::{Effective, EffectiveSection, EffectiveValue, ValueOrigin};
pub use layer::{Document, Layer};
pub use schema::schema;
pub use service::PolicyService;
pub use settings::{
    ControlSettings, FallbackSettings, GatewaySettings, InterfaceName, InterfaceNameError,
    MetricsListen, MetricsSettings, NatSettings, RelaySettings, RouteSettings, TunSettings,
    UplinkSettings, VpnMark,
};
pub use span::Span;
pub use special_purpose::{PrefixRejection, SpecialPurposeBlock};

use catalogue::CATALOGUES;
use raw::{Collector, RawTable, Spanned, text};
use service::ServiceSpec;
use span::SourceFile;
use suggestion::closest;

/// Where the values of a table stand, by key.
type Spans = Vec<(&'static str, Span)>;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    services: Vec<PolicyService>,
    uplink: UplinkSettings,
    tun: TunSettings,
    route: RouteSettings,
    nat: NatSettings,
    fallback: FallbackSettings,
    gateway: GatewaySettings,
    relay: RelaySettings,
    control: ControlSettings,
    metrics: MetricsSettings,
}

impl Config {
    /// Reads a single file's text; `file` is what diagnostics call it.
    ///
    /// # Errors
    /// Every diagnostic that the text has, at once.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        let document = Document {
            layer: Layer::Main,
            name: file.to_owned(),
            text: text.to_owned(),
        };
        Ok(Effective::read(vec![document])?.into_config())
    }

    /// Every service, a catalogue's first, in the order of the files.
    #[must_use]
    pub fn services(&self) -> &[PolicyService] {
        &self.services
    }

    /// The way out for what leaves the VPN.
    #[must_use]
    pub const fn uplink(&self) -> &UplinkSettings {
        &self.uplink
    }

    /// Where captured packets enter.
    #[must_use]
    pub const fn tun(&self) -> &TunSettings {
        &self.tun
    }

    /// The numbers of rules, tables and sockets.
    #[must_use]
    pub const fn route(&self) -> &RouteSettings {
        &self.route
    }

    /// How a mapping behaves.
    #[must_use]
    pub const fn nat(&self) -> &NatSettings {
        &self.nat
    }

    /// What becomes of a call whose direct way fails.
    #[must_use]
    pub const fn fallback(&self) -> &FallbackSettings {
        &self.fallback
    }

    /// Whose media is carried besides this machine's own.
    #[must_use]
    pub const fn gateway(&self) -> &GatewaySettings {
        &self.gateway
    }

    /// How packets are carried.
    #[must_use]
    pub const fn relay(&self) -> &RelaySettings {
        &self.relay
    }

    /// Who may ask the running service.
    #[must_use]
    pub const fn control(&self) -> &ControlSettings {
        &self.control
    }

    /// Where a monitoring system may read.
    #[must_use]
    pub const fn metrics(&self) -> &MetricsSettings {
        &self.metrics
    }

    /// Reads the root of all files; the spans of each service's values go with it.
    fn read(root: &mut RawTable<'_>, collector: &mut Collector) -> (Self, Vec<Spans>) {
        root.required(collector, "version", "version = 1", version);
        let include = root.list(
            collector,
            "include",
            "a list of catalogues, such as [\"talkdesk\"]",
            catalogue,
        );
        let names = "a list of services, such as [\"talkdesk-signalling\"]";
        let enable = root.list(collector, "enable", names, text("a service's name"));
        let disable = root.list(collector, "disable", names, text("a service's name"));
        let (uplink, tun) = settings::interfaces(root, collector);
        let (route, table) = settings::route(root, collector);
        let nat = settings::nat(root, collector);
        let fallback = settings::fallback(root, collector);
        let gateway = settings::gateway(root, (&uplink, &tun), collector);
        let relay = settings::relay(root, collector);
        let control = settings::control(root, collector);
        let metrics = settings::metrics(root, collector);

        let included = include.map_or_else(
            || vec!["talkdesk"],
            |list| list.value.into_iter().map(|name| name.value).collect(),
        );
        let mut specs = Vec::new();
        for catalogue in CATALOGUES
            .iter()
            .filter(|catalogue| included.contains(&catalogue.name))
        {
            specs.extend(open_catalogue(catalogue, collector));
        }
        specs.extend(root.sections(collector, "service", ServiceSpec::read));
        root.note_origins(collector);

        let mut specs = unique(specs, collector);
        let names = |list: Option<Spanned<Vec<Spanned<String>>>>| {
            list.map_or_else(Vec::new, |list| list.value)
        };
        switch(&mut specs, &names(enable), &names(disable), collector);
        for (index, spec) in specs.iter().enumerate() {
            collector.diagnostics.extend(
                specs[..index]
                    .iter()
                    .filter_map(|earlier| spec.contradiction(earlier)),
            );
        }
        let read = specs.into_iter();
        let (services, spans): (Vec<_>, _) = read
            .filter_map(|spec| Some((spec.service?, spec.spans)))
            .unzip();
        enough_tables(&services, table.as_ref(), collector);
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
        (config, spans)
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

/// Parses the texts as far as they go and reads them as one. Where one is no TOML, diagnostics that may only follow from
/// that are left out.
fn open<R>(
    sources: &[Arc<SourceFile>],
    collector: &mut Collector,
    read: impl FnOnce(&mut RawTable<'_>, &mut Collector) -> R,
) -> R {
    let parsed: Vec<_> = sources
        .iter()
        .map(|source| (source, DeTable::parse_recoverable(&source.text)))
        .collect();
    let mut section = RawTable::root(parsed.iter().map(|(source, (root, _))| (*source, root)));
    let answer = read(&mut section, collector);
    section.close(collector);

    let followed = std::mem::take(&mut collector.diagnostics);
    for (source, (_, errors)) in &parsed {
        for error in errors {
            let (message, expected) = error
                .message()
                .split_once(", expected ")
                .unwrap_or((error.message(), "TOML"));
            let kind = DiagnosticKind::Syntax {
                message: message.to_owned(),
                expected: expected.to_owned(),
            };
            let span = Span::new(source, error.span().unwrap_or_default());
            collector.push(span, String::new(), kind);
        }
    }
    let broken: Vec<Span> = collector
        .diagnostics
        .iter()
        .map(|diagnostic| diagnostic.span.clone())
        .collect();
    let certain = |diagnostic: &Diagnostic| {
        let line = |span: &Span| span.line_and_column().0;
        let mut breaks = broken.iter();
        !breaks.any(|other| {
            let same_file = other.is_same_file(&diagnostic.span);
            same_file
                && (diagnostic.kind.needs_whole_file() || line(other) == line(&diagnostic.span))
                || diagnostic.kind.needs_every_file()
        })
    };
    collector
        .diagnostics
        .extend(followed.into_iter().filter(certain));
    answer
}

fn open_catalogue(catalogue: &catalogue::Catalogue, collector: &mut Collector) -> Vec<ServiceSpec> {
    let source = Arc::new(SourceFile {
        layer: Layer::Vendor,
        rank: 0,
        name: catalogue.file.to_owned(),
        text: Cow::Borrowed(catalogue.text),
    });
    let mut own = Collector::default();
    let specs = open(&[source], &mut own, |root, collector| {
        root.required(collector, "version", "version = 1", version);
        root.sections(collector, "service", ServiceSpec::read)
    });
    collector.diagnostics.extend(own.diagnostics);
    specs
}

fn version(value: &DeValue<'_>) -> Result<(), DiagnosticKind> {
    match value {
        DeValue::Integer(number) if number.as_str() == "1" => Ok(()),
        DeValue::Integer(number) => Err(DiagnosticKind::Version(number.to_string())),
        other => Err(DiagnosticKind::Type {
            found: other.type_str(),
            expected: "a whole number",
        }),
    }
}

fn catalogue(value: &DeValue<'_>) -> Result<&'static str, DiagnosticKind> {
    let name = text("a catalogue's name, such as \"talkdesk\"")(value)?;
    let known = || CATALOGUES.iter().map(|catalogue| catalogue.name);
    known()
        .find(|known| *known == name)
        .ok_or_else(|| DiagnosticKind::UnknownName {
            noun: "catalogue",
            meant: closest(&name, known()).map(str::to_owned),
            known: known().map(str::to_owned).collect(),
        })
}

/// Lets a service take the span of one of the same name in an earlier file. Reports two in the same file, and more
/// services than there are rule ids.
fn unique(specs: Vec<ServiceSpec>, collector: &mut Collector) -> Vec<ServiceSpec> {
    let mut kept: Vec<ServiceSpec> = Vec::with_capacity(specs.len());
    for spec in specs {
        let Some(name) = spec.name.clone() else {
            kept.push(spec);
            continue;
        };
        let same = |earlier: &&mut ServiceSpec| {
            let its = earlier.name.as_ref();
            its.is_some_and(|its| its.value == name.value)
        };
        match kept.iter_mut().find(same) {
            Some(earlier) if earlier.span().is_same_file(&name.span) => {
                collector.diagnostics.push(Diagnostic {
                    related: Some(earlier.span()),
                    ..name.diagnostic(Some(&name.value), DiagnosticKind::DuplicateService)
                });
            }
            Some(earlier) => *earlier = spec,
            None => kept.push(spec),
        }
        if kept.len() > usize::from(u16::MAX) {
            let kind = DiagnosticKind::TooManyServices { most: u16::MAX };
            collector.diagnostics.push(name.diagnostic(None, kind));
            break;
        }
    }
    kept
}

/// Applies `enable` and `disable`.
fn switch(
    specs: &mut [ServiceSpec],
    enable: &[Spanned<String>],
    disable: &[Spanned<String>],
    collector: &mut Collector,
) {
    let known: Vec<_> = specs
        .iter()
        .filter_map(|spec| spec.name.as_ref())
        .map(|name| name.value.clone())
        .collect();
    for (list, enabled) in [(enable, true), (disable, false)] {
        for name in list {
            if !known.contains(&name.value) {
                let kind = DiagnosticKind::UnknownName {
                    noun: "service",
                    meant: closest(&name.value, &known).cloned(),
                    known: known.clone(),
                };
                collector.diagnostics.push(name.diagnostic(None, kind));
            }
            if !enabled && enable.iter().any(|other| other.value == name.value) {
                collector
                    .diagnostics
                    .push(name.diagnostic(None, DiagnosticKind::EnabledAndDisabled));
            }
            for spec in specs.iter_mut() {
                spec.switch(name, enabled);
            }
        }
    }
}

/// Reports a base table above which there is no room: the direct table and one for each port range of any day.
fn enough_tables(
    services: &[PolicyService],
    table: Option<&Spanned<u32>>,
    collector: &mut Collector,
) {
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
    let kind = match clash {
        Some(clash) => DiagnosticKind::ReservedTable { clash, base, last },
        None if last > u64::from(u32::MAX) => DiagnosticKind::TablesExhausted { base, needed },
        None => return,
    };
    collector.diagnostics.push(table.diagnostic(None, kind));
}
