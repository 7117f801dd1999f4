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
            "name": rule.service.name,
            "description": rule.service.description,
            "role": rule.service.role.name(),
            "protocol": rule.service.protocol.to_string(),
            "prefixes": rule.service.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "ports": rule.service.ports.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "dscp": rule.treatment.dscp.value(),
            "valid_from": rule.service.valid_from,
            "valid_until": rule.service.valid_until,
            "source": rule.service.source,
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
