//! The TOML tree of all files: every value has its span and key path.
//!
//! A derived deserializer stops at the first error. Here each value is fetched by key and read on its own, so that an
//! error costs one value. A key that no reader fetched is unknown.
//!
//! Several files can have the same table. Every file's value is checked; the last file's value is effective.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::diagnostic_kind::DiagnosticKind;
use super::layer::Layer;
use super::span::{SourceFile, Span};
use super::suggestion::closest;

/// Spans of the values of a table, by key.
pub(super) type Spans = Vec<(&'static str, Span)>;

/// Collects diagnostics and spans while the files are read.
#[derive(Default)]
pub(super) struct Collector {
    /// The name of the current service.
    pub(super) service: Option<String>,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Spans of effective settings by key path, without those of services.
    pub(super) spans: BTreeMap<String, Span>,
    /// The valid entries of the latest list of each key path.
    pub(super) entries: BTreeMap<String, Vec<Spanned<()>>>,
}

/// A value with its span and key path.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    pub(super) value: T,
    pub(super) span: Span,
    pub(super) key: String,
}

impl<T> Spanned<T> {
    /// Returns a diagnostic of this value.
    pub(super) fn diagnostic(&self, service: Option<&str>, kind: DiagnosticKind) -> Diagnostic {
        Diagnostic {
            span: self.span.clone(),
            key: self.key.clone(),
            service: service.map(str::to_owned),
            kind,
            related: None,
        }
    }
}

impl Collector {
    /// Records a diagnostic of the current service.
    pub(super) fn push(&mut self, span: Span, key: String, kind: DiagnosticKind) {
        self.diagnostics.push(Diagnostic {
            span,
            key,
            service: self.service.clone(),
            kind,
            related: None,
        });
    }

    /// Returns the position of a setting that a file or the command line sets.
    pub(super) fn position(&self, key: &str) -> Option<Spanned<()>> {
        Some(Spanned {
            value: (),
            span: self.spans.get(key)?.clone(),
            key: key.to_owned(),
        })
    }

    /// Returns the valid entries of a list with their spans. `values` are the same entries without.
    pub(super) fn spanned_entries<T>(&self, key: &str, values: Vec<T>) -> Vec<Spanned<T>> {
        let positions = self.entries.get(key).cloned().unwrap_or_default();
        let entries = values.into_iter().zip(positions);
        entries
            .map(|(value, Spanned { span, key, .. })| Spanned { value, span, key })
            .collect()
    }
}

/// A table of all files; its keys are fetched one by one.
pub(super) struct RawTable<'a> {
    parts: Vec<TablePart<'a>>,
    path: String,
    /// The fetched keys with the spans of their effective values.
    fetched: Vec<(&'static str, Option<Span>)>,
}

/// One file's part of a table.
struct TablePart<'a> {
    source: &'a Arc<SourceFile>,
    table: &'a DeTable<'a>,
    range: Range<usize>,
}

impl TablePart<'_> {
    fn span(&self) -> Span {
        Span::new(self.source, self.range.clone())
    }
}

/// One value of a table or of a list, with its key path.
pub(super) struct RawValue<'a> {
    source: &'a Arc<SourceFile>,
    value: &'a toml::Spanned<DeValue<'a>>,
    pub(super) key: String,
}

impl<'a> RawValue<'a> {
    pub(super) fn span(&self) -> Span {
        Span::new(self.source, self.value.span())
    }

    /// Converts the value. Records a diagnostic and returns `None` if that fails.
    pub(super) fn convert<T>(
        self,
        collector: &mut Collector,
        convert: impl FnOnce(&DeValue<'_>) -> Result<T, DiagnosticKind>,
    ) -> Option<T> {
        match convert(self.value.get_ref()) {
            Ok(value) => Some(value),
            Err(kind) => {
                collector.push(self.span(), self.key, kind);
                None
            }
        }
    }

    /// Returns the entries of a list. Records a diagnostic and returns `None` for another type.
    pub(super) fn entries(
        self,
        collector: &mut Collector,
        expected: &'static str,
    ) -> Option<Vec<Self>> {
        let (source, key, value) = (self.source, self.key.clone(), self.value.get_ref());
        let list = self.convert(collector, |_| {
            let found = value.type_str();
            let list = value.as_array();
            list.ok_or(DiagnosticKind::Type { found, expected })
        })?;
        let entries = list.iter().enumerate().map(|(index, value)| RawValue {
            source,
            value,
            key: format!("{key}[{index}]"),
        });
        Some(entries.collect())
    }

    /// Returns the table. Records a diagnostic and returns `None` for another type.
    fn part(self, collector: &mut Collector) -> Option<TablePart<'a>> {
        let (source, range, value) = (self.source, self.value.span(), self.value.get_ref());
        let table = self.convert(collector, |_| {
            let found = value.type_str();
            let expected = "a table, with its name in brackets on a line of its own";
            let table = value.as_table();
            table.ok_or(DiagnosticKind::Type { found, expected })
        })?;
        Some(TablePart {
            source,
            table,
            range,
        })
    }
}

