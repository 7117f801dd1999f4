//! The raw file: a TOML tree in which every key and value knows its span.
//!
//! A derived deserializer stops at the first diagnostic. Here each value is fetched by key and read by a small function of
//! its own, so that a diagnostic costs one value and the reading goes on; a key that nobody fetched is an unknown one.
//!
//! A table may stand in several files. Its keys are then fetched from all of them: each value is checked, and the last
//! file's is the one in force.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use jiff::civil::Date;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::diagnostic_kind::DiagnosticKind;
use super::layer::Layer;
use super::span::{SourceFile, Span};
use super::suggestion::closest;

/// What was found so far.
#[derive(Default)]
pub(super) struct Collector {
    /// The name of the service that is being read.
    pub(super) service: Option<String>,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Where the value in force of each setting stands, by key path; not those of services.
    pub(super) origins: BTreeMap<String, Span>,
}

/// A value with its span and key path.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    pub(super) value: T,
    pub(super) span: Span,
    pub(super) key: String,
}

impl<T> Spanned<T> {
    /// A diagnostic of this value.
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
    /// Notes a kind at a span.
    pub(super) fn push(&mut self, span: Span, key: String, kind: DiagnosticKind) {
        let at = Spanned {
            value: (),
            span,
            key,
        };
        self.diagnostics
            .push(at.diagnostic(self.service.as_deref(), kind));
    }
}

/// A table whose keys are fetched one by one.
pub(super) struct RawTable<'a> {
    parts: Vec<TablePart<'a>>,
    path: String,
    /// The keys that were asked for, and where the value in force stands.
    fetched: Vec<(&'static str, Option<Span>)>,
}

/// What one file has of a table.
struct TablePart<'a> {
    source: &'a Arc<SourceFile>,
    table: &'a DeTable<'a>,
    span: Range<usize>,
}

impl TablePart<'_> {
    fn span(&self) -> Span {
        Span::new(self.source, self.span.clone())
    }
}

/// One value of a section or of a list, with its key path.
struct RawValue<'a> {
    source: &'a Arc<SourceFile>,
    value: &'a toml::Spanned<DeValue<'a>>,
    key: String,
}

impl<'a> RawValue<'a> {
    fn span(&self) -> Span {
        Span::new(self.source, self.value.span())
    }

    fn diagnostic(self, collector: &mut Collector, kind: DiagnosticKind) {
        collector.push(self.span(), self.key, kind);
    }

    fn read<T>(
        self,
        collector: &mut Collector,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, DiagnosticKind>,
    ) -> Option<Spanned<T>> {
        match read(self.value.get_ref()) {
            Ok(value) => Some(Spanned {
                value,
                span: self.span(),
                key: self.key,
            }),
            Err(kind) => {
                self.diagnostic(collector, kind);
                None
            }
        }
    }

    /// The entries, if it is a list.
    fn entries(self, collector: &mut Collector, expected: &'static str) -> Option<Vec<Self>> {
        let Some(list) = self.value.get_ref().as_array() else {
            let found = self.value.get_ref().type_str();
            self.diagnostic(collector, DiagnosticKind::Type { found, expected });
            return None;
        };
        let entries = list.iter().enumerate().map(|(index, value)| RawValue {
            source: self.source,
            value,
            key: format!("{}[{index}]", self.key),
        });
        Some(entries.collect())
    }

    /// The table, if it is one.
    fn part(self, collector: &mut Collector) -> Option<TablePart<'a>> {
        if let DeValue::Table(table) = self.value.get_ref() {
            return Some(TablePart {
                source: self.source,
                table,
                span: self.value.span(),
            });
        }
        let expected = "a table, with its name in brackets on a line of its own";
        let found = self.value.get_ref().type_str();
        self.diagnostic(collector, DiagnosticKind::Type { found, expected });
        None
    }
}

