//! The service under a service manager: what it tells, what it may do, and how it takes up another configuration.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::caller::{Family, udp};
use crate::support::namespace::Namespace;
use crate::support::program::{PATIENCE, Program};
use crate::support::voicelane::{CONFIG, Home, Voicelane};
use crate::support::vpn::VpnKind;
use crate::support::{Lab, MEDIA_PORT, NOTHING, PathTaken};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use voicelane::control::EventKind;

/// A user and a group that own nothing.
const NOBODY: u32 = 65_534;

/// `CAP_NET_ADMIN` alone, as `/proc/PID/status` writes it.
const NET_ADMIN: &str = "0000000000001000";

/// No capability at all.
const NONE: &str = "0000000000000000";

fn media_way(lab: &Lab, family: Family) -> PathTaken {
    let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
    lab.exchange(&socket, at::MEDIA.at(family, MEDIA_PORT)).0
}

fn assert_media_way(lab: &Lab, path: PathTaken) {
    for family in Family::BOTH {
        assert_eq!(media_way(lab, family), path, "{family:?}");
    }
}

/// The service manager's side of sd_notify(3).
struct Manager {
    socket: UnixDatagram,
    dir: TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = TempDir::new().expect("the temporary directory is writable");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("it was just made");
        socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
        Self { socket, dir }
    }

    fn address(&self) -> String {
        self.dir.path().join("notify").display().to_string()
    }

    /// Waits for a message in which all these lines occur, and gives it.
    fn wait_for(&self, lines: &[&str]) -> String {
        let mut heard = Vec::new();
        loop {
            let mut buffer = [0; 4_096];
            let length = self
                .socket
                .recv(&mut buffer)
                .unwrap_or_else(|e| panic!("{lines:?} did not come ({e}), only {heard:?}"));
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let said = |line: &&str| message.lines().any(|said| said == *line);
            if lines.iter().all(said) {
                return message;
            }
            heard.push(message);
        }
    }
}

/// What the kernel says of each thread of a process, as the values of these keys.
fn assert_threads(pid: Pid, expected: &[(&str, &str)]) {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    for thread in threads {
        let path = thread.expect("the process runs").path().join("status");
        let status = fs::read_to_string(path).expect("the thread runs");
        for (key, value) in expected {
            let line = format!("{key}:\t{value}");
            assert!(status.lines().any(|it| it == line), "{line}: {status}");
        }
    }
}

#[test]
fn a_manager_hears_of_every_step_and_of_the_heart() {
    let lab = Lab::new();
    let manager = Manager::new();
    let home = Home::new(&lab.laptop, CONFIG);
    let voicelane = home.launch(&[
        ("NOTIFY_SOCKET", &manager.address()),
        ("WATCHDOG_USEC", "400000"),
    ]);
    manager.wait_for(&["READY=1", "STATUS=media leaves through wlan0"]);
    for _ in 0..3 {
        manager.wait_for(&["WATCHDOG=1"]);
    }
    kill(voicelane.pid(), Signal::SIGHUP).expect("it runs");
    let reloading = manager.wait_for(&["RELOADING=1"]);
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait_for(&["READY=1"]);
    // A manager that is told of no heart has stopped the loop that carries packets: it would restart the service.
    kill(voicelane.pid(), Signal::SIGTERM).expect("it runs");
    manager.wait_for(&["STOPPING=1"]);
}

