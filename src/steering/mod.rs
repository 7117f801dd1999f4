//! Rules, routes and settings of the kernel: what we want, what is there, what to change.
//!
//! # Theory of operation
//!
//! **Capture.** One table per protocol and port range holds the range's prefixes as routes into our TUN, and one rule
//! per table asks it: `iif lo ipproto udp dport 10000-60000 lookup 30317`. Rules grow with port ranges, not with
//! prefixes, and nothing but what the policy names enters the TUN. What carries our mark is never captured: the relay
//! sends into the VPN too. The way out is a table of its own, asked for what
//! carries our mark and is bound to the uplink: a VPN that replaces the main table's default route does not touch it.
//!
//! **Priority.** A VPN that adds rules without a priority gets the places just ahead of the first rule that is there,
//! hence ahead of ours. So our place is not a number but an order, just ahead of the first foreign rule, and it is
//! taken anew whenever a rule appears. (Priority 0 would end the race, and put a VPN that starts later at 0 as well:
//! behind us, but with its own two rules the wrong way round, so that the LAN falls into the tunnel.)
//!
//! **Desired, observed, plan.** [`crate::route::plan::plan`] is a pure function from what is wanted and what is there to ordered
//! changes; [`crate::route::netlink`] reads the one and carries out the other. [`watch::Watch`] only says that something changed. So
//! start, reload, another program's flush, a new network and a restart after a crash are all the same step.
//!
//! **Ours** is what bears our protocol number, in or asking a table of our range. Nothing else is ever changed or
//! deleted, and a deletion names all selectors: one that names none would take the `local` rule with it.
//!
//! **Obstacles.** Strict reverse-path filters drop replies: [`crate::sysctl`], with a [`SavedSysctls`] of what was not ours. IPsec
//! takes packets after routing: [`crate::sysctl`] and [`crate::ipsec`]. A VPN's firewall drops replies to its address: [`ReplySourceTable`] and
//! [`crate::nftables`]. A kill switch forbids the direct path: [`Firewall`] finds that out, and then nothing is captured.
//!
//! **Clients.** A gateway's clients are captured as this machine's own applications are, by rules that ask for a mark:
//! [`Gateway`] makes it, for whole datagrams.
//!
//! **End.** [`Steering::revert`] goes the way back: exemptions, rules, routes, settings. After a kill, the TUN takes its
//! routes with it, rules ask empty tables, the alias table goes with its socket and exemptions lapse; [`cleanup`]
//! removes the rest.

mod gateway;
pub mod watch;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::engine::ReplySource;
use crate::ipsec::{Ipsec, XfrmError, exemptions};
use crate::net::{IfIndex, PerFamily, RulePriority};
use crate::nftables::{BlockedPath, Firewall, Gateway, NftError, Prober, ReplySourceTable};
use crate::route::desired::{Desired, RoutingIds};
use crate::route::netlink::{Kernel, NetlinkError};
use crate::route::observed::Observed;
use crate::route::plan::{self, Change, TooManyPortRanges, Warning};
use crate::route::vpn::{self, Vpn};
use crate::sysctl::{self, Entry, SavedSysctls, SavedSysctlsError, SysctlError};

/// A part of the steering that failed.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// Links, routes or rules.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// More port ranges than tables.
    #[error(transparent)]
    Plan(#[from] TooManyPortRanges),
    /// A setting of our TUN.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A setting of the uplink, or the record of it.
    #[error(transparent)]
    SavedSysctls(#[from] SavedSysctlsError),
    /// IPsec exemptions.
    #[error(transparent)]
    Xfrm(#[from] XfrmError),
    /// Aliases.
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// Everything that failed while the rest was done. Never empty.
#[derive(Debug)]
pub struct SteeringErrors(pub Vec<SteeringError>);

impl fmt::Display for SteeringErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            error.fmt(f)?;
            let mut cause = std::error::Error::source(error);
            while let Some(deeper) = cause {
                write!(f, ": {deeper}")?;
                cause = deeper.source();
            }
        }
        Ok(())
    }
}

