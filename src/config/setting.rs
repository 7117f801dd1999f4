//! A setting and a table of settings: the common source of the reader, the schema, the manual and the example.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use toml::de::DeTable;

use super::layer::Layer;
use super::raw::{Collector, RawTable, Spanned};
use super::span::{SourceFile, Span};
use super::value_type::{ValueSchema, ValueType};

/// A setting.
pub struct SettingSpec<V: ?Sized = dyn ValueSchema> {
    /// The key within its table.
    pub key: &'static str,
    /// The description: lines of Markdown. The first paragraph is one sentence.
    pub about: &'static [&'static str],
    /// The default in TOML; `None` for a setting without one.
    pub default: Option<&'static str>,
    /// The reason for the default, or for its absence; without a full stop.
    pub reason: &'static str,
    /// A typical value in TOML, if the default is not one.
    pub example: Option<&'static str>,
    /// Whether every file must have the key.
    pub required: bool,
    /// Whether a reload applies a new value; otherwise a restart does.
    pub reload: bool,
    /// The type.
    pub value: V,
}

/// A table of settings.
#[derive(Clone, Copy)]
pub struct SettingsTable {
    /// The name; empty for the keys before all tables.
    pub name: &'static str,
    /// The description: lines of Markdown.
    pub about: &'static [&'static str],
    /// The settings.
    pub settings: &'static [&'static SettingSpec],
}

impl SettingSpec {
    /// The paragraphs of the description.
    #[must_use]
    pub fn paragraphs(&self) -> Vec<String> {
        let trimmed: Vec<_> = self.about.iter().map(|line| line.trim()).collect();
        let paragraphs = trimmed.split(|line| line.is_empty());
        paragraphs.map(|lines| lines.join(" ")).collect()
    }

    /// A value in TOML: the example, or the default.
    #[must_use]
    pub fn sample(&self) -> &'static str {
        self.example.or(self.default).unwrap_or_default()
    }

    /// The default as JSON; null without one.
    #[must_use]
    pub fn default_json(&self) -> Json {
        self.default.map_or(Json::Null, toml_to_json)
    }

    /// The JSON schema of the setting.
    pub(super) fn schema(&self) -> Json {
        let mut schema = self.value.schema();
        schema["description"] = self.paragraphs().swap_remove(0).into();
        if self.default.is_some() {
            schema["default"] = self.default_json();
        }
        schema
    }
}

#[expect(private_bounds, reason = "only this module reads settings")]
impl<V: ValueType> SettingSpec<V> {
    /// Reads every file's value. Returns the last file's value, or `None` if it is absent or invalid.
    pub(super) fn read(
        &self,
        table: &mut RawTable<'_>,
        collector: &mut Collector,
    ) -> Option<V::Value> {
        let value = self.read_spanned(table, collector)?;
        Some(value.value)
    }

    /// Does the same and returns the span and the key path too.
    pub(super) fn read_spanned(
        &self,
        table: &mut RawTable<'_>,
        collector: &mut Collector,
    ) -> Option<Spanned<V::Value>> {
        if self.required {
            let example = self.example.expect("a required setting has an example");
            table.require(collector, self.key, example);
        }
        let mut last = None;
        for value in table.fetch(self.key) {
            let (span, key) = (value.span(), value.key.clone());
            let value = self.value.read(value, collector);
            last = value.map(|value| Spanned { value, span, key });
        }
        last
    }

    /// Converts the default.
    pub(super) fn default_value(&self) -> V::Value {
        let default = self.default.expect("the caller checks for a default");
        let source = Arc::new(SourceFile {
            layer: Layer::Vendor,
            rank: 0,
            name: "default".to_owned(),
            text: format!("{} = {default}", self.key).into(),
        });
        let root = DeTable::parse(&source.text).expect("tests read every default");
        let mut table = RawTable::root([(&source, &root)].into_iter());
        let value = self.read(&mut table, &mut Collector::default());
        value.expect("tests read every default")
    }
}

impl SettingsTable {
    /// The JSON schema of the table.
    pub(super) fn schema(&self) -> Json {
        let settings = self.settings.iter();
        let properties = settings.map(|setting| (setting.key.to_owned(), setting.schema()));
        let properties = Json::Object(properties.collect());
        let mut schema = json!({
            "type": "object", "additionalProperties": false, "properties": properties,
        });
        let required = self.settings.iter().filter(|setting| setting.required);
        let required: Vec<_> = required.map(|setting| setting.key).collect();
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        schema
    }