#[test]
fn root_keeps_one_capability_and_that_is_enough() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let before = lab.laptop.dump();
    let voicelane = Voicelane::start(&lab.laptop);
    let expected = [
        ("CapInh", NONE),
        ("CapPrm", NET_ADMIN),
        ("CapEff", NET_ADMIN),
        ("CapBnd", NET_ADMIN),
        ("CapAmb", NONE),
        ("NoNewPrivs", "1"),
    ];
    assert_threads(voicelane.pid(), &expected);
    assert_media_way(&lab, PathTaken::Direct);

    // Everything that it has set can be taken anew, and taken back.
    // Tables may have other numbers then.
    let rules = || {
        ["-4", "-6"].map(|family| {
            let rules = lab.laptop.run(&format!("ip {family} rule show"));
            rules.matches("proto 118").count()
        })
    };
    let taken = rules();
    for family in ["-4", "-6"] {
        lab.laptop
            .run(&format!("ip {family} rule flush protocol 118"));
    }
    let deadline = Instant::now() + PATIENCE;
    while rules() < taken {
        assert!(Instant::now() < deadline, "{taken:?} {:?}", rules());
        thread::sleep(Duration::from_millis(20));
    }
    assert_media_way(&lab, PathTaken::Direct);
    voicelane.stop();
    assert_eq!(lab.laptop.changes_since(&before), NOTHING);
}

/// The service as its unit runs it: a user of its own with two capabilities, of which one stays, in directories of its own.
struct Unit {
    program: Option<Program>,
    dir: TempDir,
    namespace: String,
}

impl Unit {
    fn start(namespace: &Namespace) -> Self {
        let dir = TempDir::new().expect("the temporary directory is writable");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let binary = dir.path().join("voicelane");
        fs::copy(env!("CARGO_BIN_EXE_voicelane"), &binary).expect("there is room for a copy");
        let run = dir.path().join("run");
        fs::create_dir(&run).expect("it was just made");
        chown(&run, Some(NOBODY), Some(NOBODY)).expect("this test wants root: run it with sudo");
        let config = dir.path().join("config.toml");
        // The user is no member of the group.
        let text = format!("{CONFIG}\n[control]\ngroup = \"daemon\"\n");
        fs::write(&config, text).expect("it was just made");
        fs::set_permissions(&config, Permissions::from_mode(0o644)).expect("it is ours");
        let mut unit = Self {
            program: None,
            dir,
            namespace: namespace.name().to_owned(),
        };
        let mut command = unit.command(NOBODY, &["+net_admin", "+net_raw"]);
        command.arg("run").arg("--config").arg(config);
        command.arg("--runtime-dir").arg(&run);
        let mut program = Program::start("voicelane", &mut command);
        program.wait_for("ready");
        unit.program = Some(program);
        unit
    }

    /// The program for a user, with these capabilities and no others.
    fn command(&self, user: u32, capabilities: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, "setpriv"]);
        command.arg(format!("--reuid={user}"));
        command.arg(format!("--regid={user}"));
        command.args(["--clear-groups", "--no-new-privs"]);
        let capabilities = [&["-all"], capabilities].concat().join(",");
        for set in ["inh-caps", "ambient-caps", "bounding-set"] {
            command.arg(format!("--{set}={capabilities}"));
        }
        command.arg(self.dir.path().join("voicelane"));
        command
    }

    fn reload_as(&self, user: u32) -> Output {
        let mut command = self.command(user, &[]);
        let run = self.dir.path().join("run");
        command.arg("reload").arg("--runtime-dir").arg(run);
        command.output().expect("setpriv is there (util-linux)")
    }
}

#[test]
fn a_user_of_its_own_with_one_capability_is_enough() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::OpenVpnDef1);
    // What voicelane loosens, and puts back.
    lab.laptop.set("ipv4/conf/wlan0/rp_filter", "1");
    let before = lab.laptop.dump();
    let mut unit = Unit::start(&lab.laptop);
    let program = unit.program.take().expect("it was just started");
    let uid = NOBODY.to_string();
    let ids = [uid.as_str(); 4].join("\t");
    let expected = [
        ("Uid", ids.as_str()),
        ("CapInh", NONE),
        ("CapPrm", NET_ADMIN),
        ("CapEff", NET_ADMIN),
        ("CapAmb", NONE),
        ("NoNewPrivs", "1"),
    ];
    assert_threads(program.pid(), &expected);
    assert_media_way(&lab, PathTaken::Direct);
    assert_eq!(lab.laptop.get("ipv4/conf/wlan0/rp_filter"), "2");

    let reloaded = unit.reload_as(NOBODY);
    assert!(reloaded.status.success(), "{reloaded:?}");
    let refused = unit.reload_as(1);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");

    assert!(program.end(Signal::SIGTERM).success());
    assert_eq!(lab.laptop.changes_since(&before), NOTHING);
}

