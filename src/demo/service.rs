//! The voicelane service on the demo's laptop: this program, in a process of its own.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::network::{DemoNetwork, MEDIA_PREFIX_V6};
use crate::config::Config;
use crate::daemon::{self, LoadedConfig, Options};

/// The longest start of the service.
const START_LIMIT: Duration = Duration::from_secs(10);
/// The number of log lines in an error.
const LOG_LINES: usize = 8;

/// A running service.
pub(super) struct DemoService {
    child: Child,
    log: mpsc::Receiver<String>,
    lines: Vec<String>,
}

/// Runs the service with the demo's policy until it is killed.
///
/// The policy is compiled in, so the service reads no file and needs to trust none. In a user namespace it could not:
/// files of root and of any other user have the same owner there.
///
/// # Errors
/// The service cannot start.
pub(super) fn run(runtime_dir: &Path) -> anyhow::Result<()> {
    let loaded = || {
        Config::parse("demo", &policy()).map(|config| LoadedConfig {
            config,
            documents: Vec::new(),
        })
    };
    let options = Options {
        state_dir: None,
        runtime_dir: runtime_dir.to_owned(),
        last_good: None,
        start_error: None,
    };
    daemon::run(&loaded()?, &options, move || Ok(loaded()?))
}

impl DemoService {
    /// Starts the service on the laptop and waits until it is ready.
    ///
    /// # Errors
    /// The service does not start, ends, or is not ready in time. The error quotes the end of its log.
    pub(super) fn start(network: &DemoNetwork) -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join("voicelane");
        fs::create_dir(&directory)?;
        let mut command = Command::new("/proc/self/exe");
        command.args(["--log", "info", "demo", "--service"]);
        command.arg(directory.join("run"));
        command.current_dir("/").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        enter_and_die_with_parent(&mut command, network.laptop.handle().try_clone()?);
        let mut child = command.spawn().context("cannot start voicelane")?;
        let stderr = child.stderr.take().expect("stderr is piped");
        let mut service = Self {
            child,
            log: lines_of(stderr),
            lines: Vec::new(),
        };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match service.log.recv_timeout(left) {
                Ok(line) => {
                    let ready = says_ready(&line);
                    service.lines.push(line);
                    if ready {
                        return Ok(service);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!(service.failed("was not ready in time")),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!(service.failed("ended before it was ready"))
                }
            }
        }
    }

    /// Kills the service without a chance to clean up, and returns the time.
    ///
    /// # Errors
    /// The service has ended before. The error quotes the end of its log.
    pub(super) fn kill(&mut self) -> anyhow::Result<Instant> {
        if let Some(status) = self.child.try_wait()? {
            bail!(self.failed(&format!("ended by itself ({status})")));
        }
        let killed = Instant::now();
        self.child.kill()?;
        self.child.wait()?;
        Ok(killed)
    }

    fn failed(&mut self, how: &str) -> String {
        self.lines.extend(self.log.try_iter());
        let last = &self.lines[self.lines.len().saturating_sub(LOG_LINES)..];
        format!(
            "the voicelane service {how}. Its last log lines:\n    {}",
            last.join("\n    ")
        )
    }
}

/// Reads a log to its end, so that the pipe never blocks its writer.
fn lines_of(stderr: ChildStderr) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

impl Drop for DemoService {
    fn drop(&mut self) {
        // Both fail when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns Talkdesk's policy with the demo's IPv6 media cloud.
fn policy() -> String {
    format!(
        r#"version = 1
include = ["talkdesk"]

[[service]]
name = "demo-media-v6"
description = "The media cloud of `voicelane demo`, in IPv6 documentation space"
role = "media"
protocol = "udp"
prefixes = ["{MEDIA_PREFIX_V6}"]
ports = ["3478", "10000-60000"]
dscp = "EF"
allow_special_purpose = true
"#
    )
}

/// Returns whether a log line has the word "ready".
fn says_ready(line: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric())
        .any(|word| word == "ready")
}

/// Starts the command in a network namespace. The kernel kills it when the calling thread ends.
#[expect(
    unsafe_code,
    reason = "the standard library has no safe way to do this between fork and exec"
)]
fn enter_and_die_with_parent(command: &mut Command, namespace: fs::File) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. setns and prctl are bare system calls, and
    // neither they nor the conversion of their error numbers allocate.
    unsafe {
        command.pre_exec(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_a_separate_word() {
        assert!(says_ready(
            "2026-01-01T00:00:00Z  INFO voicelane: ready uplink=eth0"
        ));
        assert!(says_ready(
            "\u{1b}[32m INFO\u{1b}[0m ready: capture is in force"
        ));
        assert!(!says_ready("INFO the address is already there"));
    }

    #[test]
    fn the_policy_is_valid() {
        Config::parse("demo", &policy()).expect("no faults");
    }
}
