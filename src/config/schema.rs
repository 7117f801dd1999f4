//! The JSON schema of a configuration file, for editors and for the tools that IT writes files with.
//!
//! It says what a single value may be. What takes more than one to judge (contradictions, names that exist, prefixes
//! that are special) is left to `voicelane check`. Tests hold it to the reader: the same keys, bounds, words and
//! defaults.

use serde_json::{Value, json};

use super::catalogue::CATALOGUES;
use super::settings::{
    FallbackSettings, GatewaySettings, NatSettings, RelaySettings, RouteSettings, TunSettings,
};
use crate::net::Role;

/// The schema (spec 2020-12). A TOML date is a string of format `date`, as editors read it.
#[must_use]
pub fn schema() -> Value {
    let catalogues: Vec<_> = CATALOGUES.iter().map(|catalogue| catalogue.name).collect();
    let (tun, route, nat) = (
        TunSettings::default(),
        RouteSettings::default(),
        NatSettings::default(),
    );
    let (fallback, gateway) = (FallbackSettings::default(), GatewaySettings::default());
    let relay = RelaySettings::default();
    let choice = |words: [&str; 2], about: &str| json!({ "enum": words, "default": words[0], "description": about });
    let number = |least: u32, most: u32, default: u64, about: &str| {
        json!({
            "type": "integer", "minimum": least, "maximum": most, "default": default, "description": about,
        })
    };
    let any_mark = json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX });
    let switch = |default: bool, about: &str| json!({ "type": "boolean", "default": default, "description": about });
    let services = |about: &str| json!({ "type": "array", "items": { "type": "string" }, "default": [], "description": about });
    json!({
        "$schema": "https://json-schema.org/spec/2020-12/schema",
        "title": "voicelane.toml",
        "type": "object",
        "additionalProperties": false,
        "required": ["version"],
        "properties": {
            "version": { "const": 1, "description": "The format of this file" },
            "include": {
                "type": "array", "items": { "enum": catalogues }, "default": catalogues,
                "description": "Vendor catalogues that are compiled in",
            },
            "enable": services("Services that a catalogue carries switched off"),
            "disable": services("Services to switch off"),
            "uplink": section(json!({
                "interface": interface("The interface that media leave by; without it, found and followed"),
                "prefer": patterns("The interfaces to take first, the dearest first; * stands for any text"),
                "exclude": patterns("The interfaces never to take"),
                "vpn_mark": {
                    "anyOf": [{ "const": "auto" }, any_mark],
                    "description": "The VPN's mark, by which media passes its kill switch: that holds media back no longer",
                },
                "conntrack_mark": {
                    "allOf": [any_mark],
                    "description": "The mark of connections that the VPN's firewall excludes, for media to bear",
                },
            })),
            "tun": section(json!({
                "name": with_default(interface("Our interface"), tun.name.as_str().into()),
            })),
            "route": section(json!({
                "table": number(1, u32::MAX, route.table.0.into(), "The table of the direct way out; the next ones are ours too"),
                "priority": number(1, 32_765, route.priority.0.into(), "The priority of our rules; lower goes first"),
                "mark": number(1 << 24, RouteSettings::MASK.0, route.mark.0.into(), "The mark of our own sockets, within 0xff000000"),
                "capture": choice(["exact", "prefix"], "What enters the TUN: what leaves the VPN, or whole prefixes"),
            })),
            "nat": section(json!({
                "mapping_lifetime_seconds": number(
                    120, 86_400, nat.mapping_lifetime.as_secs(), "How long a mapping lives without an outbound packet",
                ),
                "filtering": {
                    "enum": ["endpoint-independent", "address-dependent", "address-and-port-dependent"],
                    "default": "address-dependent",
                    "description": "Whose answers a mapping lets in",
                },
                "inbound_refresh": switch(nat.inbound_refresh, "Whether answers keep a mapping alive as well"),
            })),
            "fallback": section(json!({
                "to": choice(["tunnel", "none"], "Where a call goes when its direct way fails"),
                "silence_seconds": number(
                    1, 30, fallback.silence.as_secs(), "How long the direct way may leave a call's checks without an answer",
                ),
                "retry_seconds": number(
                    1, 3_600, fallback.retry.as_secs(), "How long a call stays in the VPN before the direct way is tried again",
                ),
            })),
            "gateway": section(json!({
                "interfaces": {
                    "type": "array", "items": interface("An interface with clients behind it"), "default": [],
                    "description": "The interfaces whose clients' media is carried; without any, only this machine's own",
                },
                "mappings_per_client": number(1, 32_768, gateway.mappings_per_client as u64, "The mappings of one client"),
                "connections_per_client": number(
                    1, 4_096, gateway.connections_per_client as u64, "The TCP connections of one client",
                ),
                "remark": {
                    "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 63 }, { "type": "string" }],
                    "default": "keep",
                    "description": "The code point of media towards clients: a name, 0 to 63, or \"keep\"",
                },
            })),
            "relay": section(json!({
                "realtime": switch(relay.realtime, "Whether packets are carried in real time, where that is permitted"),
            })),
            "control": section(json!({
                "group": group("The group whose members may look at the running service; without it only root"),
                "admin_group": group("The group whose members may look and change; without it only root"),
            })),
            "metrics": section(json!({
                "listen": {
                    "type": "string",
                    "pattern": "^(unix|127(\\.[0-9]{1,3}){3}:[0-9]{1,5}|\\[::1\\]:[0-9]{1,5})$",
                    "description": "Where OpenMetrics may be read: \"unix\" or a loopback address and port; without it nowhere",
                },
            })),
            "service": { "type": "array", "items": service(&switch) },
        },
    })
}

