//! Reads the texts of all layers into a configuration, or into every error that they have.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use toml::de::DeTable;

use super::Config;
use super::catalogue::{CATALOGUES, Catalogue};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::diagnostic_kind::DiagnosticKind;
use super::effective::Effective;
use super::layer::{Document, Layer};
use super::raw::{Collector, RawTable, Spanned, Spans};
use super::root::{DISABLE, ENABLE, INCLUDE, VERSION};
use super::service::{self, ServiceSpec};
use super::settings::Settings;
use super::span::{SourceFile, Span};
use super::suggestion::closest;
use crate::net::PolicyService;

impl Effective {
    /// Reads all layers. A later document overrides an earlier one.
    ///
    /// # Errors
    /// Every error of every text.
    pub fn read(documents: Vec<Document>) -> Result<Self, Diagnostics> {
        // Catalogues have rank 0.
        let sources: Vec<_> = (1..)
            .zip(documents)
            .map(|(rank, document)| {
                Arc::new(SourceFile {
                    layer: document.layer,
                    rank,
                    name: document.name,
                    text: Cow::Owned(document.text),
                })
            })
            .collect();
        let mut collector = Collector::default();
        let (config, services) = parse(&sources, &mut collector, read_root);
        match Diagnostics::new(collector.diagnostics) {
            Some(diagnostics) => Err(diagnostics),
            None => Ok(Self {
                config,
                settings: collector.spans,
                services,
            }),
        }
    }
}

