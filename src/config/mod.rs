//! The configuration: from TOML texts to settings and services that are valid by construction, or to every error.
//!
//! Three stages. The raw tree (`raw`) is TOML with a span for each value. The [`Config`] has typed values: names that
//! exist, numbers within their bounds, services without contradictions. The policy is compiled from it for a day.
//! Nothing here opens a file: the caller passes texts and their names.
//!
//! # Settings
//!
//! One table (`settings`) describes every setting: key, type, bounds, default, reason, description. It drives the
//! reader, the JSON schema, `config show`, the manual, `voicelane.toml(5)` and the commented example. [`tables`]
//! returns it.
//!
//! # Layers
//!
//! A configuration has layers: defaults and catalogues, the main file, drop-ins, a credential, the command line. The
//! last layer with a key has the effective value. A list replaces the whole list, and a service the service of its
//! name. Every file is checked in full, even if a later one overrides it. [`Effective`] has the origin of each value.

mod catalogue;
mod diagnostic;
mod diagnostic_kind;
mod effective;
mod layer;
mod raw;
mod reader;
mod root;
mod schema;
mod service;
mod setting;
mod settings;
mod span;
mod special_purpose;
mod suggestion;
#[cfg(test)]
mod tests;
mod value_type;
mod values;

use crate::net::PolicyService;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use diagnostic_kind::DiagnosticKind;
pub use effective::{Effective, EffectiveSection, EffectiveValue, ValueOrigin};
pub use layer::{Document, Layer};
pub use schema::{schema, tables};
pub use setting::{SettingSpec, SettingsTable};
pub use settings::{
    ControlSettings, GatewaySettings, MediaFailoverSettings, MetricsSettings, NatMappingSettings,
    RelaySettings, RouteSettings, TunSettings, UplinkSettings,
};
pub use span::Span;
pub use special_purpose::{PrefixRejection, SpecialPurposeBlock};
pub use value_type::ValueSchema;
pub use values::{InterfaceName, InterfaceNameError, MetricsListen, VpnMark};

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    services: Vec<PolicyService>,
    settings: settings::Settings,
}

impl Config {
    /// Reads the text of a single file. `file` is its name in diagnostics.
    ///
    /// # Errors
    /// Every error of the text.
    pub fn parse(file: &str, text: &str) -> Result<Self, Diagnostics> {
        let document = Document {
            layer: Layer::Main,
            name: file.to_owned(),
            text: text.to_owned(),
        };
        Ok(Effective::read(vec![document])?.into_config())
    }

    /// Every service: those of catalogues first, then in the order of the files.
    #[must_use]
    pub fn services(&self) -> &[PolicyService] {
        &self.services
    }

    /// Returns the key paths of the settings that differ and that only a restart applies.
    #[must_use]
    pub fn changed_until_restart(&self, other: &Self) -> Vec<&'static str> {
        self.settings.changed_until_restart(&other.settings)
    }
}

impl Default for Config {
    /// The configuration without files: the Talkdesk catalogue and every default.
    fn default() -> Self {
        let effective = Effective::read(Vec::new());
        let effective = effective.expect("the built-in catalogue is valid, tested");
        effective.into_config()
    }
}
