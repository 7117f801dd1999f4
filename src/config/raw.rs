//! The raw file: a TOML tree in which every key and value knows its place.
//!
//! A derived deserializer stops at the first fault. Here each value is fetched by key and read by a small function of
//! its own, so that a fault costs one value and the reading goes on; a key that nobody fetched is an unknown one.
//!
//! A table may stand in several files. Its keys are then fetched from all of them: each value is checked, and the last
//! file's is the one in force.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use jiff::civil::Date;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Place, Source};
use super::layer::Layer;
use super::problem::{Problem, closest};

/// What was found so far.
#[derive(Default)]
pub(super) struct Findings {
    /// The name of the service that is being read.
    pub(super) service: Option<String>,
    pub(super) faults: Vec<Fault>,
    /// Where the value in force of each setting stands, by key path; not those of services.
    pub(super) origins: BTreeMap<String, Place>,
}

/// A value with its place and key path.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
    pub(super) key: String,
}

impl<T> At<T> {
    /// A fault of this value.
    pub(super) fn fault(&self, service: Option<&str>, problem: Problem) -> Fault {
        Fault {
            place: self.place.clone(),
            key: self.key.clone(),
            service: service.map(str::to_owned),
            problem,
            related: None,
        }
    }
}

impl Findings {
    /// Notes a problem at a place.
    pub(super) fn push(&mut self, place: Place, key: String, problem: Problem) {
        let at = At {
            value: (),
            place,
            key,
        };
        self.faults.push(at.fault(self.service.as_deref(), problem));
    }
}

/// A table whose keys are fetched one by one.
pub(super) struct Section<'a> {
    parts: Vec<Part<'a>>,
    path: String,
    /// The keys that were asked for, and where the value in force stands.
    fetched: Vec<(&'static str, Option<Place>)>,
}

/// What one file has of a table.
struct Part<'a> {
    source: &'a Arc<Source>,
    table: &'a DeTable<'a>,
    span: Range<usize>,
}

impl Part<'_> {
    fn place(&self) -> Place {
        Place::new(self.source, self.span.clone())
    }
}

/// One value of a section or of a list, with its key path.
struct Field<'a> {
    source: &'a Arc<Source>,
    value: &'a Spanned<DeValue<'a>>,
    key: String,
}

impl<'a> Field<'a> {
    fn place(&self) -> Place {
        Place::new(self.source, self.value.span())
    }

    fn fault(self, findings: &mut Findings, problem: Problem) {
        findings.push(self.place(), self.key, problem);
    }

    fn read<T>(
        self,
        findings: &mut Findings,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        match read(self.value.get_ref()) {
            Ok(value) => Some(At {
                value,
                place: self.place(),
                key: self.key,
            }),
            Err(problem) => {
                self.fault(findings, problem);
                None
            }
        }
    }

    /// The entries, if it is a list.
    fn entries(self, findings: &mut Findings, expected: &'static str) -> Option<Vec<Self>> {
        let Some(list) = self.value.get_ref().as_array() else {
            let found = self.value.get_ref().type_str();
            self.fault(findings, Problem::Type { found, expected });
            return None;
        };
        let entries = list.iter().enumerate().map(|(index, value)| Field {
            source: self.source,
            value,
            key: format!("{}[{index}]", self.key),
        });
        Some(entries.collect())
    }

    /// The table, if it is one.
    fn part(self, findings: &mut Findings) -> Option<Part<'a>> {
        if let DeValue::Table(table) = self.value.get_ref() {
            return Some(Part {
                source: self.source,
                table,
                span: self.value.span(),
            });
        }
        let expected = "a table, with its name in brackets on a line of its own";
        let found = self.value.get_ref().type_str();
        self.fault(findings, Problem::Type { found, expected });
        None
    }
}

