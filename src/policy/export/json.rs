//! JSON: the whole policy, for other programs.

use serde_json::json;

use super::{ExportFormat, ExportWriter, Selection, generator};
use crate::policy::PolicyRule;

/// A document of services.
pub(super) const JSON: ExportFormat = ExportFormat {
    name: "json",
    about: "The whole policy (JSON).",
    comment: None,
    write,
};

fn write(selection: &Selection<'_>, out: &mut ExportWriter) {
    let service = |rule: &&PolicyRule| {
        json!({
            "name": rule.name,
            "description": rule.description,
            "role": rule.role.name(),
            "protocol": rule.protocol.to_string(),
            "prefixes": rule.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "ports": rule.ports.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "dscp": rule.treatment.dscp.value(),
            "valid_from": rule.valid_from,
            "valid_until": rule.valid_until,
            "source": rule.source,
        })
    };
    out.json(&json!({
        "version": 1,
        "generator": generator(),
        "policy": selection.identity(),
        "date": selection.date(),
        "services": selection.rules().iter().map(service).collect::<Vec<_>>(),
    }));
}
