//! The product, as a black box with a command line.

use std::fs;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use voicelane::control::{Event, EventKind};

use super::namespace::Namespace;
use super::program::{PATIENCE, Program};

/// Talkdesk as it is compiled in, and its like on IPv6.
pub const CONFIG: &str = r#"
version = 1
include = ["talkdesk"]

[[service]]
name = "lab-media"
description = "The lab's media gateways"
role = "media"
protocol = "udp"
prefixes = ["2001:db8:86:4000::/50"]
ports = ["3478", "10000-60000"]
dscp = "EF"
allow_special_purpose = true

[[service]]
name = "lab-test"
description = "The lab's network test"
role = "test"
protocol = "udp"
prefixes = ["2001:db8:31::210/128"]
ports = ["3478"]
dscp = "EF"
allow_special_purpose = true
"#;

/// The configuration with a rule for TCP to the media gateways, at these ports; its code point is CS5.
pub fn config_with_tcp(ports: &str) -> String {
    format!(
        r#"{CONFIG}
[[service]]
name = "lab-signalling"
description = "The lab's signalling over TCP"
role = "signalling"
protocol = "tcp"
prefixes = ["168.86.128.0/18", "2001:db8:86:4000::/50"]
ports = [{ports}]
dscp = "CS5"
allow_special_purpose = true
"#
    )
}

/// The TUN's default name.
pub const TUN: &str = "voicelane0";

/// A running service; it is killed with this value.
pub struct Voicelane {
    program: Program,
    home: Home,
}

/// Where a service keeps its files: they outlive the service.
pub struct Home {
    files: TempDir,
    namespace: String,
}

impl Home {
    /// An empty home with a configuration.
    pub fn new(namespace: &Namespace, config: &str) -> Self {
        let files = TempDir::new().expect("the temporary directory is writable");
        fs::write(files.path().join("config.toml"), config).expect("it was just made");
        Self {
            files,
            namespace: namespace.name().to_owned(),
        }
    }

    /// Runs a command of the program to its end.
    pub fn invoke(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("ip is there")
    }

    /// Runs a command of the program that takes configuration and runtime directory, from a shell with mounts and a host
    /// name of its own: `"$@"` is the command, which `script` may change before it runs it.
    pub fn invoke_from(&self, script: &str, arguments: &[&str]) -> Output {
        let mut command = std::process::Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.namespace,
                "unshare",
                "--mount",
                "--uts",
            ])
            .args(["sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"])
            .arg(env!("CARGO_BIN_EXE_voicelane"))
            .args(arguments)
            .args(["--config", &self.path("config.toml")])
            .args(["--runtime-dir", &self.path("run")]);
        command.output().expect("ip is there")
    }

    /// Where the files are.
    pub fn dir(&self) -> &std::path::Path {
        self.files.path()
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(env!("CARGO_BIN_EXE_voicelane"))
            .args(arguments);
        command
    }

    fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    /// The arguments of `run` for this home.
    pub fn run_arguments(&self) -> [String; 5] {
        [
            "run".to_owned(),
            "--config".to_owned(),
            self.path("config.toml"),
            "--runtime-dir".to_owned(),
            self.path("run"),
        ]
    }

    /// Starts the service and returns when it is ready.
    pub fn start(self) -> Voicelane {
        let mut voicelane = self.launch(&[]);
        voicelane.wait_for("ready");
        voicelane
    }

    /// Starts the service in an environment and returns at once.
    pub fn launch(self, environment: &[(&str, &str)]) -> Voicelane {
        let arguments = self.run_arguments();
        let mut command = self.command(&arguments.each_ref().map(String::as_str));
        let program = Program::start("voicelane", command.envs(environment.iter().copied()));
        Voicelane {
            program,
            home: self,
        }
    }

    /// Removes what a killed service left.
    pub fn cleanup(&self) -> Output {
        self.invoke(&["cleanup", "--runtime-dir", &self.path("run")])
    }
}

