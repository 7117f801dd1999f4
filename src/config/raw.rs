//! The raw file: a TOML tree in which every key and value knows its place.
//!
//! A derived deserializer stops at the first fault. Here each value is fetched by key and read by a small function of
//! its own, so that a fault costs one value and the reading goes on; a key that nobody fetched is an unknown one.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use jiff::civil::Date;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Place, Source};
use super::problem::{Problem, closest};

/// What was found wrong so far, in one file.
pub(super) struct Findings {
    pub(super) source: Arc<Source>,
    /// The name of the service that is being read.
    pub(super) service: Option<String>,
    pub(super) faults: Vec<Fault>,
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
    pub(super) const fn new(source: Arc<Source>) -> Self {
        Self {
            source,
            service: None,
            faults: Vec::new(),
        }
    }

    pub(super) fn place(&self, span: Range<usize>) -> Place {
        Place::new(&self.source, span)
    }

    /// Notes a problem at a stretch of the file.
    pub(super) fn push(&mut self, span: Range<usize>, key: String, problem: Problem) {
        let place = self.place(span);
        let service = self.service.as_deref();
        self.faults.push(
            At {
                value: (),
                place,
                key,
            }
            .fault(service, problem),
        );
    }
}

/// A table whose keys are fetched one by one.
pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    path: String,
    span: Range<usize>,
    fetched: Vec<&'static str>,
}

/// One value of a section or of a list, with its key path.
struct Field<'a> {
    value: &'a Spanned<DeValue<'a>>,
    key: String,
}

impl Field<'_> {
    fn read<T>(
        &self,
        findings: &mut Findings,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        match read(self.value.get_ref()) {
            Ok(value) => Some(At {
                value,
                place: findings.place(self.value.span()),
                key: self.key.clone(),
            }),
            Err(problem) => {
                findings.push(self.value.span(), self.key.clone(), problem);
                None
            }
        }
    }
}

impl<'a> Section<'a> {
    /// The file's root.
    pub(super) fn root(root: &'a Spanned<DeTable<'a>>) -> Self {
        Self {
            table: root.get_ref(),
            path: String::new(),
            span: 0..0,
            fetched: Vec::new(),
        }
    }

    /// The place of the section's header.
    pub(super) fn place(&self, findings: &Findings) -> Place {
        findings.place(self.span.clone())
    }

    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn fetch(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.fetched.push(key);
        self.table.get(key).map(|value| Field {
            value,
            key: self.key(key),
        })
    }

    /// Reads a value that may be absent.
    pub(super) fn optional<T>(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        self.fetch(key)?.read(findings, read)
    }

    /// Reads a value that must be present.
    pub(super) fn required<T>(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        example: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<At<T>> {
        if !self.table.contains_key(key) {
            findings.push(
                self.span.clone(),
                self.key(key),
                Problem::Missing { example },
            );
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
        let field = self.fetch(key)?;
        let Some(list) = field.value.get_ref().as_array() else {
            let found = field.value.get_ref().type_str();
            findings.push(
                field.value.span(),
                field.key,
                Problem::Type { found, expected },
            );
            return None;
        };
        let fields = list.iter().enumerate().map(|(index, value)| Field {
            value,
            key: format!("{}[{index}]", field.key),
        });
        Some(At {
            value: fields
                .filter_map(|field| field.read(findings, &read))
                .collect(),
            place: findings.place(field.value.span()),
            key: field.key,
        })
    }

    /// Reads a list that must be present and hold something.
    pub(super) fn filled<T>(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        (example, expected): (&'static str, &'static str),
        read: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Option<Vec<T>> {
        match self.table.get(key) {
            None => findings.push(
                self.span.clone(),
                self.key(key),
                Problem::Missing { example },
            ),
            Some(value)
                if value
                    .get_ref()
                    .as_array()
                    .is_some_and(|list| list.is_empty()) =>
            {
                findings.push(value.span(), self.key(key), Problem::Empty { expected });
            }
            Some(_) => {}
        }
        let list = self.list(findings, key, expected, read)?;
        Some(list.value.into_iter().map(|entry| entry.value).collect())
    }

    /// Enters a table, an empty one if the file has none of this name.
    pub(super) fn section<R>(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_>, &mut Findings) -> R,
    ) -> R {
        let empty = DeTable::new();
        let field = self.fetch(key);
        let span = field.as_ref().map_or(0..0, |field| field.value.span());
        let table = match field.as_ref().map(|field| field.value.get_ref()) {
            Some(DeValue::Table(table)) => table,
            Some(other) => {
                let expected = "a table, with its name in brackets on a line of its own";
                let found = other.type_str();
                findings.push(
                    span.clone(),
                    self.key(key),
                    Problem::Type { found, expected },
                );
                &empty
            }
            None => &empty,
        };
        Section::open(table, self.key(key), span, findings, read)
    }

    /// Enters each table of a list such as `[[service]]`.
    pub(super) fn sections<R>(
        &mut self,
        findings: &mut Findings,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_>, &mut Findings) -> R,
    ) -> Vec<R> {
        let expected = "a list of tables, each under its name in double brackets";
        let Some(field) = self.fetch(key) else {
            return Vec::new();
        };
        let Some(list) = field.value.get_ref().as_array() else {
            let found = field.value.get_ref().type_str();
            findings.push(
                field.value.span(),
                field.key,
                Problem::Type { found, expected },
            );
            return Vec::new();
        };
        let mut answers = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            let path = format!("{}[{index}]", field.key);
            match value.get_ref() {
                DeValue::Table(table) => {
                    answers.push(Section::open(
                        table,
                        path,
                        value.span(),
                        findings,
                        &mut read,
                    ));
                }
                other => {
                    let found = other.type_str();
                    findings.push(value.span(), path, Problem::Type { found, expected });
                }
            }
        }
        answers
    }

    fn open<R>(
        table: &DeTable<'_>,
        path: String,
        span: Range<usize>,
        findings: &mut Findings,
        read: impl FnOnce(&mut Section<'_>, &mut Findings) -> R,
    ) -> R {
        let mut section = Section {
            table,
            path,
            span,
            fetched: Vec::new(),
        };
        let answer = read(&mut section, findings);
        section.close(findings);
        answer
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn close(&self, findings: &mut Findings) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if !self.fetched.contains(&name) {
                let known = self.fetched.clone();
                let meant = closest(name, known.iter().copied());
                findings.push(
                    key.span(),
                    self.key(name),
                    Problem::UnknownKey { meant, known },
                );
            }
        }
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
