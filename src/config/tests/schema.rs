//! The schema says what the reader does.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::config::schema;

const SERVICE: &str = "[[service]]\nname = 'lab'\nrole = 'media'\nprotocol = 'udp'\n\
    prefixes = ['198.18.0.0/15']\nports = [3478]\nallow_special_purpose = true\n";

/// The tables of a file: how one is opened, and its schema.
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
fn it_has_every_key_of_the_reader_and_no_other() {
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
fn what_is_required_is_missed() {
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
fn bounds_and_words_are_the_readers() {
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
fn defaults_change_nothing_when_they_are_written() {
    let mut written = String::from("version = 1\n");
    let mut count = 0;
    for (opened, section) in sections(&schema()).into_iter().rev() {
        if opened == SERVICE {
            continue;
        }
        written += &opened;
        for (key, value) in section["properties"].as_object().expect("an object") {
            if let Some(default) = value.get("default") {
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
fn every_setting_is_in_the_manual_with_its_default() {
    let manual = include_str!("../../manual/defaults.rs");
    let mut missing = Vec::new();
    let mut look = |path: String, schema: &Value| {
        let mut rows = manual
            .lines()
            .filter(|row| row.contains(&format!("`{path}`")));
        let default = match &schema["default"] {
            Value::Bool(true) => "on".to_owned(),
            Value::Bool(false) => "off".to_owned(),
            Value::Number(mark) if path == "route.mark" => {
                format!("{:#x}", mark.as_u64().expect("a mark"))
            }
            Value::Number(number) => number.to_string(),
            Value::String(word) => word.clone(),
            // Of nothing, and of lists, the manual speaks in words.
            _ => String::new(),
        };
        let tells = |row: &str| {
            let mut columns = row.split('|').skip(2).map(str::trim);
            let (value, reason) = (columns.next(), columns.next());
            value.is_some_and(|value| value.contains(&default))
                && reason.is_some_and(|reason| !reason.is_empty())
        };
        if !rows.any(tells) {
            missing.push(path);
        }
    };
    let schema = schema();
    for (table, value) in schema["properties"].as_object().expect("an object") {
        match value["properties"].as_object() {
            Some(keys) => keys
                .iter()
                .for_each(|(key, value)| look(format!("{table}.{key}"), value)),
            // What a service is has no defaults but those of its role, which the example shows.
            None if table == "service" => {}
            None => look(table.clone(), value),
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}