impl std::error::Error for SteeringErrors {}

impl<E: Into<SteeringError>> From<E> for SteeringErrors {
    fn from(error: E) -> Self {
        Self(vec![error.into()])
    }
}

/// Gathers the errors of steps that do not depend on each other.
#[derive(Default)]
struct Failures(Vec<SteeringError>);

impl Failures {
    fn note<T, E: Into<SteeringError>>(&mut self, outcome: Result<T, E>) -> Option<T> {
        outcome.map_err(|error| self.0.push(error.into())).ok()
    }

    fn note_all(&mut self, outcome: Result<(), Vec<NetlinkError>>) {
        self.0
            .extend(outcome.err().into_iter().flatten().map(SteeringError::from));
    }

    fn or<T>(self, value: T) -> Result<T, SteeringErrors> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(SteeringErrors(self.0))
        }
    }
}

/// Our TUN, as its device was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tun {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: IfIndex,
    /// The largest packet that it is to take, in bytes.
    pub mtu: u32,
}

/// What a reconciliation did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The changes, all carried out. Empty when everything was in place.
    pub changes: Vec<Change>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
    /// The place of our rules, when there are any.
    pub priority: Option<RulePriority>,
    /// The aliases in force: replies to a `real` address must be written to its `alias`.
    pub aliases: Vec<ReplySource>,
    /// Of which families there are IPsec policies that direct sockets must be exempt from.
    pub ipsec: PerFamily<bool>,
    /// The VPNs that take traffic.
    pub vpns: Vec<Vpn>,
    /// What keeps a gateway's clients from being served that is not ours to change, a sentence each.
    pub hindrances: Vec<String>,
    /// The largest packet that the links of a gateway's clients take.
    pub clients_mtu: Option<u16>,
}

/// The hold on the kernel's routing: from [`Steering::open`], with nothing captured, over any number of
/// [`Steering::reconcile`] to [`Steering::revert`].
pub struct Steering {
    kernel: Kernel,
    ipsec: Option<Ipsec>,
    journal: SavedSysctls,
    aliases: Result<ReplySourceTable, NftError>,
    firewall: Result<Firewall, NftError>,
    /// There while clients are to be served.
    gateway: Option<Gateway>,
    numbers: RoutingIds,
    tun: Tun,
}

impl Steering {
    /// Prepares our TUN and brings it up. Nothing is captured yet.
    ///
    /// # Errors
    /// [`SteeringError`]. A kernel without nftables is none: see [`Steering::without_aliases`].
    pub async fn open(
        runtime_dir: &Path,
        numbers: RoutingIds,
        tun: Tun,
    ) -> Result<Self, SteeringError> {
        let (kernel, ipsec) = (Kernel::open()?, Ipsec::open()?);
        let journal = SavedSysctls::open(runtime_dir)?;
        sysctl::prepare_tun(&tun.name)?;
        kernel.bring_up(tun.index, tun.mtu).await?;
        Ok(Self {
            kernel,
            ipsec,
            journal,
            aliases: ReplySourceTable::new(&tun.name),
            firewall: Firewall::open(&tun.name),
            gateway: None,
            numbers,
            tun,
        })
    }

    /// Why there are no aliases, if there are none: replies to a VPN's own address may then be dropped by its firewall.
    #[must_use]
    pub fn without_aliases(&self) -> Option<&NftError> {
        self.aliases.as_ref().err()
    }

