//! What is in force, value by value, and where each comes from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::Value as Json;

use super::fault::{Faults, Place, Source};
use super::layer::{Document, Layer};
use super::raw::Findings;
use super::{Config, Places, open, schema};

/// A configuration that knows where its values come from.
#[derive(Clone, Debug)]
pub struct Effective {
    config: Config,
    settings: BTreeMap<String, Place>,
    /// In the order of the configuration's services.
    services: Vec<Places>,
}

/// A table of the configuration.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Section {
    /// Its name; none for what stands before all tables.
    pub table: Option<String>,
    /// The service that it describes, if its name is `service`.
    pub service: Option<String>,
    /// Its values.
    pub values: Vec<Value>,
}

/// A value in force.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Value {
    /// Its key within its table.
    pub key: String,
    /// The value; nothing for a setting that has no default and that nobody has given.
    pub value: Json,
    /// Where it comes from.
    #[serde(flatten)]
    pub origin: Origin,
    /// As it is written there, if it is written.
    #[serde(skip)]
    pub written: Option<String>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody wrote it: it is the program's default.
    Default,
    /// It is written there.
    Place(Place),
}

impl Origin {
    /// The layer that the value comes from.
    #[must_use]
    pub fn layer(&self) -> Layer {
        match self {
            Self::Default => Layer::Vendor,
            Self::Place(place) => place.layer(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self {
            Self::Default => return f.pad("default"),
            Self::Place(place) => place,
        };
        let line = place.line_and_column().0;
        match place.layer() {
            Layer::CommandLine => f.pad(place.file()),
            layer => write!(f, "{layer} {}:{line}", place.file()),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (file, line) = match self {
            Self::Default => (None, None),
            Self::Place(place) => (Some(place.file()), Some(place.line_and_column().0)),
        };
        let mut origin = serializer.serialize_struct("Origin", 3)?;
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
    /// Every fault of every text, at once.
    pub fn read(documents: Vec<Document>) -> Result<Self, Faults> {
        // The vendor's catalogues are ranked 0.
        let sources: Vec<_> = (1..)
            .zip(documents)
            .map(|(rank, document)| {
                Arc::new(Source {
                    layer: document.layer,
                    rank,
                    name: document.name,
                    text: Cow::Owned(document.text),
                })
            })
            .collect();
        let mut findings = Findings::default();
        let (config, services) = open(&sources, &mut findings, Config::read);
        match Faults::of(findings.faults) {
            Some(faults) => Err(faults),
            None => Ok(Self {
                config,
                settings: findings.origins,
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
    pub fn sections(&self) -> Vec<Section> {
        let schema = schema();
        let properties = object(&schema["properties"]);
        let is_table = |schema: &Json| schema["type"] == "object";
        let root = properties
            .iter()
            .filter(|(key, schema)| *key != "service" && !is_table(schema));
        let mut sections = vec![Section {
            table: None,
            service: None,
            values: root
                .map(|(key, schema)| self.setting(key, key, schema))
                .collect(),
        }];
        for (table, schema) in properties.iter().filter(|(_, schema)| is_table(schema)) {
            let keys = object(&schema["properties"]).iter();
            sections.push(Section {
                table: Some(table.clone()),
                service: None,
                values: keys
                    .map(|(key, schema)| self.setting(&format!("{table}.{key}"), key, schema))
                    .collect(),
            });
        }
        let services = self.config.services().iter().zip(&self.services);
        sections.extend(services.map(|(service, places)| {
            let default = |key: &str, value: Json| Value {
                key: key.to_owned(),
                value,
                origin: Origin::Default,
                written: None,
            };
            let mut values: Vec<_> = places
                .iter()
                .map(|(key, place)| match *key {
                    // It may be switched by a list elsewhere, which says a name.
                    "enabled" => Value {
                        origin: Origin::Place(place.clone()),
                        ..default(key, service.enabled.into())
                    },
                    key => written(key, place),
                })
                .collect();
            let has = |wanted| places.iter().any(|(key, _)| *key == wanted);
            if !has("dscp") {
                values.push(default("dscp", service.dscp.to_string().into()));
            }
            if !has("enabled") {
                values.push(default("enabled", service.enabled.into()));
            }
            Section {
                table: Some("service".to_owned()),
                service: Some(service.name.clone()),
                values,
            }
        }));
        sections
    }

    fn setting(&self, path: &str, key: &str, schema: &Json) -> Value {
        match self.settings.get(path) {
            Some(place) => written(key, place),
            None => Value {
                key: key.to_owned(),
                // What has but one possible value is never left out.
                value: schema
                    .get("default")
                    .or(schema.get("const"))
                    .cloned()
                    .unwrap_or(Json::Null),
                origin: Origin::Default,
                written: None,
            },
        }
    }
}

fn object(value: &Json) -> &serde_json::Map<String, Json> {
    value.as_object().expect("the schema is ours")
}

fn written(key: &str, place: &Place) -> Value {
    let text = place.text();
    let table: toml::Table = format!("value = {text}")
        .parse()
        .expect("it was parsed before");
    Value {
        key: key.to_owned(),
        value: json(&table["value"]),
        origin: Origin::Place(place.clone()),
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
