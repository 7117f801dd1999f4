//! Which settings a reload may change, and which need a restart.

use crate::config::Config;

use super::last_good::LoadedConfig;

/// Reads the configuration.
pub(super) type ConfigSource = Box<dyn Fn() -> anyhow::Result<LoadedConfig> + Send>;

/// Changed settings that only a restart applies.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a restart is required to change {}", .0.join(", "))]
pub(super) struct RestartRequired(Vec<&'static str>);

/// Checks that a reload can apply every changed setting.
///
/// The table of settings marks those. Additionally, a running service cannot become a gateway or stop being one.
///
/// # Errors
/// [`RestartRequired`].
pub(super) fn check_reloadable(current: &Config, next: &Config) -> Result<(), RestartRequired> {
    let mut changed = current.changed_until_restart(next);
    let is_gateway = |config: &Config| !config.gateway().interfaces.is_empty();
    if is_gateway(current) != is_gateway(next) {
        changed.push("gateway.interfaces");
    }
    if changed.is_empty() {
        Ok(())
    } else {
        Err(RestartRequired(changed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(lines: &str) -> Config {
        Config::parse("it.toml", &format!("version = 1\n{lines}")).expect("valid")
    }

    #[test]
    fn services_and_the_uplink_can_change() {
        let next = config("include = []\n[uplink]\ninterface = 'wlan1'");
        assert_eq!(check_reloadable(&config(""), &next), Ok(()));
    }

    #[test]
    fn a_reload_changes_the_interfaces_of_a_gateway_but_enables_no_gateway() {
        let gateway = |rest| config(&format!("[gateway]\n{rest}"));
        let current = gateway("interfaces = ['lan0']");
        let next = gateway("interfaces = ['lan0', 'lan1']");
        assert_eq!(check_reloadable(&current, &next), Ok(()));
        for (next, key) in [
            (gateway("interfaces = []"), "interfaces"),
            (
                gateway("interfaces = ['lan0']\nmappings_per_client = 10"),
                "mappings_per_client",
            ),
            (gateway("interfaces = ['lan0']\nremark = 'EF'"), "remark"),
        ] {
            let error = check_reloadable(&current, &next).expect_err("a restart is required");
            assert_eq!(
                error.to_string(),
                format!("a restart is required to change gateway.{key}")
            );
        }
    }

    #[test]
    fn tables_that_need_a_restart_are_named() {
        let next = config(
            "[tun]\nname = 'other0'\n[route]\ntable = 9000\n[nat]\ninbound_refresh = true\n\
             [control]\ngroup = 'voicelane'",
        );
        let error = check_reloadable(&config(""), &next).expect_err("four tables differ");
        assert_eq!(
            error.to_string(),
            "a restart is required to change tun.name, route.table, nat.inbound_refresh, control.group"
        );
    }
}
