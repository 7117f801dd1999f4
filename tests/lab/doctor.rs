//! `voicelane doctor`: finds each planted fault and names the remedy. Finds none in a healthy lab, and reports unknowns.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::time::Instant;

use crate::support::addresses as at;
use crate::support::call::Call;
use crate::support::caller::Family;
use crate::support::program::{PATIENCE, wait_until};
use crate::support::voicelane::{CONFIG, Home, Voicelane};
use crate::support::vpn::VpnKind;
use crate::support::{Lab, NOTHING};
use serde_json::Value;
use voicelane::control::EventKind;

/// Runs the program as user nobody, from a place that nobody can read.
const AS_NOBODY: &str = r#"
mount -t tmpfs none /mnt
cp "$1" /mnt/voicelane
shift
set -- setpriv --reuid=65534 --regid=65534 --clear-groups /mnt/voicelane "$@"
"#;

/// The doctor's report and exit code.
struct Report {
    code: Option<i32>,
    json: Value,
}

impl Report {
    fn read(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let json = serde_json::from_str(&text).unwrap_or_else(|e| {
            let errors = String::from_utf8_lossy(&output.stderr);
            panic!("doctor: {e}: {text}{errors}")
        });
        Self {
            code: output.status.code(),
            json,
        }
    }

    fn of(home: &Home, script: &str) -> Self {
        Self::read(&home.invoke_from(script, &["doctor", "--json"]))
    }

    fn findings(&self) -> &[Value] {
        let findings = self.json["findings"].as_array();
        findings.expect("a report has findings")
    }

    /// Returns the findings of a check with a verdict.
    fn of_check(&self, name: &str, verdict: &str) -> Vec<&Value> {
        let findings = self.findings().iter();
        findings
            .filter(|it| it["name"] == name && it["verdict"] == verdict)
            .collect()
    }

    /// Panics unless a check has a finding with this verdict, text and remedy.
    fn assert_finding(&self, name: &str, verdict: &str, found: &str, remedy: &str) {
        let says = |it: &&Value| {
            let has = |key: &str, text| it[key].as_str().unwrap_or_default().contains(text);
            has("found", found) && has("remedy", remedy)
        };
        assert!(
            self.of_check(name, verdict).iter().any(says),
            "no {verdict} of {name} with {found:?} and {remedy:?}: {:#}",
            self.json
        );
        let code = match verdict {
            "fault" => 2,
            "warning" => 1,
            _ => 0,
        };
        assert!(self.code >= Some(code), "{:?}: {:#}", self.code, self.json);
    }

    /// Panics unless a check is left out, because the problem of another check causes its findings.
    fn assert_consequence(&self, name: &str) {
        let names = self.json["consequences"].as_array();
        let is_listed = names.is_some_and(|names| names.iter().any(|it| it == name));
        assert!(is_listed, "{name}: {:#}", self.json);
        let findings = self.findings().iter();
        let own: Vec<_> = findings.filter(|it| it["name"] == name).collect();
        assert_eq!(own, Vec::<&Value>::new());
    }

    fn assert_healthy(&self) {
        assert_ne!(self.json["verdict"], "fault", "{:#}", self.json);
        // The clock belongs to the machine, not to the lab.
        let warnings = self.findings().iter();
        let warnings = warnings.filter(|it| it["verdict"] == "warning" && it["name"] != "clock");
        assert_eq!(warnings.collect::<Vec<_>>(), Vec::<&Value>::new());
    }
}

/// A fault of the environment: the script that plants it, and the check's name, verdict, text and remedy.
type Plant = (&'static str, [&'static str; 4]);

const PLANTS: &[Plant] = &[
    (
        r#"set -- setpriv --bounding-set=-net_admin "$@""#,
        [
            "privileges",
            "fault",
            "no CAP_NET_ADMIN",
            "--cap-add NET_ADMIN",
        ],
    ),
    (
        "mount --bind /dev/null /dev/net/tun",
        ["kernel", "fault", "/dev/net/tun", "modprobe tun"],
    ),
    (
        r#"mount -t tmpfs none /mnt; cp "$1" /mnt/v; touch -d 2100-01-01 /mnt/v; shift; set -- /mnt/v "$@""#,
        [
            "clock",
            "fault",
            "installed later",
            "timedatectl set-ntp true",
        ],
    ),
    (
        r#"mount -t tmpfs none /sys/class/net; mkdir -p /sys/class/net/wlan0/phy80211
           set -- setarch --uname-2.6 "$@""#,
        ["wifi", "warning", "video (user priority 5)", "6.8"],
    ),
    (
        r#"set -- setarch --uname-2.6 "$@""#,
        [
            "kernel",
            "fault",
            "rules cannot match ports",
            "Linux 5.12 or newer",
        ],
    ),
    (
        "mount -t tmpfs none /run; mkdir -p /run/systemd/netif/links
         echo ADMIN_STATE=configured > /run/systemd/netif/links/2",
        [
            "networkd",
            "warning",
            "removes rules and routes",
            "ManageForeignRoutingPolicyRules=no",
        ],
    ),
    (
        "mount -t tmpfs none /run; mount --bind /dev/null /etc/resolv.conf",
        ["dns", "warning", "No name server", "/etc/resolv.conf"],
    ),
];

