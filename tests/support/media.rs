//! A policy for media in networks that are made up, over both families.

use std::sync::Arc;

use voicelane::config::Config;
use voicelane::policy::Policy;

const POLICY: &str = r#"
version = 1
include = []

[[service]]
name = "media"
description = "the media of this test"
role = "media"
protocol = "udp"
prefixes = ["198.18.0.0/24", "2001:db8:18::/64"]
ports = [3478]
allow_special_purpose = true
source = "made up for this test"
"#;

/// The policy, compiled.
pub(crate) fn policy() -> Arc<Policy> {
    let config = Config::parse("policy", POLICY).expect("a valid policy");
    Arc::new(Policy::compile(
        &config,
        "2026-01-01".parse().expect("a date"),
    ))
}