/// The lab's configuration without Talkdesk: IPv4 media is no longer asked for.
fn only_ipv6() -> String {
    CONFIG.replace("include = [\"talkdesk\"]", "include = []")
}

/// The lab's configuration and one service more, whose ports are a range that was not there.
fn one_more() -> String {
    format!(
        r#"{CONFIG}
[[service]]
name = "lab-more"
description = "Ports beside those of the media gateways"
role = "media"
protocol = "udp"
prefixes = ["168.86.128.0/18", "2001:db8:86:4000::/50"]
ports = ["4000-5000"]
dscp = "EF"
allow_special_purpose = true
"#
    )
}

#[test]
fn a_reload_moves_what_has_changed_and_nothing_else() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    assert_media_way(&lab, PathTaken::Direct);

    voicelane.configure(&only_ipv6());
    assert!(voicelane.reload().status.success());
    assert_eq!(media_way(&lab, Family::V4), PathTaken::Tunnel);
    assert_eq!(media_way(&lab, Family::V6), PathTaken::Direct);

    voicelane.configure(CONFIG);
    let last = voicelane.last_event();
    kill(voicelane.pid(), Signal::SIGHUP).expect("it runs");
    voicelane.event_after(last, EventKind::Reloaded);
    assert_media_way(&lab, PathTaken::Direct);
}

#[test]
fn a_bad_file_changes_nothing_and_is_said() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    let bad = CONFIG.replace("dscp = \"EF\"", "dscp = \"EE\"");
    let restart = format!("{CONFIG}\n[tun]\nname = \"other0\"\n");
    // Its looks after the start put chains into nftables for a moment.
    voicelane.last_event_when_quiet();
    for (config, named) in [
        (bad.as_str(), "EE"),
        (&restart, "tun.name"),
        ("versoin", "1:"),
    ] {
        voicelane.configure(config);
        let before = lab.laptop.dump();
        let last = voicelane.last_event();
        let output = voicelane.reload();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(named), "{named}: {said}");
        let event = voicelane.event_after(last, EventKind::ReloadRefused);
        assert!(event.reason.contains(named), "{event}");
        assert!(voicelane.warnings().contains(named));
        assert_eq!(lab.laptop.changes_since(&before), NOTHING, "{config}");
        assert_media_way(&lab, PathTaken::Direct);
    }
    voicelane.configure(CONFIG);
    assert!(voicelane.reload().status.success());
    assert!(!voicelane.warnings().contains("reloaded"));
}

#[test]
fn a_file_that_others_may_write_is_not_taken_up() {
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    voicelane.configure(&only_ipv6());
    let file = voicelane.config_file();
    fs::set_permissions(Path::new(&file), Permissions::from_mode(0o666)).expect("it is ours");
    let output = voicelane.reload();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("0666"), "{said}");
    assert_media_way(&lab, PathTaken::Direct);
}

#[test]
fn a_call_notices_no_reload() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    let sockets = Family::BOTH.map(|family| {
        let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
        (socket, at::MEDIA.at(family, MEDIA_PORT))
    });
    thread::scope(|scope| {
        let reloads = scope.spawn(|| {
            for round in 0..20 {
                // Ranges come and go on both sides of the call's own.
                let config = if round % 2 == 0 { &one_more() } else { CONFIG };
                voicelane.configure(config);
                let output = voicelane.reload();
                assert!(output.status.success(), "{output:?}");
            }
        });
        let mut asked = 0;
        while !reloads.is_finished() || asked < 100 {
            for (socket, to) in &sockets {
                let (path, payload) = lab.exchange(socket, *to);
                assert_eq!(path, PathTaken::Direct, "{to}");
                lab.assert_media(&payload, *to, None);
            }
            asked += 1;
        }
    });
    let status = voicelane.status();
    assert_eq!(status["status"]["rejected"], 0, "{status}");
}
