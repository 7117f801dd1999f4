//! Traffic steering: brings routes, rules, nftables tables, IPsec policies and sysctls to the desired state.
//!
//! # Theory of operation
//!
//! **Reconciliation.** [`TrafficSteering::reconcile`] observes the kernel, plans and applies the difference
//! ([`crate::route::plan`]). [`watch::Watch`] only reports that something changed. So a start, a reload, a flush by
//! another program, a new network and a restart after a crash are the same step.
//!
//! **Causes of dropped media, and remedies:**
//!
//! - A strict reverse-path filter drops replies: [`crate::sysctl`].
//! - IPsec policies take packets after routing: [`crate::sysctl`] and [`crate::ipsec`].
//! - A VPN's firewall drops replies to the VPN's address: [`ReplySourceTable`].
//! - A hook changes mark or DSCP of outgoing packets, or a reverse-path check looks up sources: [`LookupMarks`].
//! - A kill switch blocks the direct path: [`Firewall`] finds it, and then nothing is captured.
//!
//! **Clients.** Rules that match a mark capture the traffic of a gateway's clients. [`ClientCapture`] sets the mark.
//!
//! **End.** [`TrafficSteering::revert`] deletes bypass policies, rules and routes, and restores sysctls. After a kill,
//! the TUN's routes go with the TUN, nftables tables go with their socket, bypass policies expire, and rules look up
//! empty tables. [`cleanup`] removes the rest.

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
    self, BlockedPath, ClientCapture, Firewall, LookupMarks, NftError, Prober, ReplySourceTable,
};
use crate::route::desired::{Desired, PortlessLookups, RoutingIds};
use crate::route::netlink::{NetlinkError, Rtnetlink};
use crate::route::observed::Observed;
use crate::route::plan::{self, RoutingChange, TooManyPortRanges, Warning};
use crate::route::vpn::{self, Vpn};
use crate::sysctl::{self, SavedSysctl, SavedSysctls, SavedSysctlsError, SysctlError};

/// Failure of one part of traffic steering.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// Links, routes or rules.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// More port ranges than tables.
    #[error(transparent)]
    Plan(#[from] TooManyPortRanges),
    /// A sysctl of the TUN.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// A sysctl of the uplink, or the saved sysctls.
    #[error(transparent)]
    SavedSysctls(#[from] SavedSysctlsError),
    /// IPsec bypass policies.
    #[error(transparent)]
    Xfrm(#[from] XfrmError),
    /// nftables tables.
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// All failures of one operation; never empty. Steps that do not depend on a failed one were done.
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
            while let Some(inner) = cause {
                write!(f, ": {inner}")?;
                cause = inner.source();
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

/// Collects the errors of independent steps.
#[derive(Default)]
struct Failures(Vec<SteeringError>);

impl Failures {
    fn record<T, E: Into<SteeringError>>(&mut self, outcome: Result<T, E>) -> Option<T> {
        outcome.map_err(|error| self.0.push(error.into())).ok()
    }

    fn record_all(&mut self, outcome: Result<(), Vec<NetlinkError>>) {
        self.0
            .extend(outcome.err().into_iter().flatten().map(SteeringError::from));
    }

    fn into_result<T>(self, value: T) -> Result<T, SteeringErrors> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(SteeringErrors(self.0))
        }
    }
}

/// The TUN interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunInterface {
    /// Name.
    pub name: String,
    /// Index.
    pub index: IfIndex,
    /// MTU in bytes.
    pub mtu: u32,
}

/// Result of a reconciliation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteeringReport {
    /// Applied changes; empty if the kernel had the desired state.
    pub changes: Vec<RoutingChange>,
    /// Parts of the desired state that cannot be reached.
    pub warnings: Vec<Warning>,
    /// Priority of voicelane's rules, if there are any.
    pub priority: Option<RulePriority>,
    /// Active reply source substitutions: a reply to a `real` address must be sent to its `substitute`.
    pub reply_sources: Vec<ReplySource>,
    /// Families with foreign IPsec policies, for which direct sockets need an IPsec bypass.
    pub foreign_ipsec: PerFamily<bool>,
    /// VPN interfaces.
    pub vpns: Vec<Vpn>,
    /// Unmet prerequisites of a gateway, one sentence each. Only the administrator can change them.
    pub unmet_prerequisites: Vec<String>,
    /// Smallest MTU of the clients' links in bytes.
    pub clients_mtu: Option<u16>,
}

