//! The layers of a configuration: who said something, and who has the last word.

use std::fmt;

use serde::{Serialize, Serializer};

/// Who speaks, in rising order of who is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// The vendor: what is compiled in.
    Vendor,
    /// IT: the main file.
    Main,
    /// IT as well, or a tool of theirs: a file that adds to the main one.
    DropIn,
    /// IT's management: what the service manager hands over (systemd.exec(5), `LoadCredential`).
    Credential,
    /// Whoever starts the program: flags and environment variables.
    CommandLine,
}

impl Layer {
    /// The stable word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vendor => "vendor",
            Self::Main => "file",
            Self::DropIn => "drop-in",
            Self::Credential => "credential",
            Self::CommandLine => "command-line",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Layer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One text of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Who speaks.
    pub layer: Layer,
    /// What faults and origins call it: a file's path, a flag.
    pub name: String,
    /// What is said, in TOML.
    pub text: String,
}

impl Document {
    /// A setting of the command line: `origin` is the flag or the environment variable.
    #[must_use]
    pub fn setting(origin: &str, key: &str, value: &str) -> Self {
        Self {
            layer: Layer::CommandLine,
            name: origin.to_owned(),
            // A JSON string is a TOML basic string, but for a bare DEL, which TOML refuses.
            text: format!("{key} = {}", serde_json::Value::from(value)),
        }
    }
}
