//! The name servers of this machine.

use std::fs;
use std::net::IpAddr;

/// The port of DNS over UDP.
pub(super) const DNS_PORT: u16 = 53;

/// The file that programs read, and the file with the upstream servers of systemd-resolved.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Returns the name servers of this machine. Behind a local stub, returns the upstream servers if they are known.
pub(crate) fn resolvers() -> Vec<IpAddr> {
    let [configured, upstream] = FILES.map(|file| fs::read_to_string(file).unwrap_or_default());
    let (configured, upstream) = (servers(&configured), servers(&upstream));
    let is_stub = configured.iter().all(IpAddr::is_loopback);
    if is_stub && !upstream.is_empty() {
        upstream
    } else {
        configured
    }
}

fn servers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let server = (words.next()? == "nameserver").then(|| words.next())??;
        // The zone of a link-local address is not needed.
        server.split('%').next()?.parse().ok()
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_from_resolv_conf() {
        let text = "# nameserver 192.0.2.1\nsearch corp.example\nnameserver 10.8.0.1\nnameserver fe80::1%wlan0\nnameserver x\n";
        let found: Vec<_> = servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.8.0.1", "fe80::1"]);
    }
}
