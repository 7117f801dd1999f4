//! A program that runs during a test. The guard keeps its output and ends it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time limit of one step of a program.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(
            Instant::now() < deadline,
            "{what}: the condition does not hold"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// A running program.
pub struct Program {
    name: String,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Program {
    /// Starts the program and records its output.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let log = Arc::new(Mutex::new(String::new()));
        let stdout: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("it is piped"));
        let stderr: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("it is piped"));
        for stream in [stdout, stderr] {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    log.lock().expect("no reader panics").extend([&*line, "\n"]);
                }
            });
        }
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// Returns all lines so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no reader panics").clone()
    }

    /// Waits until the program has printed `text`.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().expect("it is our child");
            let log = self.log();
            if log.contains(text) {
                return;
            }
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{} did not say {text:?} ({ended:?}):\n{log}",
                self.name
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal and waits for the end.
    pub fn end(mut self, signal: Signal) -> ExitStatus {
        kill(self.pid(), signal).expect("it is our child");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                if !status.success() {
                    eprintln!("--- {} ended with {status}:\n{}", self.name, self.log());
                }
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not end on {signal}:\n{}",
                self.name,
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are positive i32"))
    }

    /// Returns the current memory of the program, in bytes.
    pub fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("the program runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("every process has memory");
        let kib = line.trim().trim_end_matches(" kB");
        kib.parse::<u64>().expect("the kernel writes a number") * 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only if the program has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name, self.log());
        }
    }
}
