//! State and warnings as events: an event is recorded when the state changes, and when a warning starts or ends.

use std::collections::BTreeMap;

use crate::control::{EventKind, State, Status};

use super::events::EventLog;

/// The state and the warnings at the last check, the warnings by their text without figures.
#[derive(Debug, Default)]
pub(super) struct Health {
    state: State,
    /// Whether the service has ever worked: the event for the first time is `ready`.
    has_worked: bool,
    warnings: BTreeMap<String, String>,
}

impl Health {
    /// Records the differences from the last check.
    pub(super) fn update(&mut self, status: &Status, events: &EventLog) {
        let is_start = status.state == State::Working && !self.has_worked;
        self.has_worked |= is_start;
        if status.state != self.state && !is_start {
            let reason = format!("previously {}", self.state.name());
            events.record(EventKind::StateChanged, status.state.name(), reason);
        }
        let current = status.warnings.iter();
        let current: BTreeMap<_, _> = current
            .map(|it| (without_figures(it), it.clone()))
            .collect();
        for (key, warning) in &current {
            if !self.warnings.contains_key(key) {
                events.record(EventKind::WarningStarted, "warning", warning);
            }
        }
        for (key, warning) in &self.warnings {
            if !current.contains_key(key) {
                events.record(EventKind::WarningEnded, "warning", warning);
            }
        }
        (self.state, self.warnings) = (status.state, current);
    }
}

/// A warning whose count grows is the same warning.
fn without_figures(warning: &str) -> String {
    warning.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_recorded_once() {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let (events, mut health) = (EventLog::open(dir.path()), Health::default());
        let mut update = |state, warnings: &[&str]| {
            let last = events.after(u64::MAX).last_sequence;
            let warnings = warnings.iter().map(|it| (*it).to_owned()).collect();
            let status = Status {
                state,
                warnings,
                ..Status::default()
            };
            health.update(&status, &events);
            let events = events.after(last).events.into_iter();
            events
                .map(|it| format!("{} {}: {}", it.kind, it.subject, it.reason))
                .collect::<Vec<_>>()
        };
        assert_eq!(update(State::NotWorking, &[]), [""; 0]);
        assert_eq!(
            update(State::Degraded, &["Sending failed, count 2."]),
            [
                "state_changed degraded: previously not_working",
                "warning_started warning: Sending failed, count 2.",
            ]
        );
        assert_eq!(
            update(State::Degraded, &["Sending failed, count 31."]),
            [""; 0]
        );
        assert_eq!(
            update(State::Working, &[]),
            ["warning_ended warning: Sending failed, count 31."],
            "`ready` tells of the first time"
        );
        assert_eq!(
            update(State::NotWorking, &[]),
            ["state_changed not_working: previously working"]
        );
        assert_eq!(
            update(State::Working, &[]),
            ["state_changed working: previously not_working"]
        );
    }
}
