//! Another configuration for a running service: what it may change, and what wants a restart.

use crate::config::{Config, GatewaySettings};
use crate::net::Dscp;

/// Reads the configuration anew.
pub(super) type Source = Box<dyn Fn() -> anyhow::Result<Config> + Send>;

/// Tables that say something else than what the service was started with, and that it cannot change under way.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a restart is required to change {}", .0.join(", "))]
pub(super) struct NeedsRestart(Vec<&'static str>);

/// Makes sure that a running service can take up everything that is new.
///
/// Services, the choice of the uplink and a gateway's interfaces follow. The rest is what calls in progress and the kernel
/// know us by: the TUN, the numbers of rules and tables, how mappings behave, how the thread that carries packets is
/// scheduled, whose the control socket is, where metrics are.
///
/// # Errors
/// [`NeedsRestart`].
pub(super) fn can_follow(present: &Config, next: &Config) -> Result<(), NeedsRestart> {
    let fixed = [
        ("[tun]", present.tun() == next.tun()),
        ("[route]", present.route() == next.route()),
        ("[nat]", present.nat() == next.nat()),
        ("[fallback]", present.fallback() == next.fallback()),
        (
            "[gateway] except its interfaces",
            fixed_of(present.gateway()) == fixed_of(next.gateway()),
        ),
        ("[relay]", present.relay() == next.relay()),
        ("[control]", present.control() == next.control()),
        ("[metrics]", present.metrics() == next.metrics()),
    ];
    let changed: Vec<_> = fixed
        .into_iter()
        .filter_map(|(table, stays)| (!stays).then_some(table))
        .collect();
    if changed.is_empty() {
        Ok(())
    } else {
        Err(NeedsRestart(changed))
    }
}

/// What cannot change of a gateway, whether it is one included: what clients may take is settled at the start.
fn fixed_of(gateway: &GatewaySettings) -> (bool, usize, usize, Option<Dscp>) {
    (
        gateway.interfaces.is_empty(),
        gateway.mappings_per_client,
        gateway.connections_per_client,
        gateway.remark,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(lines: &str) -> Config {
        Config::parse("it.toml", &format!("version = 1\n{lines}")).expect("valid")
    }

    #[test]
    fn services_and_the_uplink_follow() {
        let next = config("include = []\n[uplink]\ninterface = 'wlan1'");
        assert_eq!(can_follow(&config(""), &next), Ok(()));
    }

    #[test]
    fn a_gateway_may_get_other_interfaces_but_not_become_one() {
        let gateway = |rest| config(&format!("[gateway]\n{rest}"));
        let present = gateway("interfaces = ['lan0']");
        let next = gateway("interfaces = ['lan0', 'lan1']");
        assert_eq!(can_follow(&present, &next), Ok(()));
        for next in [
            gateway("interfaces = []"),
            gateway("interfaces = ['lan0']\nmappings_per_client = 10"),
            gateway("interfaces = ['lan0']\nremark = 'EF'"),
        ] {
            let error = can_follow(&present, &next).expect_err("it is settled at the start");
            assert_eq!(
                error.to_string(),
                "a restart is required to change [gateway] except its interfaces"
            );
        }
    }

    #[test]
    fn what_wants_a_restart_is_named() {
        let next = config(
            "[tun]\nname = 'other0'\n[route]\ntable = 9000\n[nat]\ninbound_refresh = true\n\
             [control]\ngroup = 'voicelane'",
        );
        let error = can_follow(&config(""), &next).expect_err("all four differ");
        assert_eq!(
            error.to_string(),
            "a restart is required to change [tun], [route], [nat], [control]"
        );
    }
}