impl Voicelane {
    /// Starts the service with the lab's configuration and returns when it is ready.
    pub fn start(namespace: &Namespace) -> Self {
        Home::new(namespace, CONFIG).start()
    }

    /// What the service says of itself.
    pub fn status(&self) -> Value {
        let run = self.home.path("run");
        let output = self
            .home
            .invoke(&["status", "--json", "--runtime-dir", &run]);
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|e| {
            let errors = String::from_utf8_lossy(&output.stderr);
            panic!("status: {e}: {text}{errors}")
        })
    }

    /// Waits until the service has logged a text.
    pub fn wait_for(&mut self, text: &str) {
        self.program.wait_for(text);
    }

    /// What happened, as the service tells it.
    pub fn events(&self) -> Vec<Event> {
        let run = self.home.path("run");
        let output = self
            .home
            .invoke(&["events", "--json", "--runtime-dir", &run]);
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap_or_else(|e| {
            let errors = String::from_utf8_lossy(&output.stderr);
            panic!("events: {e}: {text}{errors}")
        })
    }

    /// The number of the newest event.
    pub fn last_event(&self) -> u64 {
        self.events().last().map_or(0, |event| event.sequence)
    }

    /// The number of the newest event, when none has come for a while: what was done before may show in several.
    pub fn last_event_at_rest(&self) -> u64 {
        const REST: Duration = Duration::from_millis(500);
        let deadline = Instant::now() + PATIENCE;
        let mut last = self.last_event();
        loop {
            thread::sleep(REST);
            let now = self.last_event();
            if now == last {
                return last;
            }
            assert!(Instant::now() < deadline, "no rest: {:#?}", self.events());
            last = now;
        }
    }

    /// Waits for an event of this kind with a greater number.
    pub fn event_after(&self, sequence: u64, kind: EventKind) -> Event {
        self.event_naming(sequence, kind, "")
    }

    /// Waits for an event of this kind with a greater number, and with this text in its reason.
    pub fn event_naming(&self, sequence: u64, kind: EventKind, text: &str) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.events();
            let wanted = |event: &&Event| {
                event.sequence > sequence && event.kind == kind && event.reason.contains(text)
            };
            if let Some(event) = events.iter().find(wanted) {
                return event.clone();
            }
            assert!(
                Instant::now() < deadline,
                "no {kind} with {text:?} came: {events:#?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.program.pid()
    }

    /// Where the service keeps its files.
    pub const fn home(&self) -> &Home {
        &self.home
    }

    /// Where the service's configuration is.
    pub fn config_file(&self) -> String {
        self.home.path("config.toml")
    }

    /// Writes another configuration. The service knows nothing of it yet.
    pub fn configure(&self, config: &str) {
        fs::write(self.config_file(), config).expect("it is ours");
    }

    /// Lets the service read its configuration anew.
    pub fn reload(&self) -> Output {
        let run = self.home.path("run");
        self.home.invoke(&["reload", "--runtime-dir", &run])
    }

    /// What the service has dropped for a reason, in a direction (`outbound` or `inbound`).
    pub fn drops(&self, direction: &str, reason: &str) -> u64 {
        let status = self.status();
        status["status"][direction]["drops"][reason]
            .as_u64()
            .unwrap_or(0)
    }

    /// What the service is unhappy with, all sentences in one.
    pub fn warnings(&self) -> String {
        self.status()["status"]["warnings"].to_string()
    }

    /// The memory that the service holds now, in bytes.
    pub fn memory(&self) -> u64 {
        self.program.memory()
    }

    /// Ends the service as an administrator does.
    pub fn stop(self) {
        self.end(Signal::SIGTERM);
    }

    /// Ends the service by a signal that it obeys.
    pub fn end(self, signal: Signal) {
        let status = self.program.end(signal);
        assert!(
            status.success(),
            "voicelane ended on {signal} with {status}"
        );
    }

    /// Ends the service as a fault does; what it leaves is there.
    pub fn kill(self) -> Home {
        self.program.end(Signal::SIGKILL);
        self.home
    }
}