#[test]
fn each_planted_fault_is_found_and_its_remedy_named() {
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let home = voicelane.home();
    let examine = || Report::of(home, "");
    examine().assert_healthy();

    // In its environment.
    for (script, [name, verdict, found, remedy]) in PLANTS {
        Report::of(home, script).assert_finding(name, verdict, found, remedy);
    }

    // In its files.
    voicelane.configure("version = 2");
    examine().assert_finding("configuration", "fault", "version", "voicelane check");
    let expired = "prefixes = [\"2001:db8:31::210/128\"]\nvalid_until = 2024-01-23\n";
    let (_, service) = CONFIG.split_once("[[service]]").expect("it has services");
    let (service, _) = service.split_once("prefixes").expect("it has prefixes");
    let rest = "ports = [\"3478\"]\nallow_special_purpose = true";
    voicelane.configure(&format!(
        "version = 1\ninclude = []\n[[service]]{service}{expired}{rest}"
    ));
    examine().assert_finding("policy", "fault", "None of the 1 services", "policy show");
    voicelane.configure(CONFIG);
    let mode = |mode| {
        let file = voicelane.config_file();
        fs::set_permissions(file, Permissions::from_mode(mode)).expect("it is ours");
    };
    mode(0o666);
    examine().assert_finding("files", "fault", "other users can write", "chmod go-w");
    mode(0o644);

    // On its network.
    lab.laptop.set("ipv4/conf/wlan0/rp_filter", "1");
    examine().assert_finding("reverse_path", "fault", "strict", "rp_filter=2");
    lab.laptop.set("ipv4/conf/wlan0/rp_filter", "2");
    for family in ["-4", "-6"] {
        let to = if family == "-4" {
            "168.86.128.0/18"
        } else {
            "2001:db8:86:4000::/50"
        };
        let rule = format!("rule add priority 0 to {to} lookup main");
        lab.laptop.run(&format!("ip {family} {rule}"));
        examine().assert_finding("rules", "fault", "at priority 0", "a greater number");
        lab.laptop
            .run(&format!("ip {family} {}", rule.replace("add", "del")));
    }
    let last = voicelane.last_event();
    lab.laptop.nft(
        "add table inet corp
         add chain inet corp egress { type filter hook output priority 0; }
         add rule inet corp egress oifname wlan0 meta l4proto udp drop",
    );
    voicelane.event_after(last, EventKind::FirewallBlocked);
    // The event comes before the rules go, and before status says so.
    wait_until("media in the VPN", || {
        let captured = &voicelane.status()["status"]["captured"];
        captured.as_array().is_some_and(Vec::is_empty)
    });
    let remedy = "nft insert rule inet corp egress oifname wlan0";
    examine().assert_finding(
        "firewall",
        "fault",
        "chain egress in the table inet corp",
        remedy,
    );
    examine().assert_consequence("service");

    // Killed, with leftovers. Now the doctor probes the firewall itself.
    let home = voicelane.kill();
    let report = Report::of(&home, "");
    report.assert_finding(
        "service",
        "fault",
        "is not running",
        "systemctl start voicelane",
    );
    report.assert_finding(
        "leftovers",
        "fault",
        "A killed voicelane left",
        "voicelane cleanup",
    );
    report.assert_finding(
        "firewall",
        "fault",
        "chain egress in the table inet corp",
        remedy,
    );
    lab.laptop.nft("delete table inet corp");
    assert!(home.cleanup().status.success());
    // Such a link loses IPv6 until it is set down and up.
    lab.laptop.ip("link set wlan0 mtu 1000");
    Report::of(&home, "").assert_finding(
        "mtu",
        "fault",
        "1000 bytes",
        "ip link set wlan0 mtu 1500",
    );
    lab.laptop.ip("route del default");
    let report = Report::of(&home, "");
    report.assert_finding(
        "uplink",
        "fault",
        "no network connection found",
        "--uplink IFACE",
    );
    assert_eq!(
        report.of_check("leftovers", "ok").len(),
        1,
        "{:#}",
        report.json
    );
    for check in ["mtu", "reverse_path", "firewall"] {
        report.assert_consequence(check);
    }
}

