//! `openconnect` to `ocserv`, with the routing by `vpnc-script`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::super::addresses as at;
use super::super::namespace::{Namespace, run};
use super::super::program::{PATIENCE, Program};
use super::{Vpn, certificate, write};

/// The path in Debian's vpnc-scripts.
pub const SCRIPT: &str = "/usr/share/vpnc-scripts/vpnc-script";

pub fn start(files: TempDir, laptop: &Namespace, gateway: &Namespace) -> Vpn {
    let dir = files.path().display().to_string();
    for name in ["server", "client"] {
        certificate(files.path(), name);
    }
    let server = at::VPN_SERVER.v4;
    // The user's name is the certificate's.
    std::fs::create_dir(files.path().join("users")).expect("it is empty");
    write(
        &files,
        "users/client",
        &format!(
            "explicit-ipv4 = {}\nexplicit-ipv6 = {}\n",
            at::VPN_LAPTOP.v4,
            at::VPN_LAPTOP.v6
        ),
    );
    let config = write(
        &files,
        "ocserv.conf",
        &format!(
            "auth = \"certificate\"\nca-cert = {dir}/client.crt\ncert-user-oid = 2.5.4.3\n\
             server-cert = {dir}/server.crt\nserver-key = {dir}/server.key\n\
             listen-host = {server}\ntcp-port = 443\nsocket-file = {dir}/socket\n\
             run-as-user = root\nrun-as-group = root\nisolate-workers = false\ndevice = vpns\n\
             ipv4-network = 10.8.0.0/24\nipv6-network = fd08::/64\nipv6-subnet-prefix = 128\n\
             route = default\nconfig-per-user = {dir}/users\nmax-clients = 4\n",
        ),
    );
    let mut ocserv = Program::start(
        "ocserv",
        gateway
            .command("ocserv")
            .args(["--foreground", "--debug=1", "--config", &config]),
    );
    ocserv.wait_for("listening (TCP)");
    let key = run(
        std::process::Command::new("sh").args([
            "-c",
            &format!(
                "openssl x509 -pubkey -noout -in {dir}/server.crt | openssl pkey -pubin -outform der \
                 | openssl dgst -sha256 -hex | sed 's/.* //'"
            ),
        ]),
        "",
    );
    let mut openconnect = Program::start(
        "openconnect",
        laptop.command("openconnect").args([
            "--no-dtls",
            "--interface=tun0",
            &format!("--script={SCRIPT}"),
            &format!("--servercert=sha256:{}", key.trim()),
            &format!("--certificate={dir}/client.crt"),
            &format!("--sslkey={dir}/client.key"),
            &format!("https://{server}"),
        ]),
    );
    openconnect.wait_for("Configured as");
    // The script may still run; it sets IPv6 last.
    let deadline = Instant::now() + PATIENCE;
    while !laptop.run("ip -6 route show default").contains("dev tun0") {
        assert!(Instant::now() < deadline, "vpnc-script sets no route");
        sleep(Duration::from_millis(20));
    }
    Vpn {
        interface: "tun0".to_owned(),
        gateway_interface: "vpns0".to_owned(),
        programs: vec![ocserv, openconnect],
        down: [Vec::new(), Vec::new()],
        _files: files,
    }
}