    /// The path of a key of this table.
    #[must_use]
    pub fn path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }
}

/// Converts the value at a span.
pub(super) fn span_to_json(span: &Span) -> Json {
    toml_to_json(span.text())
}

fn toml_to_json(text: &str) -> Json {
    let table = format!("value = {text}").parse::<toml::Table>();
    let table = table.expect("the reader has accepted it");
    to_json(&table["value"])
}

fn to_json(value: &toml::Value) -> Json {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(boolean) => (*boolean).into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(list) => list.iter().map(to_json).collect(),
        toml::Value::Table(table) => table
            .iter()
            .map(|(key, value)| (key.clone(), to_json(value)))
            .collect(),
    }
}

/// Defines the tables of settings. Each entry is a field, its documentation, its type and its setting.
///
/// The macro expands to a struct for each table, to accessors of `Config`, and to `TABLES`.
macro_rules! settings_tables {
    ($(
        $(#[doc = $about:literal])+
        [$table:ident] $name:ident {
            $(
                $(#[doc = $line:literal])+
                $field:ident: $type:ty {
                    key: $key:literal,
                    value: $value:expr,
                    $(default: $default:literal,)?
                    $(example: $example:literal,)?
                    reason: $reason:literal,
                    reload: $reload:literal,
                }
            )+
        }
    )+) => {
        $(
            $(#[doc = $about])+
            #[doc = ""]
            #[doc = concat!("The table `[", stringify!($table), "]`.")]
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $name {
                $(
                    $(#[doc = $line])+
                    #[doc = ""]
                    #[doc = concat!("Default: ", $("`", $default, "`; ",)? $reason, ".")]
                    pub $field: $type,
                )+
            }

            impl $name {
                fn read(table: &mut RawTable<'_>, collector: &mut Collector) -> Self {
                    $(
                        let setting = settings_tables!(
                            @setting $key, $value, [$($default)?], [$($example)?],
                            $reason, $reload, [$($line)+]
                        );
                        let value = setting.read(table, collector);
                        let $field = settings_tables!(@or_default value, setting, [$($default)?]);
                    )+
                    Self { $($field,)+ }
                }
            }
        )+

        /// Every setting that is neither a catalogue nor a service.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(super) struct Settings {
            $($table: $name,)+
        }

        impl Settings {
            pub(super) fn read(root: &mut RawTable<'_>, collector: &mut Collector) -> Self {
                $(let $table = root.table(collector, stringify!($table), $name::read);)+
                Self { $($table,)+ }
            }

            /// Returns the key paths of the settings that differ and that only a restart applies.
            pub(super) fn changed_until_restart(&self, other: &Self) -> Vec<&'static str> {
                let mut changed = Vec::new();
                $($(
                    if !$reload && self.$table.$field != other.$table.$field {
                        changed.push(concat!(stringify!($table), ".", $key));
                    }
                )+)+
                changed
            }
        }

        impl Config {
            $(
                $(#[doc = $about])+
                #[must_use]
                pub const fn $table(&self) -> &$name {
                    &self.settings.$table
                }
            )+
        }

        /// The tables of these settings.
        pub(super) const TABLES: &[SettingsTable] = &[
            $(SettingsTable {
                name: stringify!($table),
                about: &[$($about),+],
                settings: &[$(&settings_tables!(
                    @setting $key, $value, [$($default)?], [$($example)?],
                    $reason, $reload, [$($line)+]
                ),)+],
            },)+
        ];
    };
    (@setting $key:literal, $value:expr, [$($default:literal)?], [$($example:literal)?],
        $reason:literal, $reload:literal, [$($line:literal)+]) => {
        const {
            SettingSpec {
                key: $key,
                about: &[$($line),+],
                default: settings_tables!(@option $($default)?),
                example: settings_tables!(@option $($example)?),
                reason: $reason,
                required: false,
                reload: $reload,
                value: $value,
            }
        }
    };
    (@or_default $read:ident, $setting:ident, []) => { $read };
    (@or_default $read:ident, $setting:ident, [$default:literal]) => {
        $read.unwrap_or_else(|| $setting.default_value())
    };
    (@option) => { None };
    (@option $literal:literal) => { Some($literal) };
}

pub(super) use settings_tables;
