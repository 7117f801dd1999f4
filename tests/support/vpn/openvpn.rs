//! `OpenVPN`, with the redirection that the server pushes.

use tempfile::TempDir;

use super::super::addresses as at;
use super::super::namespace::Namespace;
use super::super::program::Program;
use super::{Vpn, certificate, write};

pub fn start(files: TempDir, laptop: &Namespace, gateway: &Namespace, redirect: &str) -> Vpn {
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
             push \"redirect-gateway {redirect}\"\n",
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
        programs: programs.into(),
        down: [Vec::new(), Vec::new()],
        _files: files,
    }
}