    /// The netlink port of our own changes, for [`watch::Watch::open`].
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.kernel.port()
    }

    /// Whether a connection to the kernel has ended, so that [`Steering::mend`] is due.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.kernel.is_lost() || self.ipsec.as_ref().is_some_and(Ipsec::is_lost)
    }

    /// Opens anew what has ended of the connections to the kernel. [`Steering::port`] is another one then.
    ///
    /// # Errors
    /// When the kernel has no socket for us.
    pub fn mend(&mut self) -> Result<(), SteeringError> {
        if self.kernel.is_lost() {
            self.kernel = Kernel::open()?;
        }
        if self.ipsec.as_ref().is_some_and(Ipsec::is_lost) {
            self.ipsec = Ipsec::open()?;
        }
        Ok(())
    }

    /// Reads what the kernel has, for [`crate::route::uplink::choose`].
    ///
    /// # Errors
    /// [`NetlinkError::Dump`], [`NetlinkError::Lost`].
    pub async fn observe(&self) -> Result<Observed, NetlinkError> {
        self.kernel.observe().await
    }

    /// Of which families there are IPsec policies that direct sockets must be exempt from.
    ///
    /// # Errors
    /// [`XfrmError::Dump`].
    pub async fn ipsec_policies(&self) -> Result<PerFamily<bool>, XfrmError> {
        match &self.ipsec {
            Some(ipsec) => ipsec.rivals().await,
            None => Ok(PerFamily::default()),
        }
    }

    /// Brings into force what is desired. The first time acquires; every notice of [`watch::Watch`] calls for another.
    ///
    /// # Errors
    /// Everything that failed; what does not depend on it was done all the same.
    ///
    /// # Cancel safety
    /// What was done stays done; the next reconciliation does the rest.
    pub async fn reconcile(&mut self, desired: &Desired) -> Result<Report, SteeringErrors> {
        let observed = self.kernel.observe().await?;
        self.bring_about(desired, &observed).await
    }

    /// Does what [`Steering::reconcile`] does, from what was observed just now.
    ///
    /// # Errors
    /// Likewise.
    ///
    /// # Cancel safety
    /// Likewise.
    pub async fn bring_about(
        &mut self,
        desired: &Desired,
        observed: &Observed,
    ) -> Result<Report, SteeringErrors> {
        let plan = plan::plan(desired, &self.numbers, observed)?;
        let mut failures = Failures::default();
        if let Some(uplink) = &desired.uplinks.v4 {
            failures.note(sysctl::prepare_uplink(&mut self.journal, &uplink.name));
        }
        let links = desired.uplinks.present();
        let links: BTreeSet<_> = links.map(|(_, uplink)| uplink.name.clone()).collect();
        if let (Ok(firewall), false) = (&mut self.firewall, links.is_empty()) {
            let mark = desired.permit.mark.unwrap_or(self.numbers.mark);
            failures.note(firewall.lend(desired.permit, &links, mark));
        }
        let mut aliases = Vec::new();
        if let Ok(table) = &mut self.aliases {
            aliases = crate::nftables::aliases(observed, self.tun.index);
            failures.note(table.set(&aliases));
        }
        failures.note(self.welcome(desired));
        failures.note_all(self.kernel.apply(&plan.changes).await);
        if let Some(gateway) = &mut self.gateway {
            failures.note(gateway.narrow(desired));
        }
        if desired.clients.is_empty() {
            self.gateway = None;
        }
        let rivals = failures.note(self.ipsec_policies().await);
        let rivals = rivals.unwrap_or_default();
        if let Some(ipsec) = &self.ipsec {
            let is_wanted = desired.uplinks.v6.is_some() && rivals.v6;
            // Who looks for the mark comes after the mark, and goes before it.
            let mut answers = is_wanted.then_some(self.numbers.mark);
            if let (Ok(firewall), true) = (&mut self.firewall, is_wanted) {
                failures.note(firewall.mark_answers(answers));
            } else {
                answers = None;
            }
            let wanted = if is_wanted {
                exemptions(&desired.captures, answers)
            } else {
                Vec::new()
            };
            failures.note(ipsec.reconcile(&wanted, SystemTime::now()).await);
            if let (Ok(firewall), None) = (&mut self.firewall, answers) {
                failures.note(firewall.mark_answers(None));
            }
        }
        failures.or(Report {
            changes: plan.changes,
            warnings: plan.warnings,
            priority: plan.priority,
            aliases,
            ipsec: rivals,
            vpns: vpn::find(observed, self.tun.index),
            hindrances: gateway::hindrances(desired, observed),
            clients_mtu: gateway::mtu(desired),
        })
    }

    /// Marks packets of the clients that are to be served, before rules ask for the mark.
    fn welcome(&mut self, desired: &Desired) -> Result<(), SteeringError> {
        if self.gateway.is_none() && !desired.clients.is_empty() {
            gateway::prepare_tun(&self.tun.name)?;
            self.gateway = Some(Gateway::open(&self.tun.name, self.numbers)?);
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.widen(desired)?;
        }
        Ok(())
    }

    /// Waits until the firewall has refused a packet of a gateway's client, or an answer to one; for ever where none is
    /// served.
    ///
    /// # Errors
    /// When the socket that it is told by fails.
    ///
    /// # Cancel safety
    /// Nothing that was told is lost.
    pub async fn next_refusal(&mut self) -> io::Result<BlockedPath> {
        match &mut self.gateway {
            Some(gateway) => gateway.next_refusal().await,
            None => std::future::pending().await,
        }
    }

    /// Makes ready to try whether the firewall lets media by; none without nftables: then nothing is found out.
    ///
    /// The rules must be in force, if only for what is bound to our TUN ([`Desired::barred`]).
    ///
    /// # Errors
    /// [`NftError::Refused`].
    pub fn prober(&self) -> Result<Option<Prober<'_>>, NftError> {
        let firewall = self.firewall.as_ref().ok();
        firewall.map(Firewall::prober).transpose()
    }

    /// Takes everything back. The TUN itself is its owner's to close.
    ///
    /// # Errors
    /// Everything that failed; the rest is done. [`cleanup`] can try again.
    pub async fn revert(mut self) -> Result<(), SteeringErrors> {
        self.mend()?;
        remove(
            &self.kernel,
            self.ipsec.as_ref(),
            &mut self.journal,
            &self.numbers,
        )
        .await?;
        Ok(())
    }
}