#[test]
fn the_hop_that_changes_ef_is_found_on_request() {
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let home = voicelane.home();
    let trace = || Report::read(&home.invoke_from("", &["doctor", "--json", "--path"]));
    let report = trace();
    assert_eq!(report.of_check("path", "ok").len(), 2, "{:#}", report.json);

    lab.home.nft(
        "add table inet provider
         add chain inet provider out { type filter hook postrouting priority 0; }
         add rule inet provider out oifname wan0 ip dscp set cs0
         add rule inet provider out oifname wan0 ip6 dscp set 6",
    );
    let report = trace();
    let home_does = "The home router changes it";
    report.assert_finding("path", "warning", "bleached to 0 before hop 2", home_does);
    report.assert_finding("path", "warning", "lost its upper three bits", home_does);

    lab.laptop.nft(
        "add table inet shaper
         add chain inet shaper out { type filter hook postrouting priority 0; }
         add rule inet shaper out oifname wlan0 ip dscp set af11",
    );
    trace().assert_finding(
        "path",
        "warning",
        "AF11 (10) before hop 1",
        "nft list ruleset",
    );
    let report = Report::of(home, "");
    report.assert_finding("path", "unknown", "Not measured", "doctor --path");
}

#[test]
fn a_healthy_machine_has_no_fault_and_its_call_continues() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    let calls = Family::BOTH.map(|family| {
        let call = Call::start(&lab, SocketAddr::new(family.unspecified(), 0));
        call.resumes_after(Instant::now(), PATIENCE, "the start");
        call
    });
    let before = lab.laptop.dump();
    let resolver = format!("echo nameserver {} > /mnt/resolv.conf", at::VPN_GATEWAY.v4);
    let script = format!(
        "mount -t tmpfs none /mnt; {resolver}; mount --bind /mnt/resolv.conf /etc/resolv.conf"
    );
    let begun = Instant::now();
    let report = Report::of(voicelane.home(), &script);
    report.assert_healthy();
    let words = report.of_check("vpn", "ok")[0]["found"].to_string();
    assert!(words.contains("takes all of IPv4 and IPv6"), "{words}");
    report.assert_finding("dns", "unknown", "through the VPN", "nearby");
    let heard = report.of_check("dscp", "ok");
    let heard = heard[0]["found"].to_string();
    assert!(heard.contains("Applications set DF (0)"), "{heard}");
    for finding in report.of_check("rules", "ok") {
        let found = finding["found"].to_string();
        assert!(found.contains("goes to voicelane0"), "{found}");
    }
    assert_eq!(lab.laptop.changes_since(&before), NOTHING);
    for call in &calls {
        let [out, back] = call.gaps_since(begun);
        assert!(out.max(back) < PATIENCE / 10, "{out:?} {back:?}");
    }
    drop(calls);
    voicelane.stop();
}

#[test]
fn an_ordinary_user_learns_which_checks_need_root() {
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let home = voicelane.home();
    fs::set_permissions(home.dir(), Permissions::from_mode(0o755)).expect("it is ours");
    let output = home.invoke_from(AS_NOBODY, &["doctor", "--json", "--path"]);
    let report = Report::read(&output);
    report.assert_healthy();
    for name in ["service", "firewall", "path"] {
        let unknown = report.of_check(name, "unknown");
        assert_eq!(unknown.len(), 1, "{name}: {:#}", report.json);
        assert_eq!(unknown[0]["root_knows"], true, "{name}");
    }
    // Checks without privileges are complete.
    for name in [
        "uplink",
        "rules",
        "mtu",
        "reverse_path",
        "leftovers",
        "files",
    ] {
        assert!(
            !report.of_check(name, "ok").is_empty(),
            "{name}: {:#}",
            report.json
        );
    }
    let output = home.invoke_from(AS_NOBODY, &["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("Not checked without root: service, firewall"),
        "{text}"
    );
    assert_eq!(report.json["version"], 1);
}
