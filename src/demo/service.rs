//! The voicelane service as a user would start it on the laptop: this program, as a process of its own.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::world::{MEDIA_PREFIX_V6, World};

/// How long the service may take to be ready.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many of the last lines of its log an error quotes.
const LAST_WORDS: usize = 8;

/// A running `voicelane run`.
pub(super) struct Service {
    child: Child,
    log: mpsc::Receiver<String>,
    said: Vec<String>,
}

impl Service {
    /// Starts the service on the laptop and waits until it says that it is ready.
    ///
    /// # Errors
    /// It does not start, ends, or is not ready in time; the end of its log is in the error.
    pub(super) fn start(world: &World) -> anyhow::Result<Self> {
        let directory = std::env::temp_dir().join("voicelane");
        let config = directory.join("config.toml");
        fs::create_dir(&directory)?;
        fs::write(&config, policy())?;
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--log", "info", "run", "--config"])
            .arg(config);
        command.arg("--runtime-dir").arg(directory.join("run"));
        command.current_dir("/").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        die_with_parent(&mut command);
        let mut child = world
            .laptop
            .enter(move || command.spawn())
            .context("cannot start voicelane")?;
        let stderr = child.stderr.take().expect("piped just above");
        let mut service = Self {
            child,
            log: lines_of(stderr),
            said: Vec::new(),
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match service.log.recv_timeout(left) {
                Ok(line) => {
                    let ready = says_ready(&line);
                    service.said.push(line);
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

    /// Kills the service as a crash would: without a chance to clean up. Gives the moment.
    ///
    /// # Errors
    /// It had ended by itself before; the end of its log is in the error.
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
        self.said.extend(self.log.try_iter());
        let words = &self.said[self.said.len().saturating_sub(LAST_WORDS)..];
        format!("voicelane {how}; it said:\n    {}", words.join("\n    "))
    }
}

/// Reads a log to its end, so that its writer never waits for room in the pipe.
fn lines_of(stderr: ChildStderr) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

impl Drop for Service {
    fn drop(&mut self) {
        // Both fail when the process is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Talkdesk's policy, and the IPv6 cloud of this world.
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

/// Whether a line of the log has the word "ready".
fn says_ready(line: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric())
        .any(|word| word == "ready")
}

/// Has the kernel kill the process when the thread ends that starts it.
#[expect(
    unsafe_code,
    reason = "the standard library has no safe way to do this between fork and exec"
)]
fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl is a bare system call, and neither
    // it nor the conversion of its error number allocates.
    unsafe {
        command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_a_word_of_its_own() {
        assert!(says_ready(
            "2026-01-01T00:00:00Z  INFO voicelane: ready uplink=eth0"
        ));
        assert!(says_ready(
            "\u{1b}[32m INFO\u{1b}[0m ready: capture is in force"
        ));
        assert!(!says_ready("INFO the address is already there"));
    }
}