/// What was left of a voicelane that could not revert, and was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Rules and routes.
    pub changes: Vec<Change>,
    /// The number of IPsec exemptions.
    pub exemptions: usize,
    /// Settings that have their former value again.
    pub settings: Vec<Entry>,
}

/// Removes what a killed voicelane left: ours, and nothing else. Not for use while one runs with the same numbers.
///
/// # Errors
/// Everything that failed; the rest is done.
pub async fn cleanup(
    runtime_dir: &Path,
    numbers: &RoutingIds,
) -> Result<Leftovers, SteeringErrors> {
    let (kernel, ipsec) = (Kernel::open()?, Ipsec::open()?);
    let mut journal = SavedSysctls::open(runtime_dir)?;
    remove(&kernel, ipsec.as_ref(), &mut journal, numbers).await
}

async fn remove(
    kernel: &Kernel,
    ipsec: Option<&Ipsec>,
    journal: &mut SavedSysctls,
    numbers: &RoutingIds,
) -> Result<Leftovers, SteeringErrors> {
    let (mut failures, mut removed) = (Failures::default(), Leftovers::default());
    if let Some(ipsec) = ipsec {
        removed.exemptions = failures
            .note(ipsec.reconcile(&[], SystemTime::now()).await)
            .unwrap_or_default();
    }
    if let Some(observed) = failures.note(kernel.observe().await) {
        removed.changes = plan::removal(numbers, &observed);
        failures.note_all(kernel.apply(&removed.changes).await);
    }
    removed.settings = failures.note(journal.restore(|_| true)).unwrap_or_default();
    failures.or(removed)
}
