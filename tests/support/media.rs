//! A policy for media in example networks of both families, and a relay for it.

use std::sync::Arc;

use voicelane::config::Config;
use voicelane::net::{Fwmark, PerFamily};
use voicelane::policy::Policy;
use voicelane::relay::{SocketFactories, SocketFactory, UdpRelay};

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

/// One uplink for both families.
pub(crate) fn uplink(device: &str) -> SocketFactories {
    let binder = SocketFactory {
        device: device.to_owned(),
        mark: Fwmark(0x7600_0000),
        tunnel_mark: Fwmark(0x7700_0000),
    };
    PerFamily::new(|_| Some(binder.clone()))
}

/// A relay without sockets, with one uplink for both families.
pub(crate) fn relay_on(device: &str) -> UdpRelay {
    let mut relay = UdpRelay::new().expect("an epoll set");
    relay.rebind(uplink(device), |_| true);
    relay
}
