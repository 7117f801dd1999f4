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
//! [`ClientCapture`] makes it, for whole datagrams.
//!
//! **End.** [`TrafficSteering::revert`] goes the way back: exemptions, rules, routes, settings. After a kill, the TUN takes its
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
use crate::ipsec::{Ipsec, XfrmError, bypass_policies};
use crate::net::{IfIndex, PerFamily, RulePriority};
use crate::nftables::{
    self, BlockedPath, ClientCapture, Firewall, NftError, Prober, ReplySourceTable,
};
use crate::route::desired::{Desired, RoutingIds};
use crate::route::netlink::{NetlinkError, Rtnetlink};
use crate::route::observed::Observed;
use crate::route::plan::{self, RoutingChange, TooManyPortRanges, Warning};
use crate::route::vpn::{self, Vpn};
use crate::sysctl::{self, SavedSysctl, SavedSysctls, SavedSysctlsError, SysctlError};

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
pub struct SteeringReport {
    /// The changes, all carried out. Empty when everything was in place.
    pub changes: Vec<RoutingChange>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
    /// The place of our rules, when there are any.
    pub priority: Option<RulePriority>,
    /// The reply_sources in force: replies to a `real` address must be written to its `alias`.
    pub reply_sources: Vec<ReplySource>,
    /// Of which families there are IPsec policies that direct sockets must be exempt from.
    pub foreign_ipsec: PerFamily<bool>,
    /// The VPNs that take traffic.
    pub vpns: Vec<Vpn>,
    /// What keeps a gateway's clients from being served that is not ours to change, a sentence each.
    pub unmet_prerequisites: Vec<String>,
    /// The largest packet that the links of a gateway's clients take.
    pub clients_mtu: Option<u16>,
}

/// The hold on the kernel's routing: from [`TrafficSteering::open`], with nothing captured, over any number of
/// [`TrafficSteering::reconcile`] to [`TrafficSteering::revert`].
pub struct TrafficSteering {
    rtnetlink: Rtnetlink,
    ipsec: Option<Ipsec>,
    saved: SavedSysctls,
    reply_sources: Result<ReplySourceTable, NftError>,
    firewall: Result<Firewall, NftError>,
    /// There while clients are to be served.
    gateway: Option<ClientCapture>,
    ids: RoutingIds,
    tun: Tun,
}

impl TrafficSteering {
    /// Prepares our TUN and brings it up. Nothing is captured yet.
    ///
    /// # Errors
    /// [`SteeringError`]. A kernel without nftables is none: see [`TrafficSteering::reply_source_error`].
    pub async fn open(
        runtime_dir: &Path,
        ids: RoutingIds,
        tun: Tun,
    ) -> Result<Self, SteeringError> {
        let (rtnetlink, ipsec) = (Rtnetlink::open()?, Ipsec::open()?);
        let saved = SavedSysctls::open(runtime_dir)?;
        sysctl::prepare_tun(&tun.name)?;
        rtnetlink.bring_up(tun.index, tun.mtu).await?;
        Ok(Self {
            rtnetlink,
            ipsec,
            saved,
            reply_sources: ReplySourceTable::new(&tun.name),
            firewall: Firewall::open(&tun.name),
            gateway: None,
            ids,
            tun,
        })
    }

    /// Why there are no reply_sources, if there are none: replies to a VPN's own address may then be dropped by its firewall.
    #[must_use]
    pub fn reply_source_error(&self) -> Option<&NftError> {
        self.reply_sources.as_ref().err()
    }

