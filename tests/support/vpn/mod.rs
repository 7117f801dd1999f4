//! Full-tunnel VPNs between the laptop and the gateway. Debian's programs run with the setup of their manuals. For others,
//! a real tunnel gets their routing and firewall.

mod imitation;
mod openconnect;
mod openvpn;
mod strongswan;
mod wireguard;

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::addresses as at;
use super::caller::Family;
use super::namespace::{Namespace, require, run};
use super::program::Program;

/// The VPN of the laptop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VpnKind {
    /// `OpenVPN` with `redirect-gateway def1 ipv6`: two halves of the address space beside the old default route.
    OpenVpnDef1,
    /// `OpenVPN` with `redirect-gateway ipv6`: the IPv4 default route is replaced.
    OpenVpnReplaced,
    /// `OpenVPN` with `redirect-gateway def1 block-local ipv6`: the home network except its router is captured too.
    OpenVpnBlockLocal,
    /// `wg-quick` with every address allowed: a table of its own, rules, and a firewall against spoofing.
    WgQuick,
    /// `wg-quick` with the kill switch of its manual page: unmarked packets leave only by the tunnel.
    WgQuickKillSwitch,
    /// `strongSwan` with `kernel-libipsec`: ESP in user space behind a TUN, rule 220 looks up table 220.
    StrongSwanLibipsec,
    /// `openconnect` to `ocserv`: `vpnc-script` replaces the default route and leaves a host route to the gateway.
    OpenConnect,
    /// `WireGuard` as `NetworkManager` routes it, imitated: mark and table alike, two rules at fixed places.
    NetworkManager,
    /// A Tailscale exit node, imitated: rules 5210 to 5270 and table 52.
    Tailscale,
    /// Mullvad, imitated: rules without a priority, and a firewall whose chains drop unknown traffic.
    Mullvad,
    /// Cloudflare WARP's rule, imitated: without a priority, so it precedes the first existing rule.
    Warp,
}

/// A running VPN. Its drop stops it.
pub struct Vpn {
    /// Its interface on the laptop.
    pub interface: String,
    /// Its interface on the gateway, where the traffic is in clear again.
    pub gateway_interface: String,
    programs: Vec<Program>,
    /// The commands of the program's own shutdown: on the laptop, then on the gateway.
    down: [Vec<String>; 2],
    _files: TempDir,
}

impl VpnKind {
    /// The programs of this VPN, each with its Debian package.
    fn programs(self) -> Vec<(&'static str, &'static str)> {
        let ours: &[_] = match self {
            Self::OpenVpnDef1 | Self::OpenVpnReplaced | Self::OpenVpnBlockLocal => {
                &[("openvpn", "openvpn"), ("openssl", "openssl")]
            }
            Self::StrongSwanLibipsec => &[
                (strongswan::CHARON, "strongswan-charon"),
                (strongswan::LIBIPSEC, "libcharon-extra-plugins"),
                ("swanctl", "strongswan-swanctl"),
            ],
            Self::OpenConnect => &[
                ("openconnect", "openconnect"),
                ("ocserv", "ocserv"),
                ("openssl", "openssl"),
                (openconnect::SCRIPT, "vpnc-scripts"),
            ],
            _ => &[
                ("wg", "wireguard-tools"),
                ("wg-quick", "wireguard-tools"),
                ("wireguard-go", "wireguard-go"),
            ],
        };
        let firewall: &[_] = match self {
            Self::WgQuickKillSwitch => &[("iptables", "iptables"), ("ip6tables", "iptables")],
            _ => &[],
        };
        [ours, firewall].concat()
    }
}

impl Vpn {
    /// Starts the VPN. Returns when it carries traffic.
    pub fn start(kind: VpnKind, laptop: &Namespace, gateway: &Namespace) -> Self {
        require(&kind.programs());
        let files = TempDir::new().expect("the temporary directory is writable");
        let vpn = match kind {
            VpnKind::OpenVpnDef1 => openvpn::start(files, laptop, gateway, "def1 ipv6"),
            VpnKind::OpenVpnReplaced => openvpn::start(files, laptop, gateway, "ipv6"),
            VpnKind::OpenVpnBlockLocal => {
                openvpn::start(files, laptop, gateway, "def1 block-local ipv6")
            }
            VpnKind::WgQuick => wireguard::quick(files, laptop, gateway, ""),
            VpnKind::WgQuickKillSwitch => {
                wireguard::quick(files, laptop, gateway, &wireguard::kill_switch())
            }
            VpnKind::StrongSwanLibipsec => strongswan::start(files, laptop, gateway),
            VpnKind::OpenConnect => openconnect::start(files, laptop, gateway),
            VpnKind::NetworkManager => {
                wireguard::routed(files, laptop, gateway, &imitation::NETWORK_MANAGER)
            }
            VpnKind::Tailscale => wireguard::routed(files, laptop, gateway, &imitation::TAILSCALE),
            VpnKind::Mullvad => wireguard::routed(files, laptop, gateway, &imitation::MULLVAD),
            VpnKind::Warp => wireguard::routed(files, laptop, gateway, &imitation::WARP),
        };
        for address in Family::BOTH.map(|family| at::VPN_GATEWAY.of(family)) {
            laptop.reach(address);
        }
        vpn
    }

    /// Stops the VPN as its user does. It removes its state from the laptop.
    pub fn stop(self, laptop: &Namespace, gateway: &Namespace) {
        let Self { programs, down, .. } = self;
        for (namespace, lines) in [laptop, gateway].into_iter().zip(down) {
            for line in lines {
                namespace.run(&line);
            }
        }
        // The laptop's program stops first, because its shutdown needs the gateway.
        for program in programs.into_iter().rev() {
            program.end(Signal::SIGTERM);
        }
    }
}

fn write(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    fs::write(&path, text).expect("the temporary directory is writable");
    path.display().to_string()
}

/// Creates a self-signed certificate. Returns its SHA-256 fingerprint, by which the ends authenticate each other.
fn certificate(dir: &Path, name: &str) -> String {
    let line = format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} \
         -keyout {name}.key -out {name}.crt"
    );
    let openssl = |line: &str| {
        run(
            Command::new("openssl")
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
