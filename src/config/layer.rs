//! The layers of a configuration. A later layer overrides an earlier one.

use std::fmt;

use serde::{Serialize, Serializer};

/// The source of a setting, in ascending priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Compiled in: defaults and catalogues.
    Vendor,
    /// The main file, `voicelane.toml`.
    Main,
    /// A file in `conf.d` that extends the main file.
    DropIn,
    /// A credential of the service manager (systemd.exec(5), `LoadCredential`).
    Credential,
    /// Flags and environment variables.
    CommandLine,
}

impl Layer {
    /// The stable name for programs.
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
    /// The layer of the text.
    pub layer: Layer,
    /// Its name in diagnostics and origins: the path of a file, or a flag.
    pub name: String,
    /// TOML.
    pub text: String,
}

impl Document {
    /// Returns a setting of the command line. `origin` is the flag or the environment variable.
    #[must_use]
    pub fn setting(origin: &str, key: &str, value: &str) -> Self {
        Self {
            layer: Layer::CommandLine,
            name: origin.to_owned(),
            // A JSON string is a TOML basic string, except that TOML rejects a bare DEL.
            text: format!("{key} = {}", serde_json::Value::from(value)),
        }
    }
}
