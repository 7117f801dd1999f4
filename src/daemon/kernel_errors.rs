//! Errors of the kernel when sending or opening sockets: counts, warnings and remedies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::mem;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::relay::SocketOpenError;

/// Time without an error after which a success ends a warning. Some destinations may fail while others do not.
const QUIET_PERIOD: Duration = Duration::from_secs(10);

/// A failed operation with its error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum KernelError {
    Send(i32),
    Open(i32),
    NoUplink,
}

/// All errors since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelErrors {
    counts: BTreeMap<KernelError, ErrorCount>,
    /// Whether there is a warning. The packet path checks only this.
    has_warnings: bool,
    /// Whether an error looks like a firewall's.
    is_firewall_suspected: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct ErrorCount {
    times: u64,
    /// The time of the last error, while there is a warning.
    last: Option<Instant>,
}

impl KernelErrors {
    /// Records that sending failed.
    pub(super) fn send_refused(&mut self, error: &io::Error, now: Instant) {
        self.record(KernelError::Send(errno(error)), now);
    }

    /// Records that sending succeeded, which ends old warnings about sending.
    pub(super) fn sent(&mut self, now: Instant) {
        self.end_warnings(now, |it| matches!(it, KernelError::Send(_)));
    }

    /// Records that opening a socket failed.
    pub(super) fn open_failed(&mut self, error: &SocketOpenError, now: Instant) {
        let error = match error {
            SocketOpenError::NoUplink => KernelError::NoUplink,
            SocketOpenError::Setup(error) => KernelError::Open(errno(&error.source)),
        };
        self.record(error, now);
    }

    /// Records that a socket was opened, which ends old warnings about opening.
    pub(super) fn opened(&mut self, now: Instant) {
        self.end_warnings(now, |it| !matches!(it, KernelError::Send(_)));
    }

    /// Whether an error looked like a firewall's since the last call.
    pub(super) fn take_firewall_suspicion(&mut self) -> bool {
        mem::take(&mut self.is_firewall_suspected)
    }

    /// Ends all warnings, because the uplink changed.
    pub(super) fn clear_warnings(&mut self) {
        for count in self.counts.values_mut() {
            count.last = None;
        }
        self.has_warnings = false;
    }

    /// The number of errors by label.
    pub(super) fn by_label(&self) -> BTreeMap<String, u64> {
        let counts = self.counts.iter();
        counts
            .map(|(it, count)| (it.label(), count.times))
            .collect()
    }

    /// A warning with its remedy for each current error.
    pub(super) fn warnings(&self) -> BTreeSet<String> {
        let current = self.counts.iter().filter(|(_, count)| count.last.is_some());
        current
            .map(|(it, count)| format!("{it}, count {}. {}", count.times, it.advice()))
            .collect()
    }

    fn record(&mut self, error: KernelError, now: Instant) {
        let count = self.counts.entry(error).or_default();
        count.times += 1;
        count.last = Some(now);
        self.has_warnings = true;
        self.is_firewall_suspected |= error.is_firewall_like();
    }

