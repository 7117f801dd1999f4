//! `strongSwan` with the plugin `kernel-libipsec`: charon does ESP by itself, behind a TUN.

use tempfile::TempDir;

use super::super::addresses as at;
use super::super::caller::Family;
use super::super::namespace::Namespace;
use super::super::program::Program;
use super::{Vpn, write};

/// The path in Debian's strongswan-charon.
pub const CHARON: &str = "/usr/lib/ipsec/charon";

/// The plugin, from Debian's libcharon-extra-plugins.
pub const LIBIPSEC: &str = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so";

/// The mark by which charon's own packets stay out of its table 220, from the plugin's documentation.
const MARK: u32 = 0x42;

pub fn start(files: TempDir, laptop: &Namespace, gateway: &Namespace) -> Vpn {
    for family in Family::BOTH {
        let bits = family.pick(32, 128);
        gateway.ip(&format!(
            "addr replace {}/{bits} dev lo",
            at::VPN_GATEWAY.of(family)
        ));
    }
    let (server, client) = (at::VPN_SERVER.v4, at::LAPTOP.v4);
    let (inner4, inner6) = (at::VPN_LAPTOP.v4, at::VPN_LAPTOP.v6);
    let secrets = "secrets { ike { secret = \"a secret of the lab\" } }\n";
    let answer = format!(
        "connections {{ lab {{ local_addrs = {server}
             version = 2
             encap = yes
             pools = four, six
             local {{ auth = psk
                 id = gateway }}
             remote {{ auth = psk
                 id = laptop }}
             children {{ all {{ esp_proposals = aes128-sha256
                 local_ts = 0.0.0.0/0, ::/0 }} }} }} }}
         pools {{ four {{ addrs = {inner4}/32 }}
             six {{ addrs = {inner6}/128 }} }}
         {secrets}"
    );
    let ask = format!(
        "connections {{ lab {{ local_addrs = {client}
             remote_addrs = {server}
             version = 2
             encap = yes
             vips = 0.0.0.0, ::
             local {{ auth = psk
                 id = laptop }}
             remote {{ auth = psk
                 id = gateway }}
             children {{ all {{ esp_proposals = aes128-sha256
                 remote_ts = 0.0.0.0/0, ::/0 }} }} }} }}
         {secrets}"
    );
    let ends = [(gateway, "gateway", answer), (laptop, "laptop", ask)];
    let mut programs = Vec::new();
    for (namespace, role, connections) in &ends {
        let socket = format!("unix://{}/{role}.vici", files.path().display());
        let settings = write(
            &files,
            &format!("{role}.strongswan"),
            &format!(
                "charon {{ load = random nonce aes sha1 sha2 hmac kdf curve25519 gmp kernel-libipsec kernel-netlink socket-default vici
                     filelog {{ stderr {{ default = 1 }} }}
                     plugins {{ vici {{ socket = {socket} }}
                         kernel-netlink {{ fwmark = !{MARK:#x} }}
                         kernel-libipsec {{ allow_peer_ts = yes }}
                         socket-default {{ fwmark = {MARK:#x} }} }} }}\n"
            ),
        );
        // All charons use one PID file path, so each gets its own directory there.
        let line = format!("mount -t tmpfs none /run && exec {CHARON}");
        let mut charon = Program::start(
            "charon",
            namespace
                .command("sh")
                .args(["-c", &line])
                .env("STRONGSWAN_CONF", &settings),
        );
        charon.wait_for("spawning");
        let path = write(&files, &format!("{role}.swanctl"), connections);
        namespace.run(&format!("swanctl --load-all --file {path} --uri {socket}"));
        programs.push(charon);
    }
    let socket = format!("unix://{}/laptop.vici", files.path().display());
    laptop.run(&format!("swanctl --initiate --child all --uri {socket}"));
    Vpn {
        interface: "ipsec0".to_owned(),
        gateway_interface: "ipsec0".to_owned(),
        programs,
        down: [Vec::new(), Vec::new()],
        _files: files,
    }
}
