//! The voicelane program, through its command line.

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

/// The compiled-in Talkdesk policy, and a similar service on IPv6.
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

/// A running service. Its drop kills it.
pub struct Voicelane {
    program: Program,
    home: Home,
}

/// The files of a service, which outlive it.
pub struct Home {
    files: TempDir,
    namespace: String,
}

impl Home {
    /// Creates an empty home with a configuration.
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

    /// Runs a command with configuration and runtime directory, from a shell with its own mounts and host name. `script`
    /// runs the command `"$@"`, and may change it.
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

    /// Returns the directory of the files.
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

    /// Runs `voicelane cleanup` after a killed service.
    pub fn cleanup(&self) -> Output {
        self.invoke(&["cleanup", "--runtime-dir", &self.path("run")])
    }
}

impl Voicelane {
    /// Starts the service with the lab's configuration and returns when it is ready.
    pub fn start(namespace: &Namespace) -> Self {
        Home::new(namespace, CONFIG).start()
    }

    /// Returns the status of the service.
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

    /// Returns the events of the service.
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

    /// Returns the number of the newest event after a quiet time, since one change may cause several events.
    pub fn last_event_when_quiet(&self) -> u64 {
        const REST: Duration = Duration::from_millis(500);
        let deadline = Instant::now() + PATIENCE;
        let mut last = self.last_event();
        loop {
            thread::sleep(REST);
            let now = self.last_event();
            if now == last {
                return last;
            }
            assert!(
                Instant::now() < deadline,
                "no quiet time: {:#?}",
                self.events()
            );
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

    /// Returns the files of the service.
    pub const fn home(&self) -> &Home {
        &self.home
    }

    /// Returns the path of the configuration.
    pub fn config_file(&self) -> String {
        self.home.path("config.toml")
    }

    /// Writes another configuration without a reload.
    pub fn configure(&self, config: &str) {
        fs::write(self.config_file(), config).expect("it is ours");
    }

    /// Reloads the configuration.
    pub fn reload(&self) -> Output {
        let run = self.home.path("run");
        self.home.invoke(&["reload", "--runtime-dir", &run])
    }

    /// Returns the dropped packets of a reason and a direction (`outbound` or `inbound`).
    pub fn drops(&self, direction: &str, reason: &str) -> u64 {
        let status = self.status();
        status["status"][direction]["drops"][reason]
            .as_u64()
            .unwrap_or(0)
    }

    /// Returns the warnings of the service in one text.
    pub fn warnings(&self) -> String {
        self.status()["status"]["warnings"].to_string()
    }

    /// Returns the current memory of the service, in bytes.
    pub fn memory(&self) -> u64 {
        self.program.memory()
    }

    /// Stops the service with SIGTERM.
    pub fn stop(self) {
        self.end(Signal::SIGTERM);
    }

    /// Ends the service with a signal that it handles.
    pub fn end(self, signal: Signal) {
        let status = self.program.end(signal);
        assert!(
            status.success(),
            "voicelane ended on {signal} with {status}"
        );
    }

    /// Kills the service. Its state in the kernel stays.
    pub fn kill(self) -> Home {
        self.program.end(Signal::SIGKILL);
        self.home
    }
}
