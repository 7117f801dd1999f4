//! The types of settings: the conversion of TOML values, and their syntax in the schema and the manual.

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::diagnostic_kind::DiagnosticKind;
use super::raw::{Collector, RawValue, Spanned};
use super::suggestion::closest;

/// The description of the values that a setting accepts.
pub trait ValueSchema {
    /// The JSON schema of the value.
    fn schema(&self) -> Json;

    /// The accepted values in words, such as "120 to 86400".
    fn syntax(&self) -> String;
}

/// The type of a setting.
pub(super) trait ValueType: ValueSchema {
    /// The type that the program uses.
    type Value;

    /// Converts a value. Records diagnostics and returns `None` if that fails.
    fn read(&self, value: RawValue<'_>, collector: &mut Collector) -> Option<Self::Value>;
}

/// A single value with its own conversion.
pub(super) struct Scalar<T> {
    pub(super) convert: fn(&DeValue<'_>) -> Result<T, DiagnosticKind>,
    pub(super) schema: fn() -> Json,
    pub(super) syntax: &'static str,
}

/// A whole number between two bounds.
pub(super) struct Number<T> {
    pub(super) min: u32,
    pub(super) max: u32,
    /// The advice for a number out of range.
    pub(super) advice: &'static str,
    pub(super) convert: fn(u32) -> T,
}

/// One of a few words.
pub(super) struct Choice<T: 'static> {
    pub(super) words: &'static [(&'static str, T)],
    /// The expected value if the type is wrong.
    pub(super) expected: &'static str,
}

/// A list of values.
pub(super) struct List<V> {
    pub(super) entry: V,
    /// The expected value if the type is wrong.
    pub(super) expected: &'static str,
    pub(super) non_empty: bool,
}

impl<T> ValueSchema for Scalar<T> {
    fn schema(&self) -> Json {
        (self.schema)()
    }

    fn syntax(&self) -> String {
        self.syntax.to_owned()
    }
}

impl<T> ValueType for Scalar<T> {
    type Value = T;

    fn read(&self, value: RawValue<'_>, collector: &mut Collector) -> Option<T> {
        value.convert(collector, self.convert)
    }
}

impl<T> Number<T> {
    pub(super) fn convert(&self, value: &DeValue<'_>) -> Result<T, DiagnosticKind> {
        let (min, max) = (self.min, self.max);
        let advice = self.advice;
        let DeValue::Integer(digits) = value else {
            return Err(wrong_type(value, "a whole number"));
        };
        u32::from_str_radix(digits.as_str(), digits.radix())
            .ok()
            .filter(|number| (min..=max).contains(number))
            .map(self.convert)
            .ok_or(DiagnosticKind::Number { min, max, advice })
    }
}

impl<T> ValueSchema for Number<T> {
    fn schema(&self) -> Json {
        json!({ "type": "integer", "minimum": self.min, "maximum": self.max })
    }

    fn syntax(&self) -> String {
        format!("{} to {}", self.min, self.max)
    }
}

impl<T> ValueType for Number<T> {
    type Value = T;

    fn read(&self, value: RawValue<'_>, collector: &mut Collector) -> Option<T> {
        value.convert(collector, |value| self.convert(value))
    }
}

impl<T: Copy> Choice<T> {
    fn names(&self) -> Vec<&'static str> {
        self.words.iter().map(|(name, _)| *name).collect()
    }

    pub(super) fn convert(&self, value: &DeValue<'_>) -> Result<T, DiagnosticKind> {
        let word = text(value, self.expected)?;
        let mut words = self.words.iter();
        let chosen = words.find(|(name, _)| *name == word);
        chosen.map(|(_, value)| *value).ok_or_else(|| {
            let choices = self.names();
            let meant = closest(&word, choices.iter().copied());
            DiagnosticKind::Choice { meant, choices }
        })
    }
}

impl<T: Copy> ValueSchema for Choice<T> {
    fn schema(&self) -> Json {
        json!({ "enum": self.names() })
    }

    fn syntax(&self) -> String {
        let quoted: Vec<_> = self.names().iter().map(|it| format!("\"{it}\"")).collect();
        quoted.join(", ")
    }
}

impl<T: Copy> ValueType for Choice<T> {
    type Value = T;

    fn read(&self, value: RawValue<'_>, collector: &mut Collector) -> Option<T> {
        value.convert(collector, |value| self.convert(value))
    }
}

impl<V: ValueSchema> ValueSchema for List<V> {
    fn schema(&self) -> Json {
        let mut schema = json!({ "type": "array", "items": self.entry.schema() });
        if self.non_empty {
            schema["minItems"] = 1.into();
        }
        schema
    }

    fn syntax(&self) -> String {
        self.expected.to_owned()
    }
}

impl<V: ValueType> ValueType for List<V> {
    type Value = Vec<V::Value>;

    /// Leaves out invalid entries. Records the spans of the valid ones.
    fn read(&self, value: RawValue<'_>, collector: &mut Collector) -> Option<Self::Value> {
        let (span, path) = (value.span(), value.key.clone());
        let entries = value.entries(collector, self.expected)?;
        if self.non_empty && entries.is_empty() {
            let expected = self.expected;
            let kind = DiagnosticKind::Empty { expected };
            collector.push(span, path.clone(), kind);
        }
        let (mut values, mut positions) = (Vec::new(), Vec::new());
        for entry in entries {
            let (span, key) = (entry.span(), entry.key.clone());
            if let Some(value) = self.entry.read(entry, collector) {
                values.push(value);
                let value = ();
                positions.push(Spanned { value, span, key });
            }
        }
        collector.entries.insert(path, positions);
        Some(values)
    }
}

/// Returns the diagnostic of a value of the wrong type.
pub(super) fn wrong_type(value: &DeValue<'_>, expected: &'static str) -> DiagnosticKind {
    let found = value.type_str();
    DiagnosticKind::Type { found, expected }
}

/// Converts a string.
pub(super) fn text(value: &DeValue<'_>, expected: &'static str) -> Result<String, DiagnosticKind> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| wrong_type(value, expected))
}

/// True or false.
pub(super) const BOOLEAN: Scalar<bool> = Scalar {
    convert: |value| {
        let boolean = value.as_bool();
        boolean.ok_or_else(|| wrong_type(value, "true or false"))
    },
    schema: || json!({ "type": "boolean" }),
    syntax: "true or false",
};
