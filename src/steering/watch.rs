//! Notifications of changes: links, addresses, routes, rules, IPsec policies and firewall.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::Duration;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::MulticastGroup;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::nftables::{is_foreign, messages};
use crate::route::desired::RoutingIds;
use crate::route::message;

/// `XFRMNLGRP_EXPIRE` and `XFRMNLGRP_POLICY` (linux/xfrm.h): policies expire or change.
const XFRM_GROUPS: [u32; 2] = [2, 4];
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h): nftables changes.
const FIREWALL_GROUP: u32 = 7;
/// `NFT_MSG_NEWTABLE` to `NFT_MSG_DELRULE` (linux/netfilter/nf_tables.h) with the subsystem in the upper octet. Changes
/// of sets are ignored: they may come with every packet.
const FIREWALL_CHANGES: std::ops::RangeInclusive<u16> = 0x0a00..=0x0a08;
/// Time for which notifications are gathered: a VPN makes a dozen changes in a row when it starts.
const SETTLE: Duration = Duration::from_millis(20);
/// Delay before a failed socket is replaced: one that fails again at once must not use all CPU time.
const REOPEN_DELAY: Duration = Duration::from_millis(100);
/// Largest process id (`PID_MAX_LIMIT` of linux/threads.h).
const LARGEST_PROCESS: u32 = 4 << 20;
/// Maximum number of offenders per change.
const OFFENDERS: usize = 8;

/// A change in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelChange {
    /// Time of the first notification.
    pub noticed: Option<std::time::Instant>,
    /// Notifications were lost because a socket was full (`ENOBUFS`).
    pub overrun: bool,
    /// IPsec policies may have changed.
    pub ipsec: bool,
    /// Foreign nftables chains or rules may have changed.
    pub firewall: bool,
    /// Programs that deleted voicelane's rules or routes: name and process id.
    pub offenders: BTreeSet<String>,
}

impl KernelChange {
    /// Merges a later change into this one.
    pub fn merge(&mut self, later: Self) {
        self.noticed = self.noticed.or(later.noticed);
        self.overrun |= later.overrun;
        self.ipsec |= later.ipsec;
        self.firewall |= later.firewall;
        self.offenders.extend(later.offenders);
    }
}

/// A subscription to the kernel's notifications, in the network namespace of the thread that opened it.
///
/// The content of a notification is not relied on: each one leads to an observation of the full state. So a lost
/// notification does no harm, nor does one of voicelane's own changes. The content only identifies offenders.
pub struct Watch {
    routing: TokioSocket,
    ipsec: Option<TokioSocket>,
    firewall: Option<TokioSocket>,
    ids: RoutingIds,
    own_port: u32,
    gathered: KernelChange,
    /// A socket has failed, so all are replaced.
    has_failed: bool,
}

impl Watch {
    /// Subscribes. All changes from now on are reported. A change from the netlink port `own_port` has no offender.
    ///
    /// # Errors
    /// A socket could not be opened. A kernel without IPsec or nftables is no error.
    pub fn open(ids: RoutingIds, own_port: u32) -> io::Result<Self> {
        let routing = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        Ok(Self {
            routing: subscribe(NETLINK_ROUTE, routing.iter().map(|group| *group as u32))?,
            ipsec: subscribe(NETLINK_XFRM, XFRM_GROUPS.into_iter()).ok(),
            firewall: subscribe(NETLINK_NETFILTER, std::iter::once(FIREWALL_GROUP)).ok(),
            ids,
            own_port,
            gathered: KernelChange::default(),
            has_failed: false,
        })
    }

    /// Sets the netlink port of voicelane's own changes.
    pub const fn set_own_port(&mut self, own_port: u32) {
        self.own_port = own_port;
    }

    /// Waits for a change, gathers further ones for 20 ms, and returns them as one.
    ///
    /// Lost notifications (`ENOBUFS`) and a failed socket count as a change. A failed socket is replaced.
    ///
    /// # Errors
    /// A failed socket could not be replaced.
    ///
    /// # Cancel safety
    /// The next call returns a change that was received before.
    pub async fn next_change(&mut self) -> io::Result<KernelChange> {
        if self.gathered.noticed.is_none() {
            self.receive().await?;
        }
        let settled_at = Instant::now() + SETTLE;
        while let Ok(received) = timeout_at(settled_at, self.receive()).await {
            received?;
        }
        Ok(std::mem::take(&mut self.gathered))
    }

