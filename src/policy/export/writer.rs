//! The paper that an export is written on.

/// A text that grows by lines, and the notes on what it cannot say.
#[derive(Debug)]
pub(super) struct ExportWriter {
    comment: Option<&'static str>,
    text: String,
    notes: Vec<String>,
}

/// Where comments break, in characters.
const WIDTH: usize = 100;

impl ExportWriter {
    /// An empty writer of a target whose comments begin so.
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

    /// Writes a comment, broken into lines. Whatever the text holds, it stays a comment: it cannot end its line.
    pub(super) fn comment(&mut self, text: &str) {
        let begin = self
            .comment
            .expect("only a target with comments writes any");
        let plain = text.replace(|c: char| c.is_control(), " ");
        let mut line = begin.to_owned();
        for word in plain.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line != begin {
                self.line(&line);
                line = format!("{begin} ");
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

    /// Notes what the text says less, or more, than the policy.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The notes so far.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The text and the notes.
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
