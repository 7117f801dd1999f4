//! The JSON schema of a configuration file, for editors and for the tools with which IT writes files.
//!
//! It describes single values. `voicelane check` also finds contradictions, unknown names and special-purpose prefixes.

use serde_json::{Value as Json, json};

use super::setting::SettingsTable;
use super::{root, service, settings};

/// Every table of settings: the keys before all tables, the tables, the keys of `[[service]]`.
pub fn tables() -> impl Iterator<Item = &'static SettingsTable> {
    let tables = [&root::TABLE].into_iter().chain(settings::TABLES);
    tables.chain([&service::TABLE])
}

/// The schema (draft 2020-12). A TOML date is a string of format `date`, as editors read it.
#[must_use]
pub fn schema() -> Json {
    let mut schema = root::TABLE.schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "voicelane.toml".into();
    for table in settings::TABLES {
        schema["properties"][table.name] = table.schema();
    }
    let service = service::TABLE.schema();
    schema["properties"]["service"] = json!({ "type": "array", "items": service });
    schema
}