    /// The netlink port of our own changes, for [`watch::Watch::open`].
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.rtnetlink.port()
    }

    /// Whether a connection to the kernel has ended, so that [`TrafficSteering::reconnect`] is due.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.rtnetlink.is_closed() || self.ipsec.as_ref().is_some_and(Ipsec::is_closed)
    }

    /// Opens anew what has ended of the connections to the kernel. [`TrafficSteering::port`] is another one then.
    ///
    /// # Errors
    /// When the kernel has no socket for us.
    pub fn reconnect(&mut self) -> Result<(), SteeringError> {
        if self.rtnetlink.is_closed() {
            self.rtnetlink = Rtnetlink::open()?;
        }
        if self.ipsec.as_ref().is_some_and(Ipsec::is_closed) {
            self.ipsec = Ipsec::open()?;
        }
        Ok(())
    }

    /// Reads what the kernel has, for [`crate::route::uplink::choose`].
    ///
    /// # Errors
    /// [`NetlinkError::Dump`], [`NetlinkError::Lost`].
    pub async fn observe(&self) -> Result<Observed, NetlinkError> {
        self.rtnetlink.observe().await
    }

    /// Of which families there are IPsec policies that direct sockets must be exempt from.
    ///
    /// # Errors
    /// [`XfrmError::Dump`].
    pub async fn foreign_ipsec(&self) -> Result<PerFamily<bool>, XfrmError> {
        match &self.ipsec {
            Some(ipsec) => ipsec.foreign_families().await,
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
    pub async fn reconcile(&mut self, desired: &Desired) -> Result<SteeringReport, SteeringErrors> {
        let observed = self.rtnetlink.observe().await?;
        self.apply(desired, &observed).await
    }

    /// Does what [`TrafficSteering::reconcile`] does, from what was observed just now.
    ///
    /// # Errors
    /// Likewise.
    ///
    /// # Cancel safety
    /// Likewise.
    pub async fn apply(
        &mut self,
        desired: &Desired,
        observed: &Observed,
    ) -> Result<SteeringReport, SteeringErrors> {
        let plan = plan::plan(desired, &self.ids, observed)?;
        let mut failures = Failures::default();
        if let Some(uplink) = &desired.uplinks.v4 {
            failures.note(sysctl::prepare_uplink(&mut self.saved, &uplink.name));
        }
        let links = desired.uplinks.present();
        let links: BTreeSet<_> = links.map(|(_, uplink)| uplink.name.clone()).collect();
        if let (Ok(firewall), false) = (&mut self.firewall, links.is_empty()) {
            let mark = desired.marks.mark.unwrap_or(self.ids.mark);
            failures.note(firewall.set_marks(desired.marks, &links, mark));
        }
        let mut reply_sources = Vec::new();
        if let Ok(table) = &mut self.reply_sources {
            reply_sources = nftables::reply_sources(observed, self.tun.index);
            failures.note(table.set(&reply_sources));
        }
        failures.note(self.ensure_gateway(desired));
        failures.note_all(self.rtnetlink.apply(&plan.changes).await);
        if let Some(gateway) = &mut self.gateway {
            failures.note(gateway.remove_clients(desired));
        }
        if desired.clients.is_empty() {
            self.gateway = None;
        }
        let foreign = failures.note(self.foreign_ipsec().await);
        let foreign = foreign.unwrap_or_default();
        if let Some(ipsec) = &self.ipsec {
            let is_wanted = desired.uplinks.v6.is_some() && foreign.v6;
            // Who looks for the mark comes after the mark, and goes before it.
            let mut answers = is_wanted.then_some(self.ids.mark);
            if let (Ok(firewall), true) = (&mut self.firewall, is_wanted) {
                failures.note(firewall.set_reply_mark(answers));
            } else {
                answers = None;
            }
            let wanted = if is_wanted {
                bypass_policies(&desired.captures, answers)
            } else {
                Vec::new()
            };
            failures.note(ipsec.reconcile(&wanted, SystemTime::now()).await);
            if let (Ok(firewall), None) = (&mut self.firewall, answers) {
                failures.note(firewall.set_reply_mark(None));
            }
        }
        failures.or(SteeringReport {
            changes: plan.changes,
            warnings: plan.warnings,
            priority: plan.priority,
            reply_sources,
            foreign_ipsec: foreign,
            vpns: vpn::find(observed, self.tun.index),
            unmet_prerequisites: gateway::unmet_prerequisites(desired, observed),
            clients_mtu: gateway::mtu(desired),
        })
    }

    /// Marks packets of the clients that are to be served, before rules ask for the mark.
    fn ensure_gateway(&mut self, desired: &Desired) -> Result<(), SteeringError> {
        if self.gateway.is_none() && !desired.clients.is_empty() {
            gateway::prepare_tun(&self.tun.name)?;
            self.gateway = Some(ClientCapture::open(&self.tun.name, self.ids)?);
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.add_clients(desired)?;
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
    pub async fn next_blocked(&mut self) -> io::Result<BlockedPath> {
        match &mut self.gateway {
            Some(gateway) => gateway.next_blocked().await,
            None => std::future::pending().await,
        }
    }

    /// Makes ready to try whether the firewall lets media by; none without nftables: then nothing is found out.
    ///
    /// The rules must be in force, if only for what is bound to our TUN ([`Desired::blocked`]).
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
        self.reconnect()?;
        remove(
            &self.rtnetlink,
            self.ipsec.as_ref(),
            &mut self.saved,
            &self.ids,
        )
        .await?;
        Ok(())
    }
}

/// What was left of a voicelane that could not revert, and was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Rules and routes.
    pub changes: Vec<RoutingChange>,
    /// The number of IPsec exemptions.
    pub bypasses: usize,
    /// Settings that have their former value again.
    pub settings: Vec<SavedSysctl>,
}

/// Removes what a killed voicelane left: ours, and nothing else. Not for use while one runs with the same ids.
///
/// # Errors
/// Everything that failed; the rest is done.
pub async fn cleanup(runtime_dir: &Path, ids: &RoutingIds) -> Result<Leftovers, SteeringErrors> {
    let (rtnetlink, ipsec) = (Rtnetlink::open()?, Ipsec::open()?);
    let mut saved = SavedSysctls::open(runtime_dir)?;
    remove(&rtnetlink, ipsec.as_ref(), &mut saved, ids).await
}

async fn remove(
    rtnetlink: &Rtnetlink,
    ipsec: Option<&Ipsec>,
    saved: &mut SavedSysctls,
    ids: &RoutingIds,
) -> Result<Leftovers, SteeringErrors> {
    let (mut failures, mut removed) = (Failures::default(), Leftovers::default());
    if let Some(ipsec) = ipsec {
        removed.bypasses = failures
            .note(ipsec.reconcile(&[], SystemTime::now()).await)
            .unwrap_or_default();
    }
    if let Some(observed) = failures.note(rtnetlink.observe().await) {
        removed.changes = plan::removal(ids, &observed);
        failures.note_all(rtnetlink.apply(&removed.changes).await);
    }
    removed.settings = failures.note(saved.restore(|_| true)).unwrap_or_default();
    failures.or(removed)
}