    /// Ends old warnings about errors of a kind.
    fn end_warnings(&mut self, now: Instant, is_of_kind: impl Fn(&KernelError) -> bool) {
        if !self.has_warnings {
            return;
        }
        for (error, count) in &mut self.counts {
            let is_over = |last: Instant| now.saturating_duration_since(last) >= QUIET_PERIOD;
            count
                .last
                .take_if(|last| is_of_kind(error) && is_over(*last));
        }
        self.has_warnings = self.counts.values().any(|count| count.last.is_some());
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

impl KernelError {
    /// Whether a firewall causes this error.
    fn is_firewall_like(self) -> bool {
        let Self::Send(number) = self else {
            return false;
        };
        matches!(Errno::from_raw(number), Errno::EPERM | Errno::EACCES)
    }

    /// The stable name.
    fn label(self) -> String {
        match self {
            Self::Send(number) => format!("send_{:?}", Errno::from_raw(number)).to_lowercase(),
            Self::Open(number) => format!("open_{:?}", Errno::from_raw(number)).to_lowercase(),
            Self::NoUplink => "open_no_uplink".to_owned(),
        }
    }

    /// The most likely cause, and the remedy.
    fn advice(self) -> &'static str {
        let (Self::Send(number) | Self::Open(number)) = self else {
            return "Media stays in the VPN. Check that the network is connected.";
        };
        match (Errno::from_raw(number), self) {
            (Errno::EPERM | Errno::EACCES, Self::Send(_)) => {
                "A firewall on this machine blocks media, most likely the VPN's kill switch. Ask IT to allow the \
                 policy's prefixes."
            }
            (Errno::EPERM | Errno::EACCES, _) => {
                "The service may not bind to an interface. Run it as root or with CAP_NET_ADMIN and CAP_NET_RAW."
            }
            (Errno::EMFILE, _) => {
                "The service has too many open files. Raise LimitNOFILE, and check with `voicelane mappings` which \
                 program opens so many sockets."
            }
            (Errno::ENFILE, _) => "This machine has too many open files. Raise fs.file-max.",
            (Errno::ENOSPC, _) => "Too many sockets are watched. Raise fs.epoll.max_user_watches.",
            (Errno::EADDRINUSE, _) => {
                "Every port is in use. Widen net.ipv4.ip_local_port_range, and check with `ss -u` which program uses them."
            }
            (Errno::ENETUNREACH | Errno::EHOSTUNREACH, _) => {
                "The uplink has no route. Check its network."
            }
            (Errno::ENOBUFS | Errno::EAGAIN, _) => {
                "The uplink's queue is full: the link is slower than the traffic."
            }
            (Errno::ENOMEM, _) => "This machine is short of memory.",
            (Errno::EADDRNOTAVAIL | Errno::EINVAL, _) => {
                "The uplink's address is gone. Restart voicelane if it does not return."
            }
            (Errno::ENODEV | Errno::ENXIO | Errno::ENETDOWN, _) => {
                "The uplink is gone. Restart voicelane if it does not return."
            }
            _ => "Look up the error number.",
        }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operation, number) = match self {
            Self::Send(number) => ("Sending a packet failed", number),
            Self::Open(number) => ("Opening a socket failed", number),
            Self::NoUplink => return f.write_str("There is no uplink to open a socket on"),
        };
        let errno = Errno::from_raw(*number);
        write!(f, "{operation} with {errno:?} ({})", errno.desc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{SetupStep, SocketSetupError};

    fn failed_open(errno: Errno) -> SocketOpenError {
        SocketOpenError::Setup(SocketSetupError {
            device: "wlan0".to_owned(),
            step: SetupStep::Create,
            source: errno.into(),
        })
    }

    #[test]
    fn each_error_has_a_count_and_a_remedy() {
        let (mut kernel_errors, now) = (KernelErrors::default(), Instant::now());
        let sends = [
            Errno::EPERM,
            Errno::ENOBUFS,
            Errno::ENETUNREACH,
            Errno::EADDRNOTAVAIL,
            Errno::ENODEV,
        ];
        for errno in sends {
            kernel_errors.send_refused(&errno.into(), now);
        }
        kernel_errors.send_refused(&Errno::EPERM.into(), now);
        for errno in [
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::EADDRINUSE,
            Errno::EPERM,
        ] {
            kernel_errors.open_failed(&failed_open(errno), now);
        }
        kernel_errors.open_failed(&SocketOpenError::NoUplink, now);
        let counts = kernel_errors.by_label();
        assert_eq!((counts["send_eperm"], counts["open_emfile"]), (2, 1));
        assert_eq!(counts["open_no_uplink"], 1);
        assert_eq!(counts.len(), 10);

        let warnings = kernel_errors.warnings();
        assert_eq!(warnings.len(), 10);
        let says = |what: &str, todo: &str| {
            let mut lines = warnings.iter();
            lines.any(|line| line.contains(what) && line.contains(todo))
        };
        assert!(says("EMFILE", "LimitNOFILE") && says("ENFILE", "fs.file-max"));
        assert!(says("EPERM (Operation not permitted), count 2", "firewall"));
        assert!(!warnings.iter().any(|line| line.contains("Look up")));
    }

    #[test]
    fn a_firewall_is_suspected_only_for_its_errors() {
        let (mut kernel_errors, start) = (KernelErrors::default(), Instant::now());
        kernel_errors.open_failed(&failed_open(Errno::EPERM), start);
        kernel_errors.send_refused(&Errno::ENETUNREACH.into(), start);
        assert!(!kernel_errors.take_firewall_suspicion());
        kernel_errors.send_refused(&Errno::EPERM.into(), start);
        assert!(kernel_errors.take_firewall_suspicion());
        assert!(!kernel_errors.take_firewall_suspicion(), "it was taken");
    }

    #[test]
    fn a_new_uplink_ends_the_warnings_and_keeps_the_counts() {
        let mut kernel_errors = KernelErrors::default();
        kernel_errors.send_refused(&Errno::ENETDOWN.into(), Instant::now());
        kernel_errors.clear_warnings();
        assert!(kernel_errors.warnings().is_empty());
        assert_eq!(kernel_errors.by_label()["send_enetdown"], 1);
    }

    #[test]
    fn success_ends_the_warnings_of_its_kind_after_a_quiet_period() {
        let (mut kernel_errors, start) = (KernelErrors::default(), Instant::now());
        let warned = |kernel_errors: &KernelErrors| kernel_errors.warnings().len();
        kernel_errors.send_refused(&Errno::EPERM.into(), start);
        kernel_errors.open_failed(&failed_open(Errno::EMFILE), start);
        kernel_errors.sent(start + QUIET_PERIOD / 2);
        assert_eq!(warned(&kernel_errors), 2, "others may still be refused");
        kernel_errors.send_refused(&Errno::EPERM.into(), start + QUIET_PERIOD / 2);
        kernel_errors.sent(start + QUIET_PERIOD);
        assert_eq!(warned(&kernel_errors), 2, "one of them was");
        kernel_errors.sent(start + QUIET_PERIOD * 3 / 2);
        assert_eq!(warned(&kernel_errors), 1, "a socket was not opened yet");
        kernel_errors.opened(start + QUIET_PERIOD * 3 / 2);
        assert_eq!(warned(&kernel_errors), 0);
        assert_eq!(kernel_errors.by_label()["send_eperm"], 2);
        kernel_errors.send_refused(&Errno::EPERM.into(), start + QUIET_PERIOD * 2);
        assert_eq!(warned(&kernel_errors), 1, "it is back");
    }
}
