//! The configuration in the terms of the components: routing, uplink selection, NAT and TCP.

use crate::config::{Config, RouteSettings};
use crate::engine::TcpSettings;
use crate::nat;
use crate::route::desired::RoutingIds;
use crate::route::uplink::UplinkPreferences;

/// The ids of voicelane's rules and routes.
pub(crate) fn routing_ids(config: &Config) -> RoutingIds {
    let route = config.route();
    RoutingIds {
        table: route.table,
        priority: route.priority,
        mark: route.mark,
        mask: RouteSettings::MASK,
        ..RoutingIds::default()
    }
}

/// The preferences for the choice of the uplink.
pub(crate) fn uplink_preferences(config: &Config) -> UplinkPreferences {
    let uplink = config.uplink();
    // An interface with clients is no uplink.
    let clients = config.gateway().interfaces.iter().map(|interface| {
        let pattern = interface.as_str().parse();
        pattern.expect("a name is a pattern without stars")
    });
    UplinkPreferences {
        pinned: uplink.interface.as_ref().map(ToString::to_string),
        prefer: uplink.prefer.clone(),
        exclude: uplink.exclude.iter().cloned().chain(clients).collect(),
    }
}

/// The settings of NAT and TCP. One client of a gateway has a smaller share than a laptop has.
pub(super) fn nat_and_tcp(config: &Config) -> (nat::NatSettings, TcpSettings) {
    let (nat, gateway) = (config.nat(), config.gateway());
    let (mut limits, mut tcp) = (nat::NatLimits::default(), TcpSettings::default());
    limits.mappings = nat.max_mappings;
    if !gateway.interfaces.is_empty() {
        limits.mappings_of_address = gateway.mappings_per_client;
        tcp.connections_of_address = gateway.connections_per_client;
    }
    let nat = nat::NatSettings {
        lifetime: nat.mapping_lifetime,
        filtering: nat.filtering,
        inbound_refresh: nat.inbound_refresh,
        limits,
    };
    (nat, tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_limits_the_mappings() {
        let limit = |lines: &str| {
            let config = Config::parse("it.toml", &format!("version = 1\n{lines}"));
            nat_and_tcp(&config.expect("valid")).0.limits.mappings
        };
        assert_eq!(limit(""), nat::NatLimits::default().mappings);
        assert_eq!(limit("[nat]\nmax_mappings = 256"), 256);
    }
}
