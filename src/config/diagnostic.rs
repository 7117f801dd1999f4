//! One error of a configuration file: as a line for a log, as an excerpt for a person, as JSON for a program.

use std::fmt;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::diagnostic_kind::DiagnosticKind;
use super::span::Span;

/// One error with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Position of the value, or of the table that lacks it.
    pub span: Span,
    /// The key's path, such as `service[2].prefixes[0]`; empty for a syntax error.
    pub key: String,
    /// The name of the service that has the error.
    pub service: Option<String>,
    /// The error.
    pub kind: DiagnosticKind,
    /// The other position of a duplicate or a contradiction.
    pub related: Option<Span>,
}

impl Diagnostic {
    /// The invalid value as the file has it; `None` for a missing key.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        match self.kind {
            DiagnosticKind::Missing { .. } => None,
            _ => Some(self.span.text()),
        }
    }

    /// The key and the service in words.
    fn subject(&self) -> String {
        match (&self.service, self.key.as_str()) {
            (_, "") => String::new(),
            (Some(service), key) => format!("{key} (service {service:?}): "),
            (None, key) => format!("{key}: "),
        }
    }

    fn render(&self, renderer: &Renderer) -> String {
        let title = format!("{}{}", self.subject(), self.kind);
        let expected = format!("expected {}", self.kind.expected());
        let primary = snippet(&self.span, AnnotationKind::Primary, expected);
        let mut group = Group::with_title(Level::ERROR.primary_title(title)).element(primary);
        if let Some(related) = &self.related {
            let label = "the other value is here".into();
            group = group.element(snippet(related, AnnotationKind::Context, label));
        }
        renderer.render(&[group.element(Level::HELP.message(self.kind.advice()))])
    }
}

fn snippet(span: &Span, kind: AnnotationKind, label: String) -> Snippet<'_, Annotation<'_>> {
    Snippet::source(span.file_text())
        .path(span.file())
        .annotation(kind.span(span.range()).label(label))
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { span, kind, .. } = self;
        let (subject, expected) = (self.subject(), kind.expected());
        let advice = kind.advice();
        write!(f, "{span}: {subject}{kind}; expected {expected}; {advice}")
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (line, column) = self.span.line_and_column();
        let mut fields = serializer.serialize_struct("Diagnostic", 11)?;
        fields.serialize_field("kind", self.kind.name())?;
        fields.serialize_field("file", self.span.file())?;
        fields.serialize_field("line", &line)?;
        fields.serialize_field("column", &column)?;
        fields.serialize_field("key", &self.key)?;
        fields.serialize_field("service", &self.service)?;
        fields.serialize_field("value", &self.value())?;
        fields.serialize_field("message", &self.kind.to_string())?;
        fields.serialize_field("expected", &self.kind.expected())?;
        fields.serialize_field("advice", &self.kind.advice())?;
        fields.serialize_field("related", &self.related.as_ref().map(Span::to_string))?;
        fields.end()
    }
}

/// Errors of one message. The count of the others follows.
const SHOWN: usize = 50;

/// Every error of a configuration in the order of the files; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Sorts the errors by position. Returns `None` for an empty list.
    pub(super) fn new(mut list: Vec<Diagnostic>) -> Option<Self> {
        list.sort_by_key(|diagnostic| diagnostic.span.sort_key());
        (!list.is_empty()).then_some(Self(list))
    }

    /// The errors in the order of the files.
    #[must_use]
    pub fn list(&self) -> &[Diagnostic] {
        &self.0
    }

    /// Renders each error with an excerpt of the file, a caret and advice; `colour` is for terminals.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let list = self.0.iter().take(SHOWN);
        let mut rendered: Vec<_> = list
            .map(|diagnostic| diagnostic.render(&renderer))
            .collect();
        rendered.extend(self.rest());
        rendered.join("\n\n")
    }

    /// A line about the errors that are not shown, if there are any.
    fn rest(&self) -> Option<String> {
        let rest = self.0.len().checked_sub(SHOWN).filter(|rest| *rest > 0)?;
        Some(format!("and {rest} more: correct these {SHOWN} first"))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = self.0.iter().take(SHOWN);
        let mut lines: Vec<_> = list.map(Diagnostic::to_string).collect();
        lines.extend(self.rest());
        f.write_str(&lines.join("\n"))
    }
}