fn section(properties: Value) -> Value {
    let mut section = json!({ "type": "object", "additionalProperties": false });
    section["properties"] = properties;
    section
}

fn with_default(mut schema: Value, default: Value) -> Value {
    schema["default"] = default;
    schema
}

fn interface(about: &str) -> Value {
    json!({ "type": "string", "pattern": "^(?!\\.\\.?$)[A-Za-z0-9_.-]{1,15}$", "description": about })
}

fn group(about: &str) -> Value {
    json!({ "type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$", "description": about })
}

fn patterns(about: &str) -> Value {
    let pattern = "^\\**([A-Za-z0-9_.-]\\**){0,15}$";
    let items = json!({ "type": "string", "pattern": pattern, "minLength": 1, "maxLength": 31 });
    json!({ "type": "array", "items": items, "default": [], "description": about })
}

fn service(switch: &impl Fn(bool, &str) -> Value) -> Value {
    let text = |about: &str| json!({ "type": "string", "description": about });
    let day = |about: &str| json!({ "type": "string", "format": "date", "description": about });
    let mut service = section(json!({
        "name": {
            "type": "string", "pattern": "^[a-z0-9][a-z0-9_.-]{0,63}$", "description": "Unique in the configuration",
        },
        "description": text("What it is, in a sentence"),
        "source": text("Where the vendor publishes these figures"),
        "role": { "enum": Role::ALL.map(Role::name), "description": "The part that it plays in a call" },
        "protocol": { "enum": ["udp", "tcp"] },
        "allow_special_purpose": switch(false, "Whether RFC 1918 and other special-purpose addresses may be named"),
        "prefixes": {
            "type": "array", "minItems": 1, "items": { "type": "string", "pattern": "^[0-9A-Fa-f.:]+/[0-9]{1,3}$" },
            "description": "Where its servers are; no wider than /12 (IPv6: /32), no host bits",
        },
        "ports": {
            "type": "array", "minItems": 1, "description": "Ports or ranges, such as 3478 and \"10000-60000\"",
            "items": { "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": u16::MAX - 1 },
                { "type": "string", "pattern": "^ *[0-9]{1,5} *(- *[0-9]{1,5} *)?$" },
            ] },
        },
        "dscp": {
            "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 63 }, { "type": "string" }],
            "description": "A name or 0 to 63; by default EF, for signalling CS5",
        },
        "enabled": switch(true, "Whether it is switched on"),
        "valid_from": day("The first day on which it is active"),
        "valid_until": day("The first day on which it is no longer active"),
    }));
    service["required"] = json!(["name", "role", "protocol", "prefixes", "ports"]);
    service
}
