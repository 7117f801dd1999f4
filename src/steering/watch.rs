//! Notice that something changed in the kernel's links, addresses, routes, rules, IPsec policies or firewall.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::Duration;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::MulticastGroup;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::nftables::OURS;
use crate::route::desired::RoutingIds;
use crate::route::message;

/// `XFRMNLGRP_EXPIRE` and `XFRMNLGRP_POLICY` (linux/xfrm.h): our leases run out, somebody's policies change.
const XFRM_GROUPS: [u32; 2] = [2, 4];
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h): somebody's firewall changes.
const FIREWALL_GROUP: u32 = 7;
/// `NFT_MSG_NEWTABLE` to `NFT_MSG_DELRULE` (linux/netfilter/nf_tables.h), the upper octet being that of nftables. Sets
/// may change with every packet, and are passed over.
const FIREWALL_CHANGES: std::ops::RangeInclusive<u16> = 0x0a00..=0x0a08;
/// How long notices are gathered: a VPN makes a dozen changes in a row when it starts.
const SETTLE: Duration = Duration::from_millis(20);
/// How long to wait before a socket that failed is opened anew: one that fails at once again must not keep us busy.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest process id (`PID_MAX_LIMIT` of linux/threads.h).
const LARGEST_PROCESS: u32 = 4 << 20;
/// How many offenders are remembered of one change.
const OFFENDERS: usize = 8;

/// What is known of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelChange {
    /// When the first notice came.
    pub noticed: Option<std::time::Instant>,
    /// The kernel had more to tell than the socket holds: what is lost is lost.
    pub overrun: bool,
    /// IPsec policies may have changed.
    pub ipsec: bool,
    /// Who took rules or routes of ours away: programs' names with their process ids.
    pub offenders: BTreeSet<String>,
}

impl KernelChange {
    /// Joins what is known of a later change.
    pub fn merge(&mut self, later: Self) {
        self.noticed = self.noticed.or(later.noticed);
        self.overrun |= later.overrun;
        self.ipsec |= later.ipsec;
        self.offenders.extend(later.offenders);
    }
}

/// A subscription to the kernel's notices, in the network namespace of the thread that opened it.
///
/// What a notice says of the change is not relied on: the answer to it is to observe and to plan anew, so that a notice
/// that was lost, or one of our own changes, does no harm. It is only read for who was at work.
pub struct Watch {
    routing: TokioSocket,
    ipsec: Option<TokioSocket>,
    firewall: Option<TokioSocket>,
    ids: RoutingIds,
    own_port: u32,
    gathered: KernelChange,
    /// A socket has failed: all are opened anew.
    has_failed: bool,
}

impl Watch {
    /// Subscribes. What changes from now on is told, also while nobody waits. Changes made from the netlink port
    /// `own_port` are nobody's fault.
    ///
    /// # Errors
    /// When a socket cannot be opened. A kernel without IPsec or nftables is no error.
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

    /// Takes note that our changes come from another netlink port from now on.
    pub const fn set_own_port(&mut self, own_port: u32) {
        self.own_port = own_port;
    }

    /// Waits for a change, gathers those that come with it, and returns what is known of them.
    ///
    /// More notices than a socket holds (`ENOBUFS`) count as a change, and so does a socket that fails: it is opened anew.
    ///
    /// # Errors
    /// When there is no socket to be had in the place of one that failed.
    ///
    /// # Cancel safety
    /// A change that was noticed before the caller gave up is told by the next call.
    pub async fn next_change(&mut self) -> io::Result<KernelChange> {
        if self.gathered.noticed.is_none() {
            self.notice().await?;
        }
        let settled = Instant::now() + SETTLE;
        while let Ok(more) = timeout_at(settled, self.notice()).await {
            more?;
        }
        Ok(std::mem::take(&mut self.gathered))
    }

    /// Tells who took rules or routes of ours away, of the changes that the next call of [`Watch::next_change`] will tell:
    /// the kernel may show a change before its notice has come.
    ///
    /// # Errors
    /// As there.
    pub async fn pending_offenders(&mut self) -> io::Result<&BTreeSet<String>> {
        while let Ok(more) = timeout(Duration::ZERO, self.notice()).await {
            more?;
        }
        Ok(&self.gathered.offenders)
    }