    /// Returns the offenders of the changes that the next call of [`Watch::next_change`] returns.
    ///
    /// The kernel may show a change before its notification has arrived.
    ///
    /// # Errors
    /// As [`Watch::next_change`].
    pub async fn pending_offenders(&mut self) -> io::Result<&BTreeSet<String>> {
        while let Ok(received) = timeout(Duration::ZERO, self.receive()).await {
            received?;
        }
        Ok(&self.gathered.offenders)
    }

    async fn receive(&mut self) -> io::Result<()> {
        let received = if self.has_failed {
            sleep(REOPEN_DELAY).await;
            *self = Self {
                gathered: std::mem::take(&mut self.gathered),
                ..Self::open(self.ids, self.own_port)?
            };
            None
        } else {
            let received = tokio::select! {
                received = read(&mut self.routing) => received,
                // These notifications name no offender.
                received = read_if_any(&mut self.ipsec) => {
                    self.gathered.ipsec = true;
                    received.map(without_content)
                }
                received = firewall_change(&mut self.firewall) => {
                    self.gathered.firewall = true;
                    received.map(without_content)
                }
            };
            self.has_failed = received.is_err();
            received.ok().flatten()
        };
        match received {
            Some(datagram) => self.record_offender(&datagram),
            None => self.gathered.overrun = true,
        }
        self.gathered
            .noticed
            .get_or_insert_with(|| Instant::now().into_std());
        Ok(())
    }

    /// Records the offender of a notification: its netlink port is by convention the process id.
    fn record_offender(&mut self, datagram: &[u8]) {
        let Ok(notification) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) else {
            return;
        };
        let is_own = match &notification.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRule(rule)) => {
                message::rule(rule).is_some_and(|rule| rule.is_owned_by(&self.ids))
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => {
                message::route(route).is_some_and(|route| route.is_owned_by(&self.ids))
            }
            _ => false,
        };
        let port = notification.header.port_number;
        // Port 0 is the kernel itself: it deletes the routes of a link that goes.
        if is_own && port != 0 && port != self.own_port && self.gathered.offenders.len() < OFFENDERS
        {
            self.gathered.offenders.insert(program(port));
        }
    }
}

/// Returns the name of a program by its netlink port. The first socket of a program has the process id as its port;
/// further sockets have numbers above [`LARGEST_PROCESS`].
fn program(port: u32) -> String {
    if port > LARGEST_PROCESS {
        return "an unidentified program".to_owned();
    }
    match fs::read_to_string(format!("/proc/{port}/comm")) {
        Ok(name) => format!("{} (process {port})", name.trim_end()),
        Err(_) => format!("a program that has ended (process {port})"),
    }
}

/// Waits for a notification about a foreign table, chain or rule; forever without a socket. Each probe changes
/// voicelane's own chains.
async fn firewall_change(socket: &mut Option<TokioSocket>) -> io::Result<Option<Vec<u8>>> {
    loop {
        let received = read_if_any(socket).await?;
        // A lost notification may have been about a foreign table.
        let is_foreign = |notification: &Vec<u8>| {
            let mut changes = messages(notification).filter(|it| FIREWALL_CHANGES.contains(&it.0));
            changes.any(|(_, content)| is_foreign(content))
        };
        if received.as_ref().is_none_or(is_foreign) {
            return Ok(received);
        }
    }
}

/// Drops the content of a notification.
fn without_content(notification: Option<Vec<u8>>) -> Option<Vec<u8>> {
    notification.map(|_| Vec::new())
}

async fn read_if_any(socket: &mut Option<TokioSocket>) -> io::Result<Option<Vec<u8>>> {
    match socket {
        Some(socket) => read(socket).await,
        None => std::future::pending().await,
    }
}

fn subscribe(protocol: isize, groups: impl Iterator<Item = u32>) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    let mask = groups.fold(0, |mask, group| mask | 1 << (group - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
    Ok(socket)
}

/// Reads a notification; none if some were lost.
async fn read(socket: &mut TokioSocket) -> io::Result<Option<Vec<u8>>> {
    match socket.recv_from_full().await {
        Ok((notification, _)) => Ok(Some(notification)),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Ok(None),
        Err(error) => Err(error),
    }
}
