//! The log: into the journal, with fields, if standard error is connected to it; else to standard error.

use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The prefix of journal fields: `VOICELANE_EVENT`.
const FIELD_PREFIX: &str = "VOICELANE";

/// Starts to log messages of `level` and above.
pub(super) fn start(level: Level) {
    let journal = is_journal(&io::stderr())
        .then(tracing_journald::layer)
        .and_then(Result::ok)
        .map(|journal| journal.with_field_prefix(Some(FIELD_PREFIX.to_owned())));
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

/// Returns whether systemd has connected a stream to the journal (`JOURNAL_STREAM`, systemd.exec(5)). A shell may have
/// redirected it since.
fn is_journal(stream: &impl AsFd) -> bool {
    let (Ok(journal), Ok(stream)) = (env::var("JOURNAL_STREAM"), fstat(stream)) else {
        return false;
    };
    journal == format!("{}:{}", stream.st_dev, stream.st_ino)
}
