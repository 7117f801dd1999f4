//! What is in force, value by value, and where each comes from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::Value as Json;

use super::diagnostic::Diagnostics;
use super::layer::{Document, Layer};
use super::raw::Collector;
use super::span::{SourceFile, Span};
use super::{Config, Spans, open, schema};

/// A configuration that knows where its values come from.
#[derive(Clone, Debug)]
pub struct Effective {
    config: Config,
    settings: BTreeMap<String, Span>,
    /// In the order of the configuration's services.
    services: Vec<Spans>,
}

/// A table of the configuration.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct EffectiveSection {
    /// Its name; none for what stands before all tables.
    pub table: Option<String>,
    /// The service that it describes, if its name is `service`.
    pub service: Option<String>,
    /// Its values.
    pub values: Vec<EffectiveValue>,
}

/// A value in force.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct EffectiveValue {
    /// Its key within its table.
    pub key: String,
    /// The value; nothing for a setting that has no default and that nobody has given.
    pub value: Json,
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: ValueOrigin,
    /// As it is written there, if it is written.
    #[serde(skip)]
    pub written: Option<String>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueOrigin {
    /// Nobody wrote it: it is the program's default.
    Default,
    /// It is written there.
    Span(Span),
}

impl ValueOrigin {
    /// The layer that the value comes from.
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
    /// Reads what all layers say, the one with the last word last.
    ///
    /// # Errors
    /// Every diagnostic of every text, at once.
    pub fn read(documents: Vec<Document>) -> Result<Self, Diagnostics> {
        // The vendor's catalogues are ranked 0.
        let sources: Vec<_> = (1..)
            .zip(documents)
            .map(|(rank, document)| {
                Arc::new(SourceFile {
                    layer: document.layer,
                    rank,
                    name: document.name,
                    text: Cow::Owned(document.text),
                })
            })
            .collect();
        let mut collector = Collector::default();
        let (config, services) = open(&sources, &mut collector, Config::read);
        match Diagnostics::new(collector.diagnostics) {
            Some(diagnostics) => Err(diagnostics),
            None => Ok(Self {
                config,
                settings: collector.origins,
                services,
            }),
        }
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The configuration, without where it comes from.
    #[must_use]
    pub fn into_config(self) -> Config {
        self.config
    }

    /// Every value in force: those before all tables, the tables, the services.
    #[must_use]
    pub fn sections(&self) -> Vec<EffectiveSection> {
        let schema = schema();
        let properties = object(&schema["properties"]);
        let is_table = |schema: &Json| schema["type"] == "object";
        let root = properties
            .iter()
            .filter(|(key, schema)| *key != "service" && !is_table(schema));
        let mut sections = vec![EffectiveSection {
            table: None,
            service: None,
            values: root
                .map(|(key, schema)| self.setting(key, key, schema))
                .collect(),
        }];
        for (table, schema) in properties.iter().filter(|(_, schema)| is_table(schema)) {
            let keys = object(&schema["properties"]).iter();
            sections.push(EffectiveSection {
                table: Some(table.clone()),
                service: None,
                values: keys
                    .map(|(key, schema)| self.setting(&format!("{table}.{key}"), key, schema))
                    .collect(),
            });
        }
        let services = self.config.services().iter().zip(&self.services);
        sections.extend(services.map(|(service, spans)| {
            let default = |key: &str, value: Json| EffectiveValue {
                key: key.to_owned(),
                value,
                origin: ValueOrigin::Default,
                written: None,
            };
            let mut values: Vec<_> = spans
                .iter()
                .map(|(key, span)| match *key {
                    // It may be switched by a list elsewhere, which says a name.
                    "enabled" => EffectiveValue {
                        origin: ValueOrigin::Span(span.clone()),
                        ..default(key, service.enabled.into())
                    },
                    key => written(key, span),
                })
                .collect();
            let has = |wanted| spans.iter().any(|(key, _)| *key == wanted);
            if !has("dscp") {
                values.push(default("dscp", service.dscp.to_string().into()));
            }
            if !has("enabled") {
                values.push(default("enabled", service.enabled.into()));
            }
            EffectiveSection {
                table: Some("service".to_owned()),
                service: Some(service.name.clone()),
                values,
            }
        }));
        sections
    }

    fn setting(&self, path: &str, key: &str, schema: &Json) -> EffectiveValue {
        match self.settings.get(path) {
            Some(span) => written(key, span),
            None => EffectiveValue {
                key: key.to_owned(),
                // What has but one possible value is never left out.
                value: schema
                    .get("default")
                    .or(schema.get("const"))
                    .cloned()
                    .unwrap_or(Json::Null),
                origin: ValueOrigin::Default,
                written: None,
            },
        }
    }
}

fn object(value: &Json) -> &serde_json::Map<String, Json> {
    value.as_object().expect("the schema is ours")
}

fn written(key: &str, span: &Span) -> EffectiveValue {
    let text = span.text();
    let table: toml::Table = format!("value = {text}")
        .parse()
        .expect("it was parsed before");
    EffectiveValue {
        key: key.to_owned(),
        value: json(&table["value"]),
        origin: ValueOrigin::Span(span.clone()),
        written: Some(text.to_owned()),
    }
}

fn json(value: &toml::Value) -> Json {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(list) => list.iter().map(json).collect(),
        toml::Value::Table(table) => table
            .iter()
            .map(|(key, value)| (key.clone(), json(value)))
            .collect(),
    }
}
