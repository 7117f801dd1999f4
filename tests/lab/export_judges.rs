//! The exports before the programs that they are for: each loads what it is given, and then does what the policy says.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::netns::{in_namespace, run};
use jiff::civil::date;
use tempfile::TempDir;
use voicelane::config::Config;
use voicelane::policy::Policy;
use voicelane::policy::export::{ExportFormat, Selection};

/// A policy with both families and both protocols, and the one that is compiled in.
const SAMPLE: &str = include_str!("../golden/export/policy.toml");
const CATALOGUE: &str = "version = 1";

/// A way out with both families, and nobody behind it.
const UPLINK: &str = "
    ip link add wan0 type veth peer name isp0
    ip link set wan0 up; ip link set isp0 up
    ip addr add 192.0.2.2/24 dev wan0; ip -6 addr add 2001:db8:1::2/64 dev wan0 nodad
    ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8:1::1";
/// Inside the sample, beside it, and elsewhere.
const EXCLUDED: [&str; 4] = [
    "198.51.100.9",
    "203.0.113.7",
    "2001:db8:a::9",
    "2001:db8:b::7",
];
const TUNNELLED: [&str; 5] = [
    "198.51.101.0",
    "203.0.113.8",
    "8.8.8.8",
    "2001:db8:b::8",
    "2600::1",
];

/// An export in a file of its own.
struct Exported {
    dir: TempDir,
    text: String,
}

impl Exported {
    fn new(format: &str, config: &str) -> Self {
        let today = date(2026, 3, 1);
        let policy = Policy::compile(&Config::parse("it.toml", config).expect("valid"), today);
        let selection = Selection::new(&policy, today, &[""; 0]).expect("active services");
        let text = ExportFormat::find(format)
            .expect("a format")
            .export(&selection)
            .text;
        let dir = TempDir::new().expect("the temporary directory is writable");
        let exported = Self { dir, text };
        exported.write("export", &exported.text);
        exported
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).expect("the directory is writable");
        path.display().to_string()
    }

    fn file(&self) -> String {
        self.path("export").display().to_string()
    }
}

/// Fails unless these are there, each with the package that brings it.
fn require(programs: &[(&str, &str)]) {
    let path = std::env::var("PATH").unwrap_or_default();
    for (program, package) in programs {
        let mut dirs = path.split(':').chain(["/usr/sbin", "/sbin"]);
        assert!(
            dirs.any(|dir| Path::new(dir).join(program).exists()),
            "{program} is missing: apt-get install {package}; scripts/setup installs all"
        );
    }
}

/// A program in the background; it ends with this value.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().expect("the program starts"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("the program runs until here");
        self.0.wait().expect("the program is ours");
    }
}

/// Waits until a command succeeds.
fn wait_for(command: &str) {
    for _ in 0..200 {
        let tried = Command::new("sh").args(["-c", command]).output();
        if tried.expect("sh runs").status.success() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("in vain: {command}");
}

/// Where the kernel sends packets to an address.
fn device_for(addr: &str) -> String {
    let route = run(&format!("ip route get {addr}"));
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).expect("a route has a device").to_owned()
}

#[test]
fn nft_loads_both_forms_and_loads_them_again() {
    require(&[("nft", "nftables")]);
    in_namespace(|| async {
        for config in [SAMPLE, CATALOGUE] {
            let table = Exported::new("nftables", config);
            let part = Exported::new("openwrt", config);
            part.write(
                "fw4",
                &format!("table inet fw4 {{\ninclude \"{}\"\n}}\n", part.file()),
            );
            run(&format!("nft -f {}", part.path("fw4").display()));
            run(
                "nft add chain inet fw4 forward; nft add rule inet fw4 forward jump voicelane_allow",
            );
            run("nft delete table inet fw4");
            run(&format!("nft -f {0}; nft -f {0}", table.file()));
            let rules = run("nft list table inet voicelane");
            let wanted = table.text.lines().filter(|line| line.contains('@')).count();
            assert_eq!(
                rules.lines().filter(|line| line.contains('@')).count(),
                wanted
            );
            assert!(rules.contains("dscp set ef"), "{rules}");
        }
    });
}

#[test]
fn iptables_takes_the_rules_of_its_family_and_leaves_the_rest_alone() {
    require(&[
        ("iptables-restore", "iptables"),
        ("ip6tables-restore", "iptables"),
    ]);
    in_namespace(|| async {
        for (tool, family) in [("iptables", " -4 "), ("ip6tables", " -6 ")] {
            run(&format!(
                "{tool} -A FORWARD -m comment --comment kept -j DROP"
            ));
            for config in [SAMPLE, CATALOGUE] {
                let export = Exported::new("iptables", config);
                let restore = format!("{tool}-restore --noflush");
                run(&format!(
                    "{restore} --test {0}; {restore} {0}; {restore} {0}",
                    export.file()
                ));
                run(&format!(
                    "{tool} -t mangle -A POSTROUTING -j voicelane-mark; {tool} -I FORWARD -j voicelane-allow"
                ));
                let saved = run(&format!("{tool}-save"));
                let ours = |line: &&str| line.starts_with("-A voicelane");
                let wanted = export.text.lines().filter(|line| line.contains(family));
                assert_eq!(saved.lines().filter(ours).count(), wanted.count(), "{tool}");
                assert!(saved.contains("--comment kept"), "{saved}");
            }
        }
    });
}

