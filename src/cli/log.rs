//! Where log lines go: with their fields into the journal when standard error is connected to it, else to standard
//! error.

use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What the journal puts before the names of our fields, so that they are no one else's: `VOICELANE_UPLINK`.
const FIELDS: &str = "VOICELANE";

/// Begins to log, down to `level`.
pub(super) fn begin(level: Level) {
    let journal = is_journal(&io::stderr())
        .then(tracing_journald::layer)
        .and_then(Result::ok)
        .map(|journal| journal.with_field_prefix(Some(FIELDS.to_owned())));
    let lines = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
    });
    tracing_subscriber::registry()
        .with(LevelFilter::from_level(level))
        .with(journal)
        .with(lines)
        .init();
}

/// Whether a stream is the one that the service manager has connected to the journal (`JOURNAL_STREAM`,
/// systemd.exec(5)); a shell that a service runs may have redirected it.
fn is_journal(stream: &impl AsFd) -> bool {
    let (Ok(journal), Ok(stream)) = (env::var("JOURNAL_STREAM"), fstat(stream)) else {
        return false;
    };
    journal == format!("{}:{}", stream.st_dev, stream.st_ino)
}
