//! A network namespace of a test. Its removal ends all processes in it.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::sync::Once;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use voicelane::lab;

use super::program::wait_until;

/// Where iproute2 keeps the named namespaces.
const REGISTRY: &str = "/run/netns";

/// Prefix of the namespace names, followed by the process id of the test.
const PREFIX: &str = "vlab-";

/// Fails the test unless it runs as root and finds its programs, each given with its Debian package.
pub fn require(programs: &[(&str, &str)]) {
    assert!(
        geteuid().is_root(),
        "network namespaces need root: run `scripts/check lab`"
    );
    let path = std::env::var("PATH").unwrap_or_default();
    let found = |program: &str| {
        path.split(':')
            .chain(["/usr/sbin", "/sbin"])
            .any(|dir| Path::new(dir).join(program).exists())
    };
    let missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| !found(program))
        .map(|(program, package)| format!("{program} (apt-get install {package})"))
        .collect();
    assert!(
        missing.is_empty(),
        "missing: {}. `sudo scripts/setup` installs all",
        missing.join(", ")
    );
}

/// A named namespace, which programs enter by `ip netns exec`.
pub struct Namespace {
    name: String,
    inner: lab::Namespace,
}

impl Deref for Namespace {
    type Target = lab::Namespace;

    fn deref(&self) -> &lab::Namespace {
        &self.inner
    }
}

impl Namespace {
    /// Creates the namespace `vlab-PID-LAB-ROLE` with loopback, without duplicate address detection.
    pub fn new(lab: u32, role: &str) -> Self {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let name = format!("{PREFIX}{}-{lab}-{role}", process::id());
        run(Command::new("ip").args(["netns", "add", &name]), "");
        let inner = lab::Namespace::open(&Path::new(REGISTRY).join(&name));
        let inner = inner.expect("it was just made");
        let namespace = Self { name, inner };
        for scope in ["all", "default"] {
            namespace.set(&format!("ipv6/conf/{scope}/accept_dad"), "0");
            namespace.set(&format!("ipv6/conf/{scope}/accept_ra"), "0");
        }
        namespace.ip("link set lo up");
        namespace
    }

    /// The name, for `ip link ... netns NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a command that starts a program in the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a command line (words separated by spaces) in the namespace. Returns its output.
    pub fn run(&self, line: &str) -> String {
        self.run_with(line, "")
    }

    /// Runs a command line in the namespace with an input.
    pub fn run_with(&self, line: &str, input: &str) -> String {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a command line has a program");
        run(self.command(program).args(words), input)
    }

    /// Waits until an address answers, since a new path may need some time.
    pub fn reach(&self, address: IpAddr) {
        wait_until(&format!("an answer of {address}"), || {
            let mut ping = self.command("ping");
            ping.args(["-c", "1", "-W", "2", &address.to_string()]);
            ping.output().expect("ping is there").status.success()
        });
    }

    /// Runs the lines of an `ip -batch`, all in one process.
    pub fn ip(&self, batch: &str) {
        run(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            batch,
        );
    }

    /// Loads an nftables ruleset.
    pub fn nft(&self, ruleset: &str) {
        self.run_with("nft -f -", ruleset);
    }

    /// Reads a setting below `/proc/sys/net`.
    pub fn get(&self, key: &str) -> String {
        self.sysctl(key).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Writes a setting below `/proc/sys/net`.
    pub fn set(&self, key: &str, value: &str) {
        self.set_sysctl(key, value)
            .unwrap_or_else(|e| panic!("{e}"));
    }

    /// Returns everything that a program could leave in the namespace: links, addresses, rules, routes, XFRM
    /// policies, the firewall and the settings.
    pub fn dump(&self) -> Dump {
        let lines = [
            "ip -o link show",
            "ip -o addr show",
            "ip -4 rule show",
            "ip -6 rule show",
            "ip -4 route show table all",
            "ip -6 route show table all",
            "ip xfrm policy",
            "nft list ruleset",
            "sysctl -a --pattern ^net\\.ipv[46]\\.(conf|ip_forward|route|icmp)",
        ]
        .iter()
        .flat_map(|line| {
            let output = self.run(line);
            let entries = output.lines().map(|entry| format!("{line}: {entry}"));
            entries.collect::<Vec<_>>()
        })
        .collect();
        Dump(lines)
    }

    /// Returns the removed (`-`) and the added (`+`) lines since an earlier dump.
    pub fn changes_since(&self, Dump(before): &Dump) -> Vec<String> {
        let Dump(now) = self.dump();
        let without = |sign, all: &[String], others: &[String]| {
            let lines = all.iter().filter(|line| !others.contains(line));
            lines
                .map(|line| format!("{sign} {line}"))
                .collect::<Vec<_>>()
        };
        let mut changes = without('-', before, &now);
        changes.extend(without('+', &now, before));
        if changes.is_empty() && *before != now {
            changes.push("the same lines in another order or number".to_owned());
        }
        changes
    }
}

/// The state of a namespace at one time, in lines.
pub struct Dump(Vec<String>);

impl Dump {
    /// Returns the lines that contain one of the texts.
    pub fn naming(&self, texts: &[&str]) -> Vec<&String> {
        let named = |line: &&String| texts.iter().any(|text| line.contains(text));
        self.0.iter().filter(named).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Runs a command to its end. A failure fails the test and shows the output.
pub fn run(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    // A program that fails early closes its input. Its exit code explains more than the broken pipe.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it was started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{input}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Ends the processes in a namespace, then removes it. A drop calls it, so it reports errors without a panic.
fn remove(name: &str) {
    let guests = || {
        let inode = fs::metadata(Path::new(REGISTRY).join(name)).map(|meta| meta.ino());
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter(|entry| {
                // The entry describes the main thread, although other threads of this process may be inside.
                let place = fs::metadata(entry.path().join("ns/net")).map(|meta| meta.ino());
                matches!((&place, &inode), (Ok(place), Ok(inode)) if place == inode)
            })
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .map(Pid::from_raw)
            .collect::<Vec<_>>()
    };
    // SIGTERM first, so that wireguard-go removes its control socket. SIGKILL after a second.
    for (signal, looks) in [(Signal::SIGTERM, 50), (Signal::SIGKILL, 1)] {
        for pid in guests() {
            let _ = kill(pid, signal);
        }
        for _ in 0..looks {
            if guests().is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    if let Err(cause) = Command::new("ip").args(["netns", "delete", name]).status() {
        eprintln!("namespace {name} stays behind: {cause}");
    }
}

/// Removes the namespaces of test processes that were killed before they could clean up.
fn sweep() {
    for entry in fs::read_dir(REGISTRY).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            remove(&name);
        }
    }
}
