//! The schema matches the reader.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::config::schema;

const SERVICE: &str = "[[service]]\nname = 'lab'\nrole = 'media'\nprotocol = 'udp'\n\
    prefixes = ['198.18.0.0/15']\nports = [3478]\nallow_special_purpose = true\n";

/// Returns the header and the schema of each table.
fn sections(schema: &Value) -> Vec<(String, Value)> {
    let root = schema["properties"].as_object().expect("an object");
    let tables = root.iter().filter(|(_, value)| value["type"] == "object");
    let mut sections: Vec<_> = tables
        .map(|(name, value)| (format!("[{name}]\n"), value.clone()))
        .collect();
    sections.push((String::new(), schema.clone()));
    sections.push((SERVICE.to_owned(), root["service"]["items"].clone()));
    sections
}

fn parse(text: &str) -> Result<Config, Diagnostics> {
    Config::parse("it.toml", &format!("version = 1\ninclude = []\n{text}"))
}

fn kinds(text: &str) -> Vec<DiagnosticKind> {
    let diagnostics = parse(text).err();
    let list = diagnostics.iter().flat_map(Diagnostics::list);
    list.map(|diagnostic| diagnostic.kind.clone()).collect()
}

fn keys(properties: &Value) -> BTreeSet<String> {
    let properties = properties.as_object().expect("an object");
    properties.keys().cloned().collect()
}

#[test]
fn the_schema_has_exactly_the_keys_of_the_reader() {
    let schema = schema();
    for (opened, section) in sections(&schema) {
        assert_eq!(section["additionalProperties"], false, "{opened}");
        let found = kinds(&format!("{opened}nobody = 1\n"));
        let [DiagnosticKind::UnknownKey { known, .. }] = &found[..] else {
            panic!("{opened}: {found:?}")
        };
        let known: BTreeSet<_> = known.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(keys(&section["properties"]), known, "{opened}");
    }
}

#[test]
fn required_keys_are_reported_if_missing() {
    let schema = schema();
    let missed = |text: &str| -> BTreeSet<String> {
        let diagnostics = Config::parse("it.toml", text).expect_err("something is missing");
        let missing = diagnostics.list().iter();
        missing
            .filter(|diagnostic| matches!(diagnostic.kind, DiagnosticKind::Missing { .. }))
            .map(|diagnostic| diagnostic.key.rsplit('.').next().expect("a key").to_owned())
            .collect()
    };
    let required = |section: &Value| -> BTreeSet<String> {
        let required = section["required"].as_array().expect("a list").iter();
        required
            .map(|key| key.as_str().expect("a key").to_owned())
            .collect()
    };
    let service = &schema["properties"]["service"]["items"];
    assert_eq!(missed(""), required(&schema));
    assert_eq!(missed("version = 1\n[[service]]\n"), required(service));
}

#[test]
fn bounds_and_words_match_the_reader() {
    for (opened, section) in sections(&schema()) {
        for (key, value) in section["properties"].as_object().expect("an object") {
            let opened = opened.replace(&format!("{key} ="), "replaced =");
            let fits = |value: &str| {
                let found = kinds(&format!("{opened}{key} = {value}\n"));
                !found.iter().any(|kind| {
                    matches!(
                        kind,
                        DiagnosticKind::Number { .. }
                            | DiagnosticKind::Mark { .. }
                            | DiagnosticKind::Choice { .. }
                            | DiagnosticKind::Type { .. }
                    )
                })
            };
            if let (Some(least), Some(most)) =
                (value["minimum"].as_u64(), value["maximum"].as_u64())
            {
                for (number, wanted) in [
                    (least - 1, false),
                    (least, true),
                    (most, true),
                    (most + 1, false),
                ] {
                    assert_eq!(fits(&number.to_string()), wanted, "{key} = {number}");
                }
            }
            if let Some(words) = value["enum"].as_array() {
                assert!(words.iter().all(|word| fits(&word.to_string())), "{key}");
                let found = kinds(&format!("{opened}{key} = 'nobody'\n"));
                let choices = found.iter().find_map(|kind| match kind {
                    DiagnosticKind::Choice { choices, .. } => Some(choices.clone()),
                    _ => None,
                });
                assert_eq!(
                    Value::from(choices.expect("refused")),
                    value["enum"],
                    "{key}"
                );
            }
        }
    }
}

#[test]
fn written_defaults_have_no_effect() {
    let mut written = String::from("version = 1\n");
    let mut count = 0;
    for (opened, section) in sections(&schema()).into_iter().rev() {
        if opened == SERVICE {
            continue;
        }
        written += &opened;
        for (key, value) in section["properties"].as_object().expect("an object") {
            if let Some(default) = value.get("default").filter(|_| key != "version") {
                written += &[key, " = ", &default.to_string(), "\n"].concat();
                count += 1;
            }
        }
    }
    assert!(count > 8, "{written}");
    assert_eq!(
        Config::parse("it.toml", &written).expect("valid"),
        Config::default(),
        "{written}"
    );
}

#[test]
fn samples_and_descriptions_are_complete() {
    for table in tables() {
        for setting in table.settings {
            let path = table.path(setting.key);
            let [sentence, ..] = &setting.paragraphs()[..] else {
                panic!("{path} has no description")
            };
            assert!(sentence.ends_with('.'), "{path}: {sentence}");
            assert!(!setting.sample().is_empty(), "{path}");
            assert!(setting.required || !setting.reason.is_empty(), "{path}");
        }
    }
}