#[test]
fn openvpn_leaves_the_excluded_routes_to_the_uplink() {
    require(&[("openvpn", "openvpn")]);
    in_namespace(|| async {
        run(UPLINK);
        let export = Exported::new("openvpn", SAMPLE);
        let pushed = Exported::new("openvpn-server", SAMPLE);
        let routes = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| line.contains("net_gateway"));
            lines
                .map(|line| line.replace("push ", "").replace('"', ""))
                .collect()
        };
        assert_eq!(routes(&export.text), routes(&pushed.text));
        // Without a key, in clear: it is the routes that are judged.
        let client = "dev tun9\ndev-type tun\nproto udp\nremote 192.0.2.9\nauth none\ncipher none\n\
            ifconfig 10.9.0.2 10.9.0.1\nifconfig-ipv6 fd00::2/64 fd00::1\nredirect-gateway def1 ipv6\n";
        let config = export.write("client", &format!("{client}config {}\n", export.file()));
        let _vpn = Running::start(Command::new("openvpn").args(["--config", &config]));
        wait_for(
            "ip -6 route get 2600::1 | grep -q tun9 && ip route get 198.51.100.9 | grep -q wan0",
        );
        for addr in EXCLUDED {
            // IPv6 stays in, as the export's note says.
            let wanted = if addr.contains(':') { "tun9" } else { "wan0" };
            assert_eq!(device_for(addr), wanted, "{addr}");
        }
        for addr in TUNNELLED {
            assert_eq!(device_for(addr), "tun9", "{addr}");
        }
    });
}

/// Takes the VPN down again, whatever happens in between.
struct WgQuick(String);

impl Drop for WgQuick {
    fn drop(&mut self) {
        run(&format!("wg-quick down {} 2>&1", self.0));
    }
}

#[test]
fn wg_quick_leaves_the_excluded_addresses_and_its_own_packets_to_the_uplink() {
    require(&[
        ("wg", "wireguard-tools"),
        ("wg-quick", "wireguard-tools"),
        ("wireguard-go", "wireguard-go"),
    ]);
    in_namespace(|| async {
        run(UPLINK);
        let export = Exported::new("wireguard", SAMPLE);
        let (private, public) = (run("wg genkey"), run("wg genkey | wg pubkey"));
        let name = format!("wgx{}", std::process::id());
        let interface =
            format!("[Interface]\nPrivateKey = {private}Address = 10.9.0.2/32, fd00::2/128");
        let peer = format!("[Peer]\nPublicKey = {public}Endpoint = 192.0.2.9:51820");
        let config = export
            .text
            .replace("[Interface]", &interface)
            .replace("[Peer]", &peer);
        let config = export.write(&format!("{name}.conf"), &config);
        run(&format!("chmod 600 {config}"));
        let vpn = WgQuick(config.clone());
        run(&format!(
            "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go wg-quick up {config} 2>&1"
        ));
        for addr in EXCLUDED {
            assert_eq!(device_for(addr), "wan0", "{addr}");
        }
        for addr in TUNNELLED {
            assert_eq!(device_for(addr), name, "{addr}");
            assert_eq!(device_for(&format!("{addr} mark 51820")), "wan0", "{addr}");
        }
        drop(vpn);
        assert!(
            !run("ip rule; ip -6 rule").contains("51820"),
            "it leaves nothing behind"
        );
    });
}

#[test]
fn strongswan_lets_the_policy_pass() {
    require(&[
        ("swanctl", "strongswan-swanctl"),
        ("charon-systemd", "charon-systemd"),
    ]);
    in_namespace(|| async {
        run(UPLINK);
        let export = Exported::new("swanctl", SAMPLE);
        let socket = format!("unix://{}", export.path("vici").display());
        let daemon = export.write(
            "strongswan.conf",
            &format!(
                "charon-systemd {{\n\
                 load = random nonce aes sha1 sha2 hmac gmp kdf kernel-netlink socket-default vici\n\
                 plugins {{ vici {{ socket = {socket} }} }}\n}}\n\
                 swanctl {{ load = random nonce }}\n"
            ),
        );
        let _charon = Running::start(
            Command::new("/usr/sbin/charon-systemd").env("STRONGSWAN_CONF", &daemon),
        );
        let swanctl = |ask: &str| format!("STRONGSWAN_CONF={daemon} swanctl {ask} --uri {socket}");
        wait_for(&swanctl("--stats"));
        run(&swanctl(&format!("--load-conns --file {}", export.file())));
        let policies = run("ip xfrm policy");
        for addr in EXCLUDED {
            let addr: IpAddr = addr.parse().expect("an address");
            assert!(passes(&policies, addr, 3478), "{addr}:\n{policies}");
        }
        for addr in TUNNELLED {
            let addr: IpAddr = addr.parse().expect("an address");
            assert!(!passes(&policies, addr, 3478), "{addr}:\n{policies}");
        }
    });
}

/// Whether a policy without a template lets UDP to this port out.
fn passes(policies: &str, addr: IpAddr, port: u16) -> bool {
    let outwards = |line: &&str| line.starts_with("src 0.0.0.0/0") || line.starts_with("src ::/0");
    let outwards = policies.lines().filter(outwards);
    let mut ours = outwards.filter(|line| line.contains("proto udp"));
    ours.any(|line| {
        let mut words = line.split_whitespace().skip(3);
        let prefix = words.next().expect("a destination").parse();
        let prefix: voicelane::net::Prefix = prefix.expect("a prefix");
        prefix.contains(addr)
            && (!line.contains("dport") || line.contains(&format!("dport {port} ")))
    })
}