    async fn notice(&mut self) -> io::Result<()> {
        let notice = if self.has_failed {
            sleep(PAUSE).await;
            *self = Self {
                gathered: std::mem::take(&mut self.gathered),
                ..Self::open(self.ids, self.own_port)?
            };
            None
        } else {
            let notice = tokio::select! {
                notice = read(&mut self.routing) => notice,
                // What these tell does not say who took our rules.
                notice = read_if_any(&mut self.ipsec) => {
                    self.gathered.ipsec = true;
                    notice.map(nothing)
                }
                notice = firewall_change(&mut self.firewall) => notice.map(nothing),
            };
            self.has_failed = notice.is_err();
            notice.ok().flatten()
        };
        match notice {
            Some(datagram) => self.look_for_culprits(&datagram),
            None => self.gathered.overrun = true,
        }
        self.gathered
            .noticed
            .get_or_insert_with(|| Instant::now().into_std());
        Ok(())
    }

    /// A notice bears the netlink port of the program that asked for the change: by the kernel's custom, its process id.
    fn look_for_culprits(&mut self, datagram: &[u8]) {
        let Ok(notice) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) else {
            return;
        };
        let ours = match &notice.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRule(rule)) => {
                message::rule(rule).is_some_and(|rule| rule.is_owned_by(&self.ids))
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => {
                message::route(route).is_some_and(|route| route.is_owned_by(&self.ids))
            }
            _ => false,
        };
        let port = notice.header.port_number;
        // Port 0 is the kernel itself: a link went, and its routes with it.
        if ours && port != 0 && port != self.own_port && self.gathered.offenders.len() < OFFENDERS {
            self.gathered.offenders.insert(program(port));
        }
    }
}

/// Names a program by its netlink port. The first socket of a program has the process id for its port, others have any
/// number above [`LARGEST_PROCESS`].
fn program(port: u32) -> String {
    if port > LARGEST_PROCESS {
        return "a program that hides its number".to_owned();
    }
    match fs::read_to_string(format!("/proc/{port}/comm")) {
        Ok(name) => format!("{} (process {port})", name.trim_end()),
        Err(_) => format!("a program that has ended (process {port})"),
    }
}

/// Waits for a notice that tells of somebody else's table, chain or rule (every probe makes and removes chains of ours);
/// for ever without a socket.
async fn firewall_change(socket: &mut Option<TokioSocket>) -> io::Result<Option<Vec<u8>>> {
    loop {
        let notice = read_if_any(socket).await?;
        // One that was lost may have told anything.
        let tells = |notice: &Vec<u8>| {
            let mut changes = messages(notice).filter(|it| FIREWALL_CHANGES.contains(&it.0));
            changes.any(|(_, content)| !is_about_ours(content))
        };
        if notice.as_ref().is_none_or(tells) {
            return Ok(notice);
        }
    }
}

/// The messages of a notice by type, with what follows their header (struct nlmsghdr), which begins with the length.
fn messages(mut notice: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const HEADER: usize = 16;
    std::iter::from_fn(move || {
        let (length, rest) = notice.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let length = (u32::from_ne_bytes(*length) as usize).max(HEADER);
        let content = notice.get(HEADER..length)?;
        notice = notice.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind), content))
    })
}

/// Whether a message on a table, a chain or a rule names a table of ours: behind struct nfgenmsg, as the attribute of the
/// same number in all three.
fn is_about_ours(content: &[u8]) -> bool {
    const FAMILY: usize = 4;
    const TABLE: u16 = 1;
    let attributes = NlasIterator::new(content.get(FAMILY..).unwrap_or_default());
    let mut tables = attributes.flatten().filter(|it| it.kind() == TABLE);
    tables.any(|it| it.value().starts_with(OURS.as_bytes()))
}

/// Keeps of a notice that there was one.
fn nothing(notice: Option<Vec<u8>>) -> Option<Vec<u8>> {
    notice.map(|_| Vec::new())
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

/// Reads a notice; none when some were lost.
async fn read(socket: &mut TokioSocket) -> io::Result<Option<Vec<u8>>> {
    match socket.recv_from_full().await {
        Ok((notice, _)) => Ok(Some(notice)),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Ok(None),
        Err(error) => Err(error),
    }
}