impl<'a> RawTable<'a> {
    /// The root of all files, the one with the last word last.
    pub(super) fn root(
        files: impl Iterator<Item = (&'a Arc<SourceFile>, &'a toml::Spanned<DeTable<'a>>)>,
    ) -> Self {
        let parts = files.map(|(source, root)| TablePart {
            source,
            table: root.get_ref(),
            span: 0..0,
        });
        Self {
            parts: parts.collect(),
            path: String::new(),
            fetched: Vec::new(),
        }
    }

    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The keys that the files have, and where the values in force stand.
    pub(super) fn spans(&self) -> Vec<(&'static str, Span)> {
        let fetched = self.fetched.iter();
        fetched
            .filter_map(|(key, span)| Some((*key, span.clone()?)))
            .collect()
    }

    /// What the files have of a key.
    fn fetch(&mut self, key: &'static str) -> Vec<RawValue<'a>> {
        let path = self.key(key);
        let parts = self.parts.iter();
        let fields: Vec<_> = parts
            .filter_map(|part| {
                Some(RawValue {
                    source: part.source,
                    value: part.table.get(key)?,
                    key: path.clone(),
                })
            })
            .collect();
        self.fetched.push((key, fields.last().map(RawValue::span)));
        fields
    }

    /// Reads a value that may be absent.
    pub(super) fn optional<T>(
        &mut self,
        collector: &mut Collector,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, DiagnosticKind>,
    ) -> Option<Spanned<T>> {
        let fields = self.fetch(key).into_iter();
        fields
            .map(|field| field.read(collector, &read))
            .last()
            .flatten()
    }

    /// Reads a value that each file must have; the command line need not.
    pub(super) fn required<T>(
        &mut self,
        collector: &mut Collector,
        key: &'static str,
        example: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, DiagnosticKind>,
    ) -> Option<Spanned<T>> {
        for part in &self.parts {
            if !part.table.contains_key(key) && part.source.layer != Layer::CommandLine {
                collector.push(
                    part.span(),
                    self.key(key),
                    DiagnosticKind::Missing { example },
                );
            }
        }
        self.optional(collector, key, read)
    }

    /// Reads a list; entries with a diagnostic are left out.
    pub(super) fn list<T>(
        &mut self,
        collector: &mut Collector,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, DiagnosticKind>,
    ) -> Option<Spanned<Vec<Spanned<T>>>> {
        let mut last = None;
        for field in self.fetch(key) {
            let (span, key) = (field.span(), field.key.clone());
            let entries = field.entries(collector, expected);
            last = entries.map(|entries| Spanned {
                value: entries
                    .into_iter()
                    .filter_map(|entry| entry.read(collector, &read))
                    .collect(),
                span,
                key,
            });
        }
        last
    }

    /// Reads a list that must be present and hold something.
    pub(super) fn filled<T>(
        &mut self,
        collector: &mut Collector,
        key: &'static str,
        (example, expected): (&'static str, &'static str),
        read: impl Fn(&DeValue<'_>) -> Result<T, DiagnosticKind>,
    ) -> Option<Vec<T>> {
        for part in &self.parts {
            let path = self.key(key);
            match part.table.get(key) {
                None => collector.push(part.span(), path, DiagnosticKind::Missing { example }),
                Some(value)
                    if value
                        .get_ref()
                        .as_array()
                        .is_some_and(|list| list.is_empty()) =>
                {
                    let span = Span::new(part.source, value.span());
                    collector.push(span, path, DiagnosticKind::Empty { expected });
                }
                Some(_) => {}
            }
        }
        let list = self.list(collector, key, expected, read)?;
        Some(list.value.into_iter().map(|entry| entry.value).collect())
    }

    /// Enters a table, an empty one if no file has one of this name.
    pub(super) fn section<R>(
        &mut self,
        collector: &mut Collector,
        key: &'static str,
        read: impl FnOnce(&mut RawTable<'_>, &mut Collector) -> R,
    ) -> R {
        let fields = self.fetch(key).into_iter();
        let parts: Vec<_> = fields.filter_map(|field| field.part(collector)).collect();
        let mut section = RawTable {
            parts,
            path: self.key(key),
            fetched: Vec::new(),
        };
        let answer = read(&mut section, collector);
        section.close(collector);
        section.note_origins(collector);
        answer
    }

    /// Enters each table of each file's list, such as `[[service]]`.
    pub(super) fn sections<R>(
        &mut self,
        collector: &mut Collector,
        key: &'static str,
        mut read: impl FnMut(&mut RawTable<'_>, &mut Collector) -> R,
    ) -> Vec<R> {
        let expected = "a list of tables, each under its name in double brackets";
        let mut answers = Vec::new();
        for field in self.fetch(key) {
            for entry in field.entries(collector, expected).into_iter().flatten() {
                let path = entry.key.clone();
                let Some(part) = entry.part(collector) else {
                    continue;
                };
                let mut section = RawTable {
                    parts: vec![part],
                    path,
                    fetched: Vec::new(),
                };
                answers.push(read(&mut section, collector));
                section.close(collector);
            }
        }
        answers
    }

    /// Where the table begins, in the file with the last word.
    pub(super) fn span(&self) -> Option<Span> {
        self.parts.last().map(TablePart::span)
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn close(&self, collector: &mut Collector) {
        for part in &self.parts {
            for key in part.table.keys() {
                let name = key.get_ref().as_ref();
                let known: Vec<_> = self.fetched.iter().map(|(key, _)| *key).collect();
                if known.contains(&name) {
                    continue;
                }
                let meant = closest(name, known.iter().copied());
                let span = Span::new(part.source, key.span());
                collector.push(
                    span,
                    self.key(name),
                    DiagnosticKind::UnknownKey { meant, known },
                );
            }
        }
    }

    /// Remembers where the values in force stand.
    pub(super) fn note_origins(&self, collector: &mut Collector) {
        let spans = self.spans().into_iter();
        collector
            .origins
            .extend(spans.map(|(key, span)| (self.key(key), span)));
    }
}

/// Reads a string.
pub(super) fn text(
    expected: &'static str,
) -> impl Fn(&DeValue<'_>) -> Result<String, DiagnosticKind> {
    move |value| match value {
        DeValue::String(text) => Ok(text.to_string()),
        other => Err(DiagnosticKind::Type {
            found: other.type_str(),
            expected,
        }),
    }
}

/// Reads a string that is one of a few words.
pub(super) fn choice<T: FromStr>(
    choices: &'static [&'static str],
    expected: &'static str,
) -> impl Fn(&DeValue<'_>) -> Result<T, DiagnosticKind> {
    move |value| {
        let word = text(expected)(value)?;
        word.parse().map_err(|_| DiagnosticKind::Choice {
            meant: closest(&word, choices.iter().copied()),
            choices: choices.to_vec(),
        })
    }
}

/// Reads a boolean.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, DiagnosticKind> {
    value.as_bool().ok_or_else(|| DiagnosticKind::Type {
        found: value.type_str(),
        expected: "true or false",
    })
}

/// Reads a whole number between two bounds; `reason` is what to tell a person whose number lies outside.
pub(super) fn number(
    least: u32,
    most: u32,
    reason: &'static str,
) -> impl Fn(&DeValue<'_>) -> Result<u32, DiagnosticKind> {
    move |value| {
        let DeValue::Integer(digits) = value else {
            return Err(DiagnosticKind::Type {
                found: value.type_str(),
                expected: "a whole number",
            });
        };
        let number = u32::from_str_radix(digits.as_str(), digits.radix()).ok();
        number
            .filter(|number| (least..=most).contains(number))
            .ok_or(DiagnosticKind::Number {
                least,
                most,
                reason,
            })
    }
}

/// Reads a date without time and zone.
pub(super) fn date(value: &DeValue<'_>) -> Result<Date, DiagnosticKind> {
    let wrong = || DiagnosticKind::Type {
        found: value.type_str(),
        expected: "a date without quotes and time, such as 2023-09-26",
    };
    let DeValue::Datetime(stamp) = value else {
        return Err(wrong());
    };
    match (stamp.date, stamp.time, stamp.offset) {
        (Some(day), None, None) => {
            let year = i16::try_from(day.year).map_err(|_| wrong())?;
            let month = i8::try_from(day.month).map_err(|_| wrong())?;
            let day = i8::try_from(day.day).map_err(|_| wrong())?;
            Date::new(year, month, day).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}