impl<'a> RawTable<'a> {
    /// Returns the root table of all files. A later file overrides an earlier one.
    pub(super) fn root(
        files: impl Iterator<Item = (&'a Arc<SourceFile>, &'a toml::Spanned<DeTable<'a>>)>,
    ) -> Self {
        let parts = files.map(|(source, root)| TablePart {
            source,
            table: root.get_ref(),
            range: 0..0,
        });
        Self::new(parts.collect(), String::new())
    }

    fn new(parts: Vec<TablePart<'a>>, path: String) -> Self {
        Self {
            parts,
            path,
            fetched: Vec::new(),
        }
    }

    /// Returns the path of a key of this table.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Returns the keys that the files have, with the spans of the effective values.
    pub(super) fn spans(&self) -> Spans {
        let fetched = self.fetched.iter();
        fetched
            .filter_map(|(key, span)| Some((*key, span.clone()?)))
            .collect()
    }

    /// Returns each file's value of a key.
    pub(super) fn fetch(&mut self, key: &'static str) -> Vec<RawValue<'a>> {
        let path = self.key(key);
        let parts = self.parts.iter();
        let values: Vec<_> = parts
            .filter_map(|part| {
                Some(RawValue {
                    source: part.source,
                    value: part.table.get(key)?,
                    key: path.clone(),
                })
            })
            .collect();
        self.fetched.push((key, values.last().map(RawValue::span)));
        values
    }

    /// Records a diagnostic for each file without the key. The command line does not need it.
    pub(super) fn require(&self, collector: &mut Collector, key: &str, example: &str) {
        for part in &self.parts {
            if !part.table.contains_key(key) && part.source.layer != Layer::CommandLine {
                let example = format!("{key} = {example}");
                let kind = DiagnosticKind::Missing { example };
                collector.push(part.span(), self.key(key), kind);
            }
        }
    }

    /// Reads a table; an empty one if no file has it.
    pub(super) fn table<R>(
        &mut self,
        collector: &mut Collector,
        key: &'static str,
        read: impl FnOnce(&mut RawTable<'_>, &mut Collector) -> R,
    ) -> R {
        let values = self.fetch(key).into_iter();
        let parts = values.filter_map(|value| value.part(collector)).collect();
        let mut table = RawTable::new(parts, self.key(key));
        let result = read(&mut table, collector);
        table.close(collector);
        table.record_spans(collector);
        result
    }

    /// Reads each table of each file's list, such as `[[service]]`.
    pub(super) fn tables<R>(
        &mut self,
        collector: &mut Collector,
        key: &'static str,
        mut read: impl FnMut(&mut RawTable<'_>, &mut Collector) -> R,
    ) -> Vec<R> {
        let expected = "a list of tables, each under its name in double brackets";
        let mut results = Vec::new();
        for list in self.fetch(key) {
            if list.value.get_ref().is_table() {
                let kind = DiagnosticKind::SingleBrackets { name: key };
                collector.push(list.span(), list.key, kind);
                continue;
            }
            for entry in list.entries(collector, expected).into_iter().flatten() {
                let path = entry.key.clone();
                let Some(part) = entry.part(collector) else {
                    continue;
                };
                let mut table = RawTable::new(vec![part], path);
                results.push(read(&mut table, collector));
                table.close(collector);
            }
        }
        results
    }

    /// Returns the span of the table in the last file that has it.
    pub(super) fn span(&self) -> Option<Span> {
        self.parts.last().map(TablePart::span)
    }

    /// Records a diagnostic for each key that no reader fetched.
    pub(super) fn close(&self, collector: &mut Collector) {
        let known: Vec<_> = self.fetched.iter().map(|(key, _)| *key).collect();
        for part in &self.parts {
            for key in part.table.keys() {
                let name = key.get_ref().as_ref();
                if known.contains(&name) {
                    continue;
                }
                let kind = DiagnosticKind::UnknownKey {
                    meant: closest(name, known.iter().copied()),
                    known: known.clone(),
                };
                collector.push(Span::new(part.source, key.span()), self.key(name), kind);
            }
        }
    }

    /// Records the spans of the effective values.
    pub(super) fn record_spans(&self, collector: &mut Collector) {
        let spans = self.spans().into_iter();
        let spans = spans.map(|(key, span)| (self.key(key), span));
        collector.spans.extend(spans);
    }
}
