//! The exit codes of every command, for the program and for its man pages.

use std::process::ExitCode;

use crate::control::{AskError, State};
use crate::doctor::CheckVerdict;

/// The command line or the configuration has errors.
pub(super) const INVALID: u8 = 2;

/// The service does not run.
pub(super) const NOT_RUNNING: u8 = 3;

/// The service runs, but gives no status.
const NO_STATUS: u8 = 4;

/// Exit codes and their meanings.
type Codes = &'static [(u8, &'static str)];

const SUCCESS: (u8, &str) = (0, "Success.");
const FAILURE: (u8, &str) = (1, "The command failed. The reason is on standard error.");
const ERRORS: (u8, &str) = (
    INVALID,
    "The command line or the configuration has errors. Nothing was changed.",
);
const STOPPED: (u8, &str) = (NOT_RUNNING, "The service is not running.");
const UNAVAILABLE: (u8, &str) = (
    NO_STATUS,
    "The service gives no status: no permission, or the service is busy.",
);

/// Commands with special codes. All other commands have [`COMMON`].
const TABLE: &[(&str, Codes)] = &[
    (
        "status",
        &[
            (0, "Working: media leaves through the uplink."),
            (
                1,
                "Degraded: media leaves through the uplink, and there are warnings.",
            ),
            (
                2,
                "Not working: all media is in the VPN. Also: the command line has errors.",
            ),
            STOPPED,
            UNAVAILABLE,
        ],
    ),
    (
        "doctor",
        &[
            (
                0,
                "No fault and no warning. Checks that were not possible do not count.",
            ),
            (1, "Warnings. Also: the command failed."),
            (2, "Faults. Also: the command line has errors."),
        ],
    ),
    (
        "mappings",
        &[SUCCESS, FAILURE, ERRORS, STOPPED, UNAVAILABLE],
    ),
    ("pause", &[SUCCESS, FAILURE, ERRORS, STOPPED, UNAVAILABLE]),
    ("resume", &[SUCCESS, FAILURE, ERRORS, STOPPED, UNAVAILABLE]),
    ("capture", &[SUCCESS, FAILURE, ERRORS, STOPPED, UNAVAILABLE]),
    ("reload", &[SUCCESS, FAILURE, ERRORS, STOPPED]),
    (
        "demo",
        &[
            (0, "Every measurement is as expected."),
            (1, "A measurement is not as expected, or the demo failed."),
            (2, "The command line has errors."),
            (
                3,
                "The system does not permit the namespaces that the demo needs.",
            ),
        ],
    ),
];

const COMMON: Codes = &[SUCCESS, FAILURE, ERRORS];

/// Returns the exit codes of a command and their meanings.
#[must_use]
pub fn exit_codes(command: &str) -> Codes {
    let own = TABLE.iter().find(|(name, _)| *name == command);
    own.map_or(COMMON, |(_, codes)| codes)
}

/// Returns the exit code of `status` for a state of the service.
pub(super) fn of_state(state: State) -> ExitCode {
    ExitCode::from(match state {
        State::Working => 0,
        State::Degraded => 1,
        State::NotWorking => 2,
    })
}

/// Returns the exit code of `doctor` for its verdict.
pub(super) fn of_verdict(verdict: CheckVerdict) -> ExitCode {
    ExitCode::from(match verdict {
        CheckVerdict::Ok | CheckVerdict::Unknown => 0,
        CheckVerdict::Warning => 1,
        CheckVerdict::Fault => 2,
    })
}

/// Prints on standard error why the service gives no status, and returns the exit code.
pub(super) fn report(error: &AskError) -> ExitCode {
    match std::error::Error::source(error) {
        Some(source) => eprintln!("voicelane: {error}: {source}"),
        None => eprintln!("voicelane: {error}"),
    }
    of_ask_error(error)
}

/// Returns output and exit code of a service that gives no status. With `--watch` the screen shows the error.
pub(super) fn unavailable(error: &AskError, is_on_screen: bool) -> (String, ExitCode) {
    if is_on_screen {
        return (format!("{error}\n"), of_ask_error(error));
    }
    (String::new(), report(error))
}

fn of_ask_error(error: &AskError) -> ExitCode {
    ExitCode::from(match error {
        AskError::NotRunning(_) => NOT_RUNNING,
        _ => NO_STATUS,
    })
}
