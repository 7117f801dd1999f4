//! Progress on standard error: a bar on a terminal, lines elsewhere.

use std::io::{self, IsTerminal as _};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::media::DemoCall;

const REFRESH: Duration = Duration::from_millis(100);
/// The interval between lines.
const PLAIN: Duration = Duration::from_secs(2);

/// Prints a text on standard error.
pub(super) fn say(what: &str) {
    eprintln!("{what}");
}

/// Lets calls continue for `time` and shows their round-trip times.
pub(super) fn listen(what: &str, calls: &[DemoCall], time: Duration) {
    let started = Instant::now();
    let bar = io::stderr().is_terminal().then(|| bar(what, time));
    let mut next_line = PLAIN;
    while started.elapsed() < time {
        thread::sleep(REFRESH.min(time.saturating_sub(started.elapsed())));
        let elapsed = started.elapsed();
        let status = status(calls);
        if let Some(bar) = &bar {
            bar.set_position(u64::try_from(elapsed.min(time).as_millis()).unwrap_or(u64::MAX));
            bar.set_message(status);
        } else if elapsed >= next_line {
            eprintln!("{what}: {} s, {status}", elapsed.as_secs());
            next_line += PLAIN;
        }
    }
    if let Some(bar) = bar {
        bar.finish();
    }
}

fn bar(what: &str, time: Duration) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<28} {bar:24.green}  {msg}")
        .expect("a template that is a constant")
        .progress_chars("━━┄");
    let length = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    ProgressBar::new(length)
        .with_style(style)
        .with_prefix(what.to_owned())
}

/// Returns the latest round-trip time of each call.
fn status(calls: &[DemoCall]) -> String {
    let one = |call: &DemoCall| {
        let family = call.family;
        match call.latest_round_trip() {
            Some(time) => format!("{family} {:5.1} ms", time.as_secs_f64() * 1e3),
            None => format!("{family} no answer"),
        }
    };
    let calls: Vec<_> = calls.iter().map(one).collect();
    format!("round trip {}", calls.join(", "))
}
