//! The keys before all tables: the format, and the selection of services.

use serde_json::json;
use toml::de::DeValue;

use super::catalogue::CATALOGUES;
use super::diagnostic_kind::DiagnosticKind;
use super::setting::{SettingSpec, SettingsTable};
use super::suggestion::closest;
use super::value_type::{List, Scalar, text, wrong_type};

/// These keys.
pub(super) const TABLE: SettingsTable = SettingsTable {
    name: "",
    about: &["The format of the file, and the selection of services."],
    settings: &[&VERSION, &INCLUDE, &ENABLE, &DISABLE],
};

pub(super) const VERSION: SettingSpec<Scalar<()>> = SettingSpec {
    key: "version",
    about: &[
        "Format of this file.",
        "",
        "A program that does not support the format rejects the file.",
    ],
    default: Some("1"),
    reason: "the only format so far",
    example: Some("1"),
    required: true,
    reload: true,
    value: Scalar {
        convert: |value| match value {
            DeValue::Integer(number) if number.as_str() == "1" => Ok(()),
            DeValue::Integer(number) => Err(DiagnosticKind::Version(number.to_string())),
            other => Err(wrong_type(other, "a whole number")),
        },
        schema: || json!({ "const": 1 }),
        syntax: "1",
    },
};

pub(super) const INCLUDE: SettingSpec<List<Scalar<&'static str>>> = SettingSpec {
    key: "include",
    about: &["Built-in vendor catalogues; [] for services of your own only."],
    default: Some("[\"talkdesk\"]"),
    reason: "an agent's laptop needs no file",
    example: None,
    required: false,
    reload: true,
    value: List {
        entry: Scalar {
            convert: catalogue,
            schema: || json!({ "enum": catalogue_names().collect::<Vec<_>>() }),
            syntax: "a catalogue's name",
        },
        expected: "a list of catalogues, such as [\"talkdesk\"]",
        non_empty: false,
    },
};

const SERVICE_NAMES: List<Scalar<String>> = List {
    entry: Scalar {
        convert: |value| text(value, "a service's name"),
        schema: || json!({ "type": "string" }),
        syntax: "a service's name",
    },
    expected: "a list of services, such as [\"talkdesk-signalling\"]",
    non_empty: false,
};

pub(super) const ENABLE: SettingSpec<List<Scalar<String>>> = SettingSpec {
    key: "enable",
    about: &[
        "Services to enable; `voicelane policy show` lists all names.",
        "",
        "Catalogues disable services over TCP. Talkdesk accepts logins only from allowed addresses such as the VPN's,",
        "so \"talkdesk-signalling\" can lock agents out.",
    ],
    default: Some("[]"),
    reason: "the vendor's allow-list expects signalling from the VPN's address",
    example: Some("[\"talkdesk-media-fallback\"]"),
    required: false,
    reload: true,
    value: SERVICE_NAMES,
};

pub(super) const DISABLE: SettingSpec<List<Scalar<String>>> = SettingSpec {
    key: "disable",
    about: &["Services to disable."],
    default: Some("[]"),
    reason: "the vendor asks to keep its media out of the VPN",
    example: Some("[\"talkdesk-media\"]"),
    required: false,
    reload: true,
    value: SERVICE_NAMES,
};

fn catalogue_names() -> impl Iterator<Item = &'static str> {
    CATALOGUES.iter().map(|catalogue| catalogue.name)
}

fn catalogue(value: &DeValue<'_>) -> Result<&'static str, DiagnosticKind> {
    let name = text(value, "a catalogue's name, such as \"talkdesk\"")?;
    let known = catalogue_names().find(|known| *known == name);
    known.ok_or_else(|| DiagnosticKind::UnknownName {
        noun: "catalogue",
        meant: closest(&name, catalogue_names()).map(str::to_owned),
        known: catalogue_names().map(str::to_owned).collect(),
    })
}
