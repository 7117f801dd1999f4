//! The position of a value in a configuration file.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::layer::Layer;

/// A configuration text with the name of its file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SourceFile {
    pub(super) layer: Layer,
    /// Its position among all files: a later file overrides an earlier one.
    pub(super) rank: usize,
    pub(super) name: String,
    pub(super) text: Cow<'static, str>,
}

/// A part of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    source: Arc<SourceFile>,
    range: Range<usize>,
}

impl Span {
    pub(super) fn new(source: &Arc<SourceFile>, range: Range<usize>) -> Self {
        Self {
            source: Arc::clone(source),
            range,
        }
    }

    /// The file's name as the caller gave it.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// The layer of the file.
    #[must_use]
    pub fn layer(&self) -> Layer {
        self.source.layer
    }

    /// The position of the file among all files.
    pub(super) fn rank(&self) -> usize {
        self.source.rank
    }

    /// Whether both spans lie in the same file.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        self.source.rank == other.source.rank
    }

    /// The whole text of the file.
    pub(super) fn file_text(&self) -> &str {
        &self.source.text
    }

    /// Sorts spans by file, then by position.
    pub(super) fn sort_key(&self) -> (usize, usize) {
        (self.source.rank, self.range.start)
    }

    /// The bytes of the file that the span covers.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The line and column of the first character, both counted from 1; the column in characters.
    #[must_use]
    pub fn line_and_column(&self) -> (usize, usize) {
        let text = self.file_text();
        let before = text.get(..self.range.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    /// The text that the span covers.
    #[must_use]
    pub fn text(&self) -> &str {
        self.file_text().get(self.range()).unwrap_or("")
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_and_column();
        write!(f, "{}:{line}:{column}", self.file())
    }
}
