//! The effective value of every setting, with its origin.

use std::collections::BTreeMap;
use std::fmt;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::Value as Json;

use super::layer::Layer;
use super::raw::Spans;
use super::setting::{SettingSpec, SettingsTable, span_to_json};
use super::span::Span;
use super::{Config, root, service, settings};
use crate::net::PolicyService;

/// A configuration with the origins of its values.
#[derive(Clone, Debug)]
pub struct Effective {
    pub(super) config: Config,
    /// Spans by key path, without those of services.
    pub(super) settings: BTreeMap<String, Span>,
    /// In the order of the configuration's services.
    pub(super) services: Vec<Spans>,
}

/// A table of the configuration.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct EffectiveSection {
    /// The name of the table; `None` for the keys before all tables.
    pub table: Option<String>,
    /// The name of the service, if the table is `service`.
    pub service: Option<String>,
    /// The values.
    pub values: Vec<EffectiveValue>,
}

/// An effective value.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct EffectiveValue {
    /// The key within its table.
    pub key: String,
    /// The value; null for a setting without default that no file sets.
    pub value: Json,
    /// The origin of the value.
    #[serde(flatten)]
    pub origin: ValueOrigin,
    /// The TOML text of the value in its file, or of the default.
    #[serde(skip)]
    pub written: Option<String>,
}

/// The origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueOrigin {
    /// The default: no file sets the value.
    Default,
    /// A file or the command line.
    Span(Span),
}

impl ValueOrigin {
    /// The layer of the value.
    #[must_use]
    pub fn layer(&self) -> Layer {
        match self {
            Self::Default => Layer::Vendor,
            Self::Span(span) => span.layer(),
        }
    }
}

impl fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = match self {
            Self::Default => return f.pad("default"),
            Self::Span(span) => span,
        };
        let line = span.line_and_column().0;
        match span.layer() {
            Layer::CommandLine => f.pad(span.file()),
            layer => write!(f, "{layer} {}:{line}", span.file()),
        }
    }
}

impl Serialize for ValueOrigin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (file, line) = match self {
            Self::Default => (None, None),
            Self::Span(span) => (Some(span.file()), Some(span.line_and_column().0)),
        };
        let mut origin = serializer.serialize_struct("ValueOrigin", 3)?;
        origin.serialize_field("layer", &self.layer())?;
        origin.serialize_field("file", &file)?;
        origin.serialize_field("line", &line)?;
        origin.end()
    }
}

impl Effective {
    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The configuration without origins.
    #[must_use]
    pub fn into_config(self) -> Config {
        self.config
    }

    /// Every effective value: the keys before all tables, the tables, the services.
    #[must_use]
    pub fn sections(&self) -> Vec<EffectiveSection> {
        let tables = [&root::TABLE].into_iter().chain(settings::TABLES);
        let tables = tables.map(|table| EffectiveSection {
            table: (!table.name.is_empty()).then(|| table.name.to_owned()),
            service: None,
            values: self.values(table),
        });
        let services = self.config.services().iter().zip(&self.services);
        let services = services.map(|(service, spans)| EffectiveSection {
            table: Some(service::TABLE.name.to_owned()),
            service: Some(service.name.clone()),
            values: service_values(service, spans),
        });
        tables.chain(services).collect()
    }

    fn values(&self, table: &SettingsTable) -> Vec<EffectiveValue> {
        let values = table.settings.iter();
        let values = values.map(
            |setting| match self.settings.get(&table.path(setting.key)) {
                Some(span) => file_value(setting.key, span),
                None => default_value(setting),
            },
        );
        values.collect()
    }
}

/// The values of a service that a file sets, its DSCP, and whether it is enabled.
fn service_values(service: &PolicyService, spans: &Spans) -> Vec<EffectiveValue> {
    let value = |key: &str, value: Json, origin: ValueOrigin| EffectiveValue {
        key: key.to_owned(),
        value,
        origin,
        written: None,
    };
    let mut values: Vec<_> = spans
        .iter()
        .map(|(key, span)| match *key {
            // The span may be that of a name in `enable` or `disable`.
            "enabled" => value(key, service.enabled.into(), ValueOrigin::Span(span.clone())),
            key => file_value(key, span),
        })
        .collect();
    let has = |wanted| spans.iter().any(|(key, _)| *key == wanted);
    if !has("dscp") {
        let dscp = service.dscp.to_string().into();
        values.push(value("dscp", dscp, ValueOrigin::Default));
    }
    if !has("enabled") {
        values.push(value(
            "enabled",
            service.enabled.into(),
            ValueOrigin::Default,
        ));
    }
    values
}

fn file_value(key: &str, span: &Span) -> EffectiveValue {
    EffectiveValue {
        key: key.to_owned(),
        value: span_to_json(span),
        origin: ValueOrigin::Span(span.clone()),
        written: Some(span.text().to_owned()),
    }
}

fn default_value(setting: &SettingSpec) -> EffectiveValue {
    EffectiveValue {
        key: setting.key.to_owned(),
        value: setting.default_json(),
        origin: ValueOrigin::Default,
        written: setting.default.map(str::to_owned),
    }
}