impl<'a> Section<'a> {
    /// The root of all files, the one with the last word last.
    pub(super) fn root(
        files: impl Iterator<Item = (&'a Arc<Source>, &'a Spanned<DeTable<'a>>)>,
    ) -> Self {
        let parts = files.map(|(source, root)| Part {
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
    pub(super) fn places(&self) -> Vec<(&'static str, Place)> {
        let fetched = self.fetched.iter();
        fetched
            .filter_map(|(key, place)| Some((*key, place.clone()?)))
            .collect()
    }

    /// What the files have of a key.
    fn fetch(&mut self, key: &'static str) -> Vec<Field<'a>> {
        let path = self.key(key);
        let parts = self.parts.iter();
        let fields: Vec<_> = parts
            .filter_map(|part| {
                Some(Field {
                    source: part.source,
                    value: part.table.get(key)?,
                    key: path.clone(),
                })
            })
            .collect();
        self.fetched.push((key, fields.last().map(Field::place)));
        fields
    }

    /// Reads a value that may be absent.
    pub(super) fn optional<T>(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        let fields = self.fetch(key).into_iter();
        fields
            .map(|field| field.read(findings, &read))
            .last()
            .flatten()
    }

    /// Reads a value that each file must have; the command line need not.
    pub(super) fn required<T>(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        example: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        for part in &self.parts {
            if !part.table.contains_key(key) && part.source.layer != Layer::CommandLine {
                findings.push(part.place(), self.key(key), Problem::Missing { example });
            }
        }
        self.optional(findings, key, read)
    }

    /// Reads a list; entries with a fault are left out.
    pub(super) fn list<T>(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<At<Vec<At<T>>>> {
        let mut last = None;
        for field in self.fetch(key) {
            let (place, key) = (field.place(), field.key.clone());
            let entries = field.entries(findings, expected);
            last = entries.map(|entries| At {
                value: entries
                    .into_iter()
                    .filter_map(|entry| entry.read(findings, &read))
                    .collect(),
                place,
                key,
            });
        }
        last
    }

    /// Reads a list that must be present and hold something.
    pub(super) fn filled<T>(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        (example, expected): (&'static str, &'static str),
        read: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<Vec<T>> {
        for part in &self.parts {
            let path = self.key(key);
            match part.table.get(key) {
                None => findings.push(part.place(), path, Problem::Missing { example }),
                Some(value)
                    if value
                        .get_ref()
                        .as_array()
                        .is_some_and(|list| list.is_empty()) =>
                {
                    let place = Place::new(part.source, value.span());
                    findings.push(place, path, Problem::Empty { expected });
                }
                Some(_) => {}
            }
        }
        let list = self.list(findings, key, expected, read)?;
        Some(list.value.into_iter().map(|entry| entry.value).collect())
    }

    /// Enters a table, an empty one if no file has one of this name.
    pub(super) fn section<R>(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_>, &mut Findings) -> R,
    ) -> R {
        let fields = self.fetch(key).into_iter();
        let parts: Vec<_> = fields.filter_map(|field| field.part(findings)).collect();
        let mut section = Section {
            parts,
            path: self.key(key),
            fetched: Vec::new(),
        };
        let answer = read(&mut section, findings);
        section.close(findings);
        section.note_origins(findings);
        answer
    }

    /// Enters each table of each file's list, such as `[[service]]`.
    pub(super) fn sections<R>(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_>, &mut Findings) -> R,
    ) -> Vec<R> {
        let expected = "a list of tables, each under its name in double brackets";
        let mut answers = Vec::new();
        for field in self.fetch(key) {
            for entry in field.entries(findings, expected).into_iter().flatten() {
                let path = entry.key.clone();
                let Some(part) = entry.part(findings) else {
                    continue;
                };
                let mut section = Section {
                    parts: vec![part],
                    path,
                    fetched: Vec::new(),
                };
                answers.push(read(&mut section, findings));
                section.close(findings);
            }
        }
        answers
    }

    /// Where the table begins, in the file with the last word.
    pub(super) fn place(&self) -> Option<Place> {
        self.parts.last().map(Part::place)
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn close(&self, findings: &mut Findings) {
        for part in &self.parts {
            for key in part.table.keys() {
                let name = key.get_ref().as_ref();
                let known: Vec<_> = self.fetched.iter().map(|(key, _)| *key).collect();
                if known.contains(&name) {
                    continue;
                }
                let meant = closest(name, known.iter().copied());
                let place = Place::new(part.source, key.span());
                findings.push(place, self.key(name), Problem::UnknownKey { meant, known });
            }
        }
    }

    /// Remembers where the values in force stand.
    pub(super) fn note_origins(&self, findings: &mut Findings) {
        let places = self.places().into_iter();
        findings
            .origins
            .extend(places.map(|(key, place)| (self.key(key), place)));
    }
}

/// Reads a string.
pub(super) fn text(expected: &'static str) -> impl Fn(&DeValue<'_>) -> Result<String, Problem> {
    move |value| match value {
        DeValue::String(text) => Ok(text.to_string()),
        other => Err(Problem::Type {
            found: other.type_str(),
            expected,
        }),
    }
}

/// Reads a string that is one of a few words.
pub(super) fn choice<T: FromStr>(
    choices: &'static [&'static str],
    expected: &'static str,
) -> impl Fn(&DeValue<'_>) -> Result<T, Problem> {
    move |value| {
        let word = text(expected)(value)?;
        word.parse().map_err(|_| Problem::Choice {
            meant: closest(&word, choices.iter().copied()),
            choices: choices.to_vec(),
        })
    }
}

/// Reads a boolean.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Problem> {
    value.as_bool().ok_or_else(|| Problem::Type {
        found: value.type_str(),
        expected: "true or false",
    })
}

/// Reads a whole number between two bounds; `reason` is what to tell a person whose number lies outside.
pub(super) fn number(
    least: u32,
    most: u32,
    reason: &'static str,
) -> impl Fn(&DeValue<'_>) -> Result<u32, Problem> {
    move |value| {
        let DeValue::Integer(digits) = value else {
            return Err(Problem::Type {
                found: value.type_str(),
                expected: "a whole number",
            });
        };
        let number = u32::from_str_radix(digits.as_str(), digits.radix()).ok();
        number
            .filter(|number| (least..=most).contains(number))
            .ok_or(Problem::Number {
                least,
                most,
                reason,
            })
    }
}

/// Reads a date without time and zone.
pub(super) fn date(value: &DeValue<'_>) -> Result<Date, Problem> {
    let wrong = || Problem::Type {
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
