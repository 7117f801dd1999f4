//! The exit codes of every command, for the program and for its man pages.

use std::process::ExitCode;

use serde_json::json;

use crate::control::{AskError, State};
use crate::doctor::CheckVerdict;

/// The command line or the configuration has errors.
pub(super) const INVALID: u8 = 2;

/// The service does not run.
pub(super) const NOT_RUNNING: u8 = 3;

/// No permission, or the service does not answer.
const NO_PERMISSION: u8 = 4;

/// Exit codes and their meanings.
type Codes = &'static [(u8, &'static str)];

const SUCCESS: (u8, &str) = (0, "Success.");
const FAILURE: (u8, &str) = (1, "The command failed. The reason is on standard error.");
const ERRORS: (u8, &str) = (
    INVALID,
    "The command line or the configuration has errors. Nothing was changed.",
);
const STOPPED: (u8, &str) = (NOT_RUNNING, "The service is not running.");
const DENIED: (u8, &str) = (
    NO_PERMISSION,
    "No permission, or the service does not answer.",
);

/// Commands with special codes. All other commands have [`COMMON`].
const TABLE: &[(&str, Codes)] = &[
    (
        "status",
        &[
            (0, "Working: all media leaves through an uplink."),
            (
                1,
                "Degraded: a family or a call is in the VPN, or there are warnings.",
            ),
            (
                2,
                "Not working: no media leaves through an uplink. Also: the command line has errors.",
            ),
            STOPPED,
            DENIED,
        ],
    ),
    (
        "explain",
        &[
            (0, "It leaves directly. With --policy: success."),
            (1, "It is in a VPN. Of several addresses: at least one."),
            (
                2,
                "The command line or the configuration has errors, or the path was not measured.",
            ),
            (
                3,
                "Elsewhere: neither directly through the service nor in a VPN.",
            ),
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
    ("mappings", &[SUCCESS, FAILURE, ERRORS, STOPPED, DENIED]),
    ("capture", &[SUCCESS, FAILURE, ERRORS, STOPPED, DENIED]),
    ("events", &[SUCCESS, FAILURE, ERRORS, DENIED]),
    (
        "reload",
        &[
            (
                0,
                "Reloaded: media leaves through an uplink, or will after a pause.",
            ),
            (
                1,
                "Reloaded, but no media leaves through an uplink. Also: the command failed.",
            ),
            (
                2,
                "Not reloaded: the configuration or the command line has errors.",
            ),
            STOPPED,
            DENIED,
        ],
    ),
    ("pause", &[SUCCESS, FAILURE, ERRORS, STOPPED, DENIED]),
    ("resume", &[SUCCESS, FAILURE, ERRORS, STOPPED, DENIED]),
    ("run", &[SUCCESS, FAILURE, ERRORS, DENIED]),
    ("cleanup", &[SUCCESS, FAILURE, ERRORS, DENIED]),
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

/// Returns the exit codes of a command as the last lines of its help.
pub(super) fn help(command: &str) -> String {
    let lines = exit_codes(command).iter();
    let lines: Vec<_> = lines
        .map(|(code, meaning)| format!("  {code}  {meaning}"))
        .collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}

/// A command needs privileges that this process does not have.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` needs root or CAP_NET_ADMIN. Run: sudo voicelane {0}")]
pub(super) struct NoPermission(pub(super) String);

/// Returns the exit code of a command that failed.
pub(super) fn of_error(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<AskError>() {
        Some(error) => of_ask_error(error),
        None if error.is::<NoPermission>() => NO_PERMISSION,
        None => 1,
    }
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

/// Prints an error: as JSON on standard output, or on standard error. Returns the exit code.
pub(super) fn report_text(text: &str, code: u8, json: bool) -> ExitCode {
    if json {
        let error = json!({ "version": 1, "error": { "code": code, "text": text } });
        // A closed pipe has nobody to tell.
        let _ = super::print(&format!("{error}\n"));
    } else {
        complain!("voicelane: {text}");
    }
    ExitCode::from(code)
}

/// Prints why the service does not answer, as JSON on standard output or on standard error. Returns the exit code.
pub(super) fn report(error: &AskError, json: bool) -> ExitCode {
    report_text(&sentence(error), of_ask_error(error), json)
}

/// Returns an error of the service with its cause as a sentence.
pub(super) fn sentence(error: &AskError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Returns the exit code of a request that failed.
pub(super) fn of_ask_error(error: &AskError) -> u8 {
    match error {
        AskError::NotRunning(_) => NOT_RUNNING,
        _ => NO_PERMISSION,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn permission_has_one_code_and_no_sentence_names_the_program_twice() {
        let denied = || AskError::Denied(PathBuf::from("/run/voicelane/control.sock"));
        assert_eq!(of_error(&denied().into()), NO_PERMISSION);
        let cleanup = NoPermission("cleanup".to_owned());
        assert_eq!(of_error(&cleanup.into()), NO_PERMISSION);
        let stopped = || AskError::NotRunning(PathBuf::from("/run/voicelane/control.sock"));
        assert_eq!(of_error(&stopped().into()), NOT_RUNNING);
        for error in [denied(), stopped()] {
            assert!(!sentence(&error).starts_with("voicelane"), "{error}");
        }
        for (command, codes) in TABLE {
            let help = help(command);
            assert_eq!(help.lines().count(), codes.len() + 1, "{help}");
        }
    }
}
