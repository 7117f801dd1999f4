//! A problem and its place: as one line for a log, as an excerpt with a caret for a person, as data for a program.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::layer::Layer;
use super::problem::Problem;

/// A text that faults point into, with its file's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) layer: Layer,
    /// Its place among all files: a later one has the last word.
    pub(super) rank: usize,
    pub(super) name: String,
    pub(super) text: Cow<'static, str>,
}

/// A stretch of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    source: Arc<Source>,
    span: Range<usize>,
}

impl Place {
    pub(super) fn new(source: &Arc<Source>, span: Range<usize>) -> Self {
        Self {
            source: Arc::clone(source),
            span,
        }
    }

    /// The file's name, as it was given.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// The layer that the file belongs to.
    #[must_use]
    pub fn layer(&self) -> Layer {
        self.source.layer
    }

    /// Whether both lie in the same file.
    pub(super) fn shares_file(&self, other: &Self) -> bool {
        self.source.rank == other.source.rank
    }

    /// The bytes that the place covers.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The line and column, both from 1, the column in characters.
    #[must_use]
    pub fn line_and_column(&self) -> (usize, usize) {
        let before = self
            .source
            .text
            .get(..self.span.start)
            .unwrap_or(&self.source.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    /// The text there, as written.
    #[must_use]
    pub fn text(&self) -> &str {
        self.source.text.get(self.span.clone()).unwrap_or("")
    }

    fn snippet(&self, kind: AnnotationKind, label: String) -> Snippet<'_, Annotation<'_>> {
        Snippet::source(self.source.text.as_ref())
            .path(self.file())
            .annotation(kind.span(self.span()).label(label))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_and_column();
        write!(f, "{}:{line}:{column}", self.file())
    }
}

/// One problem at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// The key's path, such as `service[2].prefixes[0]`; empty for a syntax error.
    pub key: String,
    /// The name of the service that it lies in.
    pub service: Option<String>,
    /// What.
    pub problem: Problem,
    /// The other place of a duplicate or a contradiction.
    pub related: Option<Place>,
}

impl Fault {
    /// The offending value as written in the file; nothing for a key that is missing.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        match self.problem {
            Problem::Missing { .. } => None,
            _ => Some(self.place.text()),
        }
    }

    /// The key and service in words.
    fn subject(&self) -> String {
        match (&self.service, self.key.as_str()) {
            (_, "") => String::new(),
            (Some(service), key) => format!("{key} (service {service:?}): "),
            (None, key) => format!("{key}: "),
        }
    }

    fn render(&self, renderer: &Renderer) -> String {
        let title = format!("{}{}", self.subject(), self.problem);
        let expected = format!("expected {}", self.problem.expected());
        let mut group = Group::with_title(Level::ERROR.primary_title(title))
            .element(self.place.snippet(AnnotationKind::Primary, expected));
        if let Some(related) = &self.related {
            let label = "the other one is here".into();
            group = group.element(related.snippet(AnnotationKind::Context, label));
        }
        renderer.render(&[group.element(Level::HELP.message(self.problem.advice()))])
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, problem, .. } = self;
        let (subject, expected) = (self.subject(), problem.expected());
        write!(
            f,
            "{place}: {subject}{problem}; expected {expected}; {}",
            problem.advice()
        )
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (line, column) = self.place.line_and_column();
        let mut fault = serializer.serialize_struct("Fault", 11)?;
        fault.serialize_field("kind", self.problem.kind())?;
        fault.serialize_field("file", self.place.file())?;
        fault.serialize_field("line", &line)?;
        fault.serialize_field("column", &column)?;
        fault.serialize_field("key", &self.key)?;
        fault.serialize_field("service", &self.service)?;
        fault.serialize_field("value", &self.value())?;
        fault.serialize_field("message", &self.problem.to_string())?;
        fault.serialize_field("expected", &self.problem.expected())?;
        fault.serialize_field("advice", &self.problem.advice())?;
        fault.serialize_field("related", &self.related.as_ref().map(Place::to_string))?;
        fault.end()
    }
}

/// Every fault of a configuration, in the order of the files; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Sorts what was found; nothing when nothing was.
    pub(super) fn of(mut found: Vec<Fault>) -> Option<Self> {
        found.sort_by_key(|fault| (fault.place.source.rank, fault.place.span.start));
        (!found.is_empty()).then_some(Self(found))
    }

    /// The faults, in the order of the files.
    #[must_use]
    pub fn list(&self) -> &[Fault] {
        &self.0
    }

    /// Draws each fault with an excerpt of the file, a caret and what to do; in colour for a terminal.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let drawn: Vec<_> = self.0.iter().map(|fault| fault.render(&renderer)).collect();
        drawn.join("\n\n")
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(Fault::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}