/// Parses the texts and reads them as one tree. Omits errors that a syntax error may cause.
fn parse<R>(
    sources: &[Arc<SourceFile>],
    collector: &mut Collector,
    read: impl FnOnce(&mut RawTable<'_>, &mut Collector) -> R,
) -> R {
    let parsed: Vec<_> = sources
        .iter()
        .map(|source| (source, DeTable::parse_recoverable(&source.text)))
        .collect();
    let mut root = RawTable::root(parsed.iter().map(|(source, (root, _))| (*source, root)));
    let result = read(&mut root, collector);
    root.close(collector);

    let others = std::mem::take(&mut collector.diagnostics);
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
    let newlines: BTreeMap<_, Vec<_>> = sources
        .iter()
        .map(|source| {
            (
                source.rank,
                source.text.match_indices('\n').map(|it| it.0).collect(),
            )
        })
        .collect();
    let line = |span: &Span| {
        let newlines = newlines.get(&span.rank());
        let line = newlines.map_or(0, |it| it.partition_point(|end| *end < span.range().start));
        (span.rank(), line)
    };
    let syntax_errors: BTreeSet<_> = collector
        .diagnostics
        .iter()
        .map(|it| line(&it.span))
        .collect();
    let files: BTreeSet<_> = syntax_errors.iter().map(|(file, _)| *file).collect();
    let consequences = consequences(&others);
    let is_independent = |(index, diagnostic): &(usize, Diagnostic)| {
        let is_consequence = consequences.contains(index)
            || diagnostic.kind.needs_every_file() && !files.is_empty()
            || files.contains(&diagnostic.span.rank())
                && (diagnostic.kind.needs_whole_file()
                    || syntax_errors.contains(&line(&diagnostic.span)));
        !is_consequence
    };
    let independent = others.into_iter().enumerate().filter(is_independent);
    collector.diagnostics.extend(independent.map(|(_, it)| it));
    result
}

/// Returns the indexes of errors that follow from another one: a missing key that is there with a typo, and a name of a
/// service that an erroneous line would define.
fn consequences(diagnostics: &[Diagnostic]) -> BTreeSet<usize> {
    let meant: BTreeSet<_> = diagnostics
        .iter()
        .filter_map(|it| match it.kind {
            DiagnosticKind::UnknownKey { meant, .. } => {
                let parent = it.key.rsplit_once('.').map_or("", |(parent, _)| parent);
                Some((it.span.rank(), parent, meant?))
            }
            _ => None,
        })
        .collect();
    let defines_names = |it: &Diagnostic| {
        let table = it.key.split(['[', '.']).next().unwrap_or_default();
        let is_name = table == service::TABLE.name
            && (it.key == table
                || it.key.rsplit('.').next() == Some("name")
                || !it.key.contains('.'));
        let is_meant = matches!(it.kind, DiagnosticKind::UnknownKey { meant: Some(meant), .. }
            if [INCLUDE.key, service::TABLE.name, "name"].contains(&meant));
        table == INCLUDE.key || is_name || is_meant
    };
    let lacks_names = diagnostics.iter().any(defines_names);
    let is_consequence = |it: &Diagnostic| match it.kind {
        DiagnosticKind::Missing { .. } => {
            let (parent, key) = it.key.rsplit_once('.').unwrap_or(("", &it.key));
            meant.contains(&(it.span.rank(), parent, key))
        }
        DiagnosticKind::UnknownName {
            noun: "service", ..
        } => lacks_names,
        _ => false,
    };
    let found = diagnostics.iter().enumerate();
    let found = found.filter(|(_, it)| is_consequence(it));
    found.map(|(index, _)| index).collect()
}

/// Reads the root table of all files. Returns the spans of each service's values too.
fn read_root(root: &mut RawTable<'_>, collector: &mut Collector) -> (Config, Vec<Spans>) {
    VERSION.read(root, collector);
    let include = INCLUDE.read(root, collector);
    let include = include.unwrap_or_else(|| INCLUDE.default_value());
    let enable = ENABLE.read(root, collector).unwrap_or_default();
    let enable = collector.spanned_entries(ENABLE.key, enable);
    let disable = DISABLE.read(root, collector).unwrap_or_default();
    let disable = collector.spanned_entries(DISABLE.key, disable);
    let settings = Settings::read(root, collector);

    let mut specs = Vec::new();
    for catalogue in CATALOGUES {
        if include.contains(&catalogue.name) {
            specs.extend(read_catalogue(catalogue, collector));
        }
    }
    specs.extend(root.tables(collector, service::TABLE.name, ServiceSpec::read));
    root.record_spans(collector);

    let mut specs = unique(specs, collector);
    switch(&mut specs, &enable, &disable, collector);
    for (index, spec) in specs.iter().enumerate() {
        let earlier = specs[..index].iter();
        let contradictions = earlier.filter_map(|earlier| spec.contradiction(earlier));
        collector.diagnostics.extend(contradictions);
    }
    let valid = specs.into_iter();
    let (services, spans): (Vec<_>, _) = valid
        .filter_map(|spec| Some((spec.service?, spec.spans)))
        .unzip();
    let config = Config { services, settings };
    check_interfaces(&config, collector);
    check_tables(&config, collector);
    (config, spans)
}

fn read_catalogue(catalogue: &Catalogue, collector: &mut Collector) -> Vec<ServiceSpec> {
    let source = Arc::new(SourceFile {
        layer: Layer::Vendor,
        rank: 0,
        name: catalogue.file.to_owned(),
        text: Cow::Borrowed(catalogue.text),
    });
    let mut own = Collector::default();
    let specs = parse(&[source], &mut own, |root, collector| {
        VERSION.read(root, collector);
        root.tables(collector, service::TABLE.name, ServiceSpec::read)
    });
    collector.diagnostics.extend(own.diagnostics);
    specs
}

/// Replaces a service by a later file's service of the same name. Records duplicates in one file, and more services
/// than rule ids.
fn unique(specs: Vec<ServiceSpec>, collector: &mut Collector) -> Vec<ServiceSpec> {
    let mut kept: Vec<ServiceSpec> = Vec::with_capacity(specs.len());
    for spec in specs {
        let Some(name) = spec.name.clone() else {
            kept.push(spec);
            continue;
        };
        let same = |earlier: &&mut ServiceSpec| {
            let earlier = earlier.name.as_ref();
            earlier.is_some_and(|earlier| earlier.value == name.value)
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
            let kind = DiagnosticKind::TooManyServices { max: u16::MAX };
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
    let mut record = |name: &Spanned<String>, kind| {
        collector.diagnostics.push(name.diagnostic(None, kind));
    };
    for (list, enabled) in [(enable, true), (disable, false)] {
        for name in list {
            if !known.contains(&name.value) {
                let kind = DiagnosticKind::UnknownName {
                    noun: "service",
                    meant: closest(&name.value, &known).cloned(),
                    known: known.clone(),
                };
                record(name, kind);
            }
            if !enabled && enable.iter().any(|other| other.value == name.value) {
                record(name, DiagnosticKind::EnabledAndDisabled);
            }
            for spec in specs.iter_mut() {
                spec.switch(name, enabled);
            }
        }
    }
}

/// Checks that the uplink, the TUN and the interfaces of clients differ.
fn check_interfaces(config: &Config, collector: &mut Collector) {
    let (uplink, tun) = (config.uplink().interface.as_ref(), &config.tun().name);
    if uplink == Some(tun)
        && let Some(position) = collector.position("uplink.interface")
    {
        let diagnostic = position.diagnostic(None, DiagnosticKind::UplinkIsTun);
        collector.diagnostics.push(diagnostic);
    }
    let clients = config.gateway().interfaces.clone();
    for client in collector.spanned_entries("gateway.interfaces", clients) {
        if client.value == *tun || uplink == Some(&client.value) {
            let diagnostic = client.diagnostic(None, DiagnosticKind::ClientsAtUplink);
            collector.diagnostics.push(diagnostic);
        }
    }
}

/// Checks that the routing tables do not meet the kernel's own: one for the direct path, one for each port range.
fn check_tables(config: &Config, collector: &mut Collector) {
    let Some(position) = collector.position("route.table") else {
        return;
    };
    let ranges = |service: &PolicyService| {
        let protocol = service.protocol;
        let ranges = service.ports.clone().into_iter();
        ranges.map(move |range| (protocol, range))
    };
    let enabled = config.services.iter().filter(|service| service.enabled);
    let ranges: BTreeSet<_> = enabled.flat_map(ranges).collect();
    let needed = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
    let base = config.route().table.0;
    let last = u64::from(base) + u64::from(needed);
    let clash = [0, 253, 254, 255]
        .into_iter()
        .find(|kernel| (u64::from(base)..=last).contains(&u64::from(*kernel)));
    let kind = match clash {
        Some(clash) => DiagnosticKind::ReservedTable { clash, base, last },
        None if last > u64::from(u32::MAX) => DiagnosticKind::TablesExhausted { base, needed },
        None => return,
    };
    collector.diagnostics.push(position.diagnostic(None, kind));
}
