//! Collects the lines and the notes of an export.

/// The text of an export, and notes on its differences from the policy.
#[derive(Debug)]
pub(super) struct ExportWriter {
    comment: Option<&'static str>,
    text: String,
    notes: Vec<String>,
}

/// The longest comment line, in characters.
const WIDTH: usize = 100;

impl ExportWriter {
    /// Creates an empty text. `comment` starts a comment line of the format.
    pub(super) const fn new(comment: Option<&'static str>) -> Self {
        Self {
            comment,
            text: String::new(),
            notes: Vec::new(),
        }
    }

    /// Writes a line.
    pub(super) fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    /// Writes a comment, wrapped into lines. Control characters become spaces, so the text cannot end the comment.
    pub(super) fn comment(&mut self, text: &str) {
        let start = self
            .comment
            .expect("only formats with comments write comments");
        let plain = text.replace(|c: char| c.is_control(), " ");
        let mut line = start.to_owned();
        for word in plain.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line != start {
                self.line(&line);
                line = format!("{start} ");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(&line);
    }

    /// Writes a JSON document, indented.
    pub(super) fn json(&mut self, document: &serde_json::Value) {
        self.line(format!("{document:#}"));
    }

    /// Adds a note on a difference from the policy.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Returns the notes so far.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the text and the notes.
    pub(super) fn finish(self) -> (String, Vec<String>) {
        (self.text, self.notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_stays_a_comment() {
        let mut writer = ExportWriter::new(Some("#"));
        writer.comment("one\nreboot\r\u{85}reboot\u{2028}reboot\u{1b}[2J");
        writer.comment("");
        writer.comment(&["word"; 50].join(" "));
        let (text, notes) = writer.finish();
        assert!(text.starts_with("# one reboot reboot reboot [2J\n#\n# word"));
        assert!(
            text.lines()
                .all(|line| line.starts_with('#') && line.len() <= WIDTH)
        );
        assert_eq!(text.lines().count(), 5);
        assert!(notes.is_empty());
    }
}
