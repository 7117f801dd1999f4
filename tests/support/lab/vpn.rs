//! Full-tunnel VPNs between the laptop and the gateway: the real programs, set up as their manuals say.

use std::fs;
use std::path::Path;
use std::process;

use tempfile::TempDir;

use super::addresses as at;
use super::caller::Family;
use super::namespace::{Namespace, fresh_number, require, run};
use super::program::Program;

/// Which VPN takes the laptop's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VpnKind {
    /// `OpenVPN` with `redirect-gateway def1 ipv6`: two halves of the address space beside the old default route.
    OpenVpnDef1,
    /// `OpenVPN` with `redirect-gateway ipv6`: the IPv4 default route is replaced.
    OpenVpnReplaced,
    /// `wg-quick` with every address allowed: a table of its own, rules, and a firewall against spoofing.
    WgQuick,
}

/// A VPN that is up; it ends with this value.
pub struct Vpn {
    /// Its interface on the laptop.
    pub interface: String,
    /// Its interface on the gateway, where the traffic is in clear again.
    pub gateway_interface: String,
    _programs: Vec<Program>,
    _files: TempDir,
}

/// The programs that the VPNs are.
pub const PROGRAMS: [(&str, &str); 7] = [
    ("ping", "iputils-ping"),
    ("openvpn", "openvpn"),
    ("openssl", "openssl"),
    ("wg", "wireguard-tools"),
    ("wg-quick", "wireguard-tools"),
    ("wireguard-go", "wireguard-go"),
    ("sysctl", "procps"),
];

impl Vpn {
    /// Brings the VPN up and returns when it carries traffic.
    pub fn start(kind: VpnKind, laptop: &Namespace, gateway: &Namespace) -> Self {
        require(&PROGRAMS);
        let files = TempDir::new().expect("the temporary directory is writable");
        let vpn = match kind {
            VpnKind::OpenVpnDef1 => openvpn(files, laptop, gateway, "redirect-gateway def1 ipv6"),
            VpnKind::OpenVpnReplaced => openvpn(files, laptop, gateway, "redirect-gateway ipv6"),
            VpnKind::WgQuick => wg_quick(files, laptop, gateway),
        };
        for address in Family::BOTH.map(|family| at::VPN_GATEWAY.of(family)) {
            laptop.run(&format!("ping -c 1 -W 5 {address}"));
        }
        vpn
    }
}

impl Vpn {
    /// Takes a `wg-quick` VPN down and up again, as its user does.
    pub fn restart_wg_quick(&self, laptop: &Namespace) {
        let config = self._files.path().join(format!("{}.conf", self.interface));
        for verb in ["down", "up"] {
            laptop.run(&format!("wg-quick {verb} {}", config.display()));
        }
    }
}

fn write(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    fs::write(&path, text).expect("the temporary directory is writable");
    path.display().to_string()
}

/// A self-signed certificate and its SHA-256 fingerprint, by which the two ends know each other.
fn certificate(dir: &Path, name: &str) -> String {
    let line = format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} \
         -keyout {name}.key -out {name}.crt"
    );
    let openssl = |line: &str| {
        run(
            process::Command::new("openssl")
                .args(line.split_whitespace())
                .current_dir(dir),
            "",
        )
    };
    openssl(&line);
    let fingerprint = openssl(&format!("x509 -fingerprint -sha256 -noout -in {name}.crt"));
    let (_, digits) = fingerprint
        .split_once('=')
        .expect("openssl prints NAME=DIGITS");
    digits.trim().to_owned()
}

fn openvpn(files: TempDir, laptop: &Namespace, gateway: &Namespace, redirect: &str) -> Vpn {
    let dir = files.path();
    let server_fingerprint = certificate(dir, "server");
    let client_fingerprint = certificate(dir, "client");
    let common = format!("cd {}\ndev-type tun\ndisable-dco\nverb 3\n", dir.display());
    let server = write(
        &files,
        "server.conf",
        &format!(
            "{common}dev tun0\nproto udp4\nlocal {}\nport 1194\nkeepalive 10 60\ntopology subnet\n\
             server 10.8.0.0 255.255.255.0\nserver-ipv6 fd08::/64\ntls-server\ndh none\n\
             cert server.crt\nkey server.key\npeer-fingerprint {client_fingerprint}\n\
             push \"{redirect}\"\n",
            at::VPN_SERVER.v4,
        ),
    );
    let client = write(
        &files,
        "client.conf",
        &format!(
            "{common}dev tun0\nclient\nproto udp4\nremote {} 1194\nnobind\nauth-nocache\n\
             cert client.crt\nkey client.key\npeer-fingerprint {server_fingerprint}\n",
            at::VPN_SERVER.v4,
        ),
    );
    let programs = [(gateway, server), (laptop, client)].map(|(namespace, config)| {
        let mut program = Program::start(
            "openvpn",
            namespace.command("openvpn").args(["--config", &config]),
        );
        program.wait_for("Initialization Sequence Completed");
        program
    });
    Vpn {
        interface: "tun0".to_owned(),
        gateway_interface: "tun0".to_owned(),
        _programs: programs.into(),
        _files: files,
    }
}

fn wg_quick(files: TempDir, laptop: &Namespace, gateway: &Namespace) -> Vpn {
    // The control sockets of wireguard-go lie in one directory for all namespaces: the names must differ.
    let names = [(); 2].map(|()| format!("wg{}c{}", process::id(), fresh_number()));
    let keys = [(); 2].map(|()| {
        let private = run(process::Command::new("wg").arg("genkey"), "");
        let public = run(process::Command::new("wg").arg("pubkey"), &private);
        (private.trim().to_owned(), public.trim().to_owned())
    });
    let [
        (server_private, server_public),
        (client_private, client_public),
    ] = keys;
    let (inner4, inner6) = (at::VPN_LAPTOP.v4, at::VPN_LAPTOP.v6);
    let server = at::VPN_SERVER.v4;
    let configs = [
        format!(
            "[Interface]\nPrivateKey = {server_private}\nListenPort = 51820\n\
             Address = {}/24, {}/64\n\
             [Peer]\nPublicKey = {client_public}\nAllowedIPs = {inner4}/32, {inner6}/128\n",
            at::VPN_GATEWAY.v4,
            at::VPN_GATEWAY.v6,
        ),
        format!(
            "[Interface]\nPrivateKey = {client_private}\nAddress = {inner4}/32, {inner6}/128\n\
             [Peer]\nPublicKey = {server_public}\nEndpoint = {server}:51820\n\
             AllowedIPs = 0.0.0.0/0, ::/0\nPersistentKeepalive = 25\n"
        ),
    ];
    for ((namespace, name), config) in [gateway, laptop].into_iter().zip(&names).zip(&configs) {
        let path = write(&files, &format!("{name}.conf"), config);
        namespace.run(&format!("wg-quick up {path}"));
    }
    let [gateway_interface, interface] = names;
    Vpn {
        interface,
        gateway_interface,
        _programs: Vec::new(),
        _files: files,
    }
}
