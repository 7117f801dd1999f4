//! What the kernel refused, how often, and what to do about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::mem;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::relay::SocketOpenError;

/// How long nothing may have been refused before a success ends a warning. Some destinations may be refused while others
/// are not: shorter, and the warning would come and go.
const QUIET: Duration = Duration::from_secs(10);

/// What was refused, and for which reason: the kernel's number. There are no more of these than numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Send(i32),
    Open(i32),
    NoUplink,
}

/// All refusals since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelErrors {
    seen: BTreeMap<Trouble, Tally>,
    /// Whether there is anything to be warned of: the packet path looks at this alone.
    are_current: bool,
    /// A firewall is to be asked about.
    is_suspicious: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    times: u64,
    /// When it was last refused, until that is over.
    current: Option<Instant>,
}

impl KernelErrors {
    /// The kernel refused to send a datagram.
    pub(super) fn send_refused(&mut self, error: &io::Error, now: Instant) {
        self.note(Trouble::Send(number(error)), now);
    }

    /// The kernel sent a datagram: what it refused a while ago, it refuses no longer.
    pub(super) fn sent(&mut self, now: Instant) {
        self.end(now, |it| matches!(it, Trouble::Send(_)));
    }

    /// The kernel refused to open a socket.
    pub(super) fn open_failed(&mut self, error: &SocketOpenError, now: Instant) {
        let trouble = match error {
            SocketOpenError::NoUplink => Trouble::NoUplink,
            SocketOpenError::Setup(error) => Trouble::Open(number(&error.source)),
        };
        self.note(trouble, now);
    }

    /// The kernel opened a socket, likewise.
    pub(super) fn opened(&mut self, now: Instant) {
        self.end(now, |it| !matches!(it, Trouble::Send(_)));
    }

    /// Whether anything was refused as a firewall refuses it since this was last asked.
    pub(super) fn take_suspicion(&mut self) -> bool {
        mem::take(&mut self.is_suspicious)
    }

    /// There is another uplink: what the old one refused is no reason for a warning any more.
    pub(super) fn forgive(&mut self) {
        for tally in self.seen.values_mut() {
            tally.current = None;
        }
        self.are_current = false;
    }

    /// How often what was refused, by name.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        let seen = self.seen.iter();
        seen.map(|(it, tally)| (it.label(), tally.times)).collect()
    }

    /// A sentence for each current trouble, with what to do.
    pub(super) fn warnings(&self) -> BTreeSet<String> {
        let current = self
            .seen
            .iter()
            .filter(|(_, tally)| tally.current.is_some());
        current
            .map(|(it, tally)| format!("{it}, count {}. {}", tally.times, it.advice()))
            .collect()
    }

    fn note(&mut self, trouble: Trouble, now: Instant) {
        let tally = self.seen.entry(trouble).or_default();
        tally.times += 1;
        tally.current = Some(now);
        self.are_current = true;
        self.is_suspicious |= trouble.is_of_a_firewall();
    }

    /// Ends what is of a kind and was last refused long enough ago.
    fn end(&mut self, now: Instant, is_meant: impl Fn(&Trouble) -> bool) {
        if !self.are_current {
            return;
        }
        for (trouble, tally) in &mut self.seen {
            let is_over = |last: Instant| now.saturating_duration_since(last) >= QUIET;
            tally
                .current
                .take_if(|last| is_meant(trouble) && is_over(*last));
        }
        self.are_current = self.seen.values().any(|tally| tally.current.is_some());
    }
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

impl Trouble {
    /// Whether this is what a firewall does.
    fn is_of_a_firewall(self) -> bool {
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

impl fmt::Display for Trouble {
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

    fn refused_socket(errno: Errno) -> SocketOpenError {
        SocketOpenError::Setup(SocketSetupError {
            device: "wlan0".to_owned(),
            step: SetupStep::Create,
            source: errno.into(),
        })
    }

    #[test]
    fn every_reason_is_counted_by_itself_and_says_what_to_do() {
        let (mut troubles, now) = (KernelErrors::default(), Instant::now());
        let sends = [
            Errno::EPERM,
            Errno::ENOBUFS,
            Errno::ENETUNREACH,
            Errno::EADDRNOTAVAIL,
            Errno::ENODEV,
        ];
        for errno in sends {
            troubles.send_refused(&errno.into(), now);
        }
        troubles.send_refused(&Errno::EPERM.into(), now);
        for errno in [
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::EADDRINUSE,
            Errno::EPERM,
        ] {
            troubles.open_failed(&refused_socket(errno), now);
        }
        troubles.open_failed(&SocketOpenError::NoUplink, now);
        let counts = troubles.counts();
        assert_eq!((counts["send_eperm"], counts["open_emfile"]), (2, 1));
        assert_eq!(counts["open_no_uplink"], 1);
        assert_eq!(counts.len(), 10);

        let warnings = troubles.warnings();
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
    fn a_firewall_is_suspected_of_what_firewalls_do() {
        let (mut troubles, start) = (KernelErrors::default(), Instant::now());
        troubles.open_failed(&refused_socket(Errno::EPERM), start);
        troubles.send_refused(&Errno::ENETUNREACH.into(), start);
        assert!(!troubles.take_suspicion());
        troubles.send_refused(&Errno::EPERM.into(), start);
        assert!(troubles.take_suspicion());
        assert!(!troubles.take_suspicion(), "it was told");
    }

    #[test]
    fn another_uplink_ends_the_warnings_and_no_count() {
        let mut troubles = KernelErrors::default();
        troubles.send_refused(&Errno::ENETDOWN.into(), Instant::now());
        troubles.forgive();
        assert!(troubles.warnings().is_empty());
        assert_eq!(troubles.counts()["send_enetdown"], 1);
    }

    #[test]
    fn success_ends_the_warnings_of_its_kind_after_a_while() {
        let (mut troubles, start) = (KernelErrors::default(), Instant::now());
        let warned = |troubles: &KernelErrors| troubles.warnings().len();
        troubles.send_refused(&Errno::EPERM.into(), start);
        troubles.open_failed(&refused_socket(Errno::EMFILE), start);
        troubles.sent(start + QUIET / 2);
        assert_eq!(warned(&troubles), 2, "others may still be refused");
        troubles.send_refused(&Errno::EPERM.into(), start + QUIET / 2);
        troubles.sent(start + QUIET);
        assert_eq!(warned(&troubles), 2, "one of them was");
        troubles.sent(start + QUIET * 3 / 2);
        assert_eq!(warned(&troubles), 1, "a socket was not opened yet");
        troubles.opened(start + QUIET * 3 / 2);
        assert_eq!(warned(&troubles), 0);
        assert_eq!(troubles.counts()["send_eperm"], 2);
        troubles.send_refused(&Errno::EPERM.into(), start + QUIET * 2);
        assert_eq!(warned(&troubles), 1, "it is back");
    }
}
