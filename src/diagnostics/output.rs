//! The output of other programs, for a bug report.

use std::fmt::Write;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// The longest time that a program may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The largest output of a program in bytes.
const MAX_LEN: u64 = 2 << 20;

/// Runs programs one after the other and returns their outputs, each below its command line. A program that is missing,
/// fails or hangs is said to.
#[must_use]
pub(crate) fn outputs(commands: &[&[&str]]) -> String {
    let mut out = String::new();
    for command in commands {
        let line = command.join(" ");
        let text =
            output(command, TIME_LIMIT).unwrap_or_else(|error| format!("not available: {error}\n"));
        writeln!(out, "$ {line}\n{}\n", text.trim_end()).expect("a string takes everything");
    }
    out
}

/// Runs a program and returns what it prints, with its errors at the end.
fn output(command: &[&str], time_limit: Duration) -> io::Result<String> {
    let (program, arguments) = command.split_first().expect("a program");
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pipes: [Box<dyn Read + Send>; 2] = [
        Box::new(child.stdout.take().expect("it is a pipe")),
        Box::new(child.stderr.take().expect("it is a pipe")),
    ];
    let (sender, texts) = channel();
    for (index, pipe) in pipes.into_iter().enumerate() {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = pipe.take(MAX_LEN).read_to_end(&mut bytes);
            // The receiver is gone after the time limit.
            let _ = sender.send((index, bytes, read.is_ok()));
        });
    }
    drop(sender);
    let end = std::time::Instant::now() + time_limit;
    let mut parts = [String::new(), String::new()];
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        match texts.recv_timeout(left) {
            Ok((index, bytes, _)) => parts[index] = String::from_utf8_lossy(&bytes).into_owned(),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                parts[1].push_str("it did not end in time and was stopped\n");
                break;
            }
        }
    }
    // A program that waits for a full pipe ends as well.
    let _ = child.kill();
    child.wait()?;
    Ok(parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_fails_or_hangs_is_said_to() {
        let text = outputs(&[
            &["sh", "-c", "echo out; echo err >&2; exit 3"],
            &["/nonexistent/program"],
        ]);
        assert!(
            text.contains("$ sh -c") && text.contains("\nout\nerr\n"),
            "{text}"
        );
        assert!(
            text.contains("$ /nonexistent/program\nnot available: "),
            "{text}"
        );
        let hangs = output(&["sleep", "60"], Duration::from_millis(50)).expect("it starts");
        assert!(hangs.contains("did not end in time"), "{hangs}");
        let endless = output(&["yes"], TIME_LIMIT).expect("it starts");
        assert_eq!(endless.len() as u64, MAX_LEN);
    }
}