/// Voicelane's state in the kernel.
///
/// [`TrafficSteering::open`] captures nothing. [`TrafficSteering::reconcile`] may be called any number of times.
/// [`TrafficSteering::revert`] ends it.
pub struct TrafficSteering {
    rtnetlink: Rtnetlink,
    ipsec: Option<Ipsec>,
    saved: SavedSysctls,
    reply_sources: Result<ReplySourceTable, NftError>,
    firewall: Result<Firewall, NftError>,
    lookup_marks: Result<LookupMarks, NftError>,
    /// Present while clients are captured.
    gateway: Option<ClientCapture>,
    ids: RoutingIds,
    tun: TunInterface,
}

impl TrafficSteering {
    /// Prepares the TUN and brings it up. Nothing is captured yet.
    ///
    /// # Errors
    /// [`SteeringError`]. A kernel without nftables is no error: see [`TrafficSteering::reply_source_error`].
    pub async fn open(
        runtime_dir: &Path,
        ids: RoutingIds,
        tun: TunInterface,
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
            lookup_marks: LookupMarks::open(&tun.name, ids),
            gateway: None,
            ids,
            tun,
        })
    }

    /// Returns why reply source substitution is not available, if so. A VPN's firewall may then drop replies to the
    /// VPN's address.
    #[must_use]
    pub fn reply_source_error(&self) -> Option<&NftError> {
        self.reply_sources.as_ref().err()
    }

    /// Returns the netlink port of voicelane's changes, for [`watch::Watch::open`].
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.rtnetlink.port()
    }

    /// Whether a connection to the kernel is closed, so that [`TrafficSteering::reconnect`] is necessary.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.rtnetlink.is_closed() || self.ipsec.as_ref().is_some_and(Ipsec::is_closed)
    }

    /// Replaces closed connections. [`TrafficSteering::port`] changes.
    ///
    /// # Errors
    /// No socket could be opened.
    pub fn reconnect(&mut self) -> Result<(), SteeringError> {
        if self.rtnetlink.is_closed() {
            self.rtnetlink = Rtnetlink::open()?;
        }
        if self.ipsec.as_ref().is_some_and(Ipsec::is_closed) {
            self.ipsec = Ipsec::open()?;
        }
        Ok(())
    }

    /// Reads links, addresses, routes and rules.
    ///
    /// # Errors
    /// [`NetlinkError::Dump`], [`NetlinkError::Lost`].
    pub async fn observe(&self) -> Result<Observed, NetlinkError> {
        self.rtnetlink.observe().await
    }

    /// Returns the families with foreign IPsec policies, for which direct sockets need an IPsec bypass.
    ///
    /// # Errors
    /// [`XfrmError::Dump`].
    pub async fn foreign_ipsec(&self) -> Result<PerFamily<bool>, XfrmError> {
        match &self.ipsec {
            Some(ipsec) => ipsec.foreign_families().await,
            None => Ok(PerFamily::default()),
        }
    }

    /// Searches other programs' firewall rules for causes of route lookups without ports. None without nftables.
    ///
    /// # Errors
    /// The ruleset could not be read.
    pub fn portless_lookups(&self) -> io::Result<PortlessLookups> {
        match &self.lookup_marks {
            Ok(_) => nftables::portless_lookups(),
            Err(_) => Ok(PortlessLookups::default()),
        }
    }

    /// Observes the kernel and applies the desired state. Each notification of [`watch::Watch`] requires a call.
    ///
    /// # Errors
    /// All failures. Steps that do not depend on a failed one were done.
    ///
    /// # Cancel safety
    /// Applied changes stay. The next reconciliation applies the rest.
    pub async fn reconcile(&mut self, desired: &Desired) -> Result<SteeringReport, SteeringErrors> {
        let observed = self.rtnetlink.observe().await?;
        self.apply(desired, &observed).await
    }

    /// Applies the desired state from a recent observation.
    ///
    /// # Errors
    /// As [`TrafficSteering::reconcile`].
    ///
    /// # Cancel safety
    /// As [`TrafficSteering::reconcile`].
    pub async fn apply(
        &mut self,
        desired: &Desired,
        observed: &Observed,
    ) -> Result<SteeringReport, SteeringErrors> {
        let plan = plan::plan(desired, &self.ids, observed)?;
        let mut failures = Failures::default();
        if let Some(uplink) = &desired.uplinks.v4 {
            failures.record(sysctl::prepare_uplink(&mut self.saved, &uplink.name));
        }
        let links = desired.uplinks.present();
        let links: BTreeSet<_> = links.map(|(_, uplink)| uplink.name.clone()).collect();
        if let (Ok(firewall), false) = (&mut self.firewall, links.is_empty()) {
            let mark = desired.marks.mark.unwrap_or(self.ids.mark);
            failures.record(firewall.set_marks(desired.marks, &links, mark));
        }
        let mut reply_sources = Vec::new();
        if let Ok(table) = &mut self.reply_sources {
            reply_sources = nftables::reply_sources(observed, self.tun.index);
            failures.record(table.set(&reply_sources));
        }
        failures.record(self.ensure_gateway(desired));
        let vpns = vpn::find(observed, self.tun.index);
        failures.record_all(self.rtnetlink.apply(&plan.changes).await);
        if let Ok(marks) = &mut self.lookup_marks {
            let vpns = vpns.iter().map(|vpn| vpn.name.clone()).collect();
            failures.record(marks.set(desired, &vpns));
        }
        if let Some(gateway) = &mut self.gateway {
            failures.record(gateway.remove_clients(desired));
        }
        if desired.clients.is_empty() {
            self.gateway = None;
        }
        let foreign = failures.record(self.foreign_ipsec().await);
        let foreign = foreign.unwrap_or_default();
        if let Some(ipsec) = &self.ipsec {
            let is_needed = desired.uplinks.v6.is_some() && foreign.v6;
            // Policies that match the mark are added after the mark is set and deleted before it is removed.
            let mut reply_mark = is_needed.then_some(self.ids.mark);
            if let (Ok(firewall), true) = (&mut self.firewall, is_needed) {
                failures.record(firewall.set_reply_mark(reply_mark));
            } else {
                reply_mark = None;
            }
            let bypasses = if is_needed {
                bypass_policies(&desired.captures, reply_mark)
            } else {
                Vec::new()
            };
            failures.record(ipsec.reconcile(&bypasses, SystemTime::now()).await);
            if let (Ok(firewall), None) = (&mut self.firewall, reply_mark) {
                failures.record(firewall.set_reply_mark(None));
            }
        }
        failures.into_result(SteeringReport {
            changes: plan.changes,
            warnings: plan.warnings,
            priority: plan.priority,
            reply_sources,
            foreign_ipsec: foreign,
            vpns,
            unmet_prerequisites: gateway::unmet_prerequisites(desired, observed),
            clients_mtu: gateway::mtu(desired),
        })
    }

    /// Sets the mark of clients' packets, before rules match it.
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

    /// Waits until the firewall has dropped a packet of a gateway's client or a reply to one. Without clients it waits
    /// forever.
    ///
    /// # Errors
    /// The socket failed.
    ///
    /// # Cancel safety
    /// No notification is lost.
    pub async fn next_blocked(&mut self) -> io::Result<BlockedPath> {
        match &mut self.gateway {
            Some(gateway) => gateway.next_blocked().await,
            None => std::future::pending().await,
        }
    }

    /// Prepares firewall probes. None without nftables.
    ///
    /// The capture rules must be active, at least for sockets bound to the TUN ([`Desired::blocked`]).
    ///
    /// # Errors
    /// [`NftError::Refused`].
    pub fn prober(&self) -> Result<Option<Prober<'_>>, NftError> {
        let firewall = self.firewall.as_ref().ok();
        firewall.map(Firewall::prober).transpose()
    }

    /// Removes all state from the kernel, except the TUN itself.
    ///
    /// # Errors
    /// All failures. [`cleanup`] can try again.
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

/// State that a killed voicelane left and [`cleanup`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Deleted rules and routes.
    pub changes: Vec<RoutingChange>,
    /// Number of deleted bypass policies.
    pub bypasses: usize,
    /// Restored sysctls.
    pub settings: Vec<SavedSysctl>,
}

/// Removes the state that a killed voicelane left. Must not be called while a voicelane with the same ids runs.
///
/// # Errors
/// All failures. All other state was removed.
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
            .record(ipsec.reconcile(&[], SystemTime::now()).await)
            .unwrap_or_default();
    }
    if let Some(observed) = failures.record(rtnetlink.observe().await) {
        removed.changes = plan::removal(ids, &observed);
        failures.record_all(rtnetlink.apply(&removed.changes).await);
    }
    removed.settings = failures.record(saved.restore(|_| true)).unwrap_or_default();
    failures.into_result(removed)
}
