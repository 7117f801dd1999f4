//! Settings that name something that this machine does not have now. The service starts without it.

use std::io;
use std::net::TcpListener;
use std::path::Path;

use nix::net::if_::if_nametoindex;
use nix::unistd::Group;

use crate::config::{Config, MetricsListen};
use crate::control::{self, AskError};

/// Returns a sentence with a remedy for each of them.
pub(super) fn warnings(config: &Config, runtime_dir: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_missing = |name: &str| if_nametoindex(name).is_err();
    if let Some(uplink) = &config.uplink().interface
        && is_missing(uplink.as_str())
    {
        warnings.push(format!(
            "the uplink {:?} does not exist now, so all media would be in the VPN: `ip link` lists the interfaces",
            uplink.as_str()
        ));
    }
    for client in &config.gateway().interfaces {
        if is_missing(client.as_str()) {
            warnings.push(format!(
                "the gateway interface {:?} does not exist now, so no client behind it is served",
                client.as_str()
            ));
        }
    }
    let control = config.control();
    for group in [&control.group, &control.admin_group].into_iter().flatten() {
        if let Ok(None) = Group::from_name(group) {
            warnings.push(format!(
                "the group {group:?} of [control] does not exist: sudo groupadd --system {group}"
            ));
        }
    }
    // A running service has the address itself.
    let is_stopped = || matches!(control::status(runtime_dir), Err(AskError::NotRunning(_)));
    if let Some(MetricsListen::Loopback(address)) = config.metrics().listen
        && let Err(error) = TcpListener::bind(address)
        && error.kind() == io::ErrorKind::AddrInUse
        && is_stopped()
    {
        warnings.push(format!(
            "another program has the address {address} of [metrics]: `ss -ltnp` names it"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("it is bound");
        let text = format!(
            "version = 1\n[uplink]\ninterface = 'nowhere0'\n[gateway]\ninterfaces = ['nowhere1', 'lo']\n\
             [control]\ngroup = 'no-such-group'\nadmin_group = 'root'\n[metrics]\nlisten = '{address}'\n"
        );
        let config = Config::parse("it.toml", &text).expect("valid");
        let said = warnings(&config, dir.path());
        let named = [
            "\"nowhere0\"",
            "\"nowhere1\"",
            "\"no-such-group\"",
            &address.to_string(),
        ];
        assert_eq!(said.len(), named.len(), "{said:?}");
        for (said, named) in said.iter().zip(named) {
            assert!(said.contains(named), "{said}");
        }
    }
}
