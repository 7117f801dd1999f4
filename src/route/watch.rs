//! Notice that something changed in the kernel's links, addresses, routes, rules, IPsec policies or firewall.

use std::io;
use std::time::Duration;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::MulticastGroup;
use tokio::time::{Instant, timeout_at};

/// `XFRMNLGRP_EXPIRE` and `XFRMNLGRP_POLICY` (linux/xfrm.h): our leases run out, somebody's policies change.
const XFRM_GROUPS: [u32; 2] = [2, 4];
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h): somebody's firewall changes.
const FIREWALL_GROUP: u32 = 7;
/// `NFT_MSG_NEWTABLE` to `NFT_MSG_DELRULE` (linux/netfilter/nf_tables.h), the upper octet being that of nftables. Sets
/// may change with every packet, and are passed over.
const FIREWALL_CHANGES: std::ops::RangeInclusive<u16> = 0x0a00..=0x0a08;
/// How long notices are gathered: a VPN makes a dozen changes in a row when it starts.
const SETTLE: Duration = Duration::from_millis(20);

/// A subscription to the kernel's notices, in the network namespace of the thread that opened it.
///
/// It tells that something changed, not what: the answer to a notice is to observe and to plan anew, so that a notice
/// that was lost, or one of our own changes, does no harm.
pub struct Watch {
    routing: TokioSocket,
    ipsec: Option<TokioSocket>,
    firewall: Option<TokioSocket>,
    noticed: bool,
}

impl Watch {
    /// Subscribes. What changes from now on is told, also while nobody waits.
    ///
    /// # Errors
    /// When a socket cannot be opened. A kernel without IPsec or nftables is no error.
    pub fn open() -> io::Result<Self> {
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
            noticed: false,
        })
    }

    /// Waits for a change, gathers those that come with it, and returns.
    ///
    /// More notices than the socket holds (`ENOBUFS`) count as a change.
    ///
    /// # Errors
    /// When a socket fails otherwise.
    ///
    /// # Cancel safety
    /// A change that was noticed before the caller gave up is told by the next call.
    pub async fn next_change(&mut self) -> io::Result<()> {
        if !self.noticed {
            self.notice().await?;
            self.noticed = true;
        }
        let settled = Instant::now() + SETTLE;
        while let Ok(more) = timeout_at(settled, self.notice()).await {
            more?;
        }
        self.noticed = false;
        Ok(())
    }

    async fn notice(&mut self) -> io::Result<()> {
        tokio::select! {
            noticed = read(&mut self.routing) => noticed.map(drop),
            noticed = read_if_any(&mut self.ipsec) => noticed.map(drop),
            noticed = firewall_change(&mut self.firewall) => noticed,
        }
    }
}

/// Waits for a notice that tells of a table, a chain or a rule; for ever without a socket.
async fn firewall_change(socket: &mut Option<TokioSocket>) -> io::Result<()> {
    loop {
        let notice = read_if_any(socket).await?;
        // One that was lost may have told anything.
        if notice.is_empty() || types(&notice).any(|it| FIREWALL_CHANGES.contains(&it)) {
            return Ok(());
        }
    }
}

/// The types of the messages of a notice: each begins with its length and its type (struct nlmsghdr).
fn types(mut notice: &[u8]) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        let (length, rest) = notice.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let length = u32::from_ne_bytes(*length).max(16).next_multiple_of(4);
        notice = notice.get(length as usize..).unwrap_or_default();
        Some(u16::from_ne_bytes(*kind))
    })
}

async fn read_if_any(socket: &mut Option<TokioSocket>) -> io::Result<Vec<u8>> {
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

/// Reads a notice; an empty one when some were lost.
async fn read(socket: &mut TokioSocket) -> io::Result<Vec<u8>> {
    match socket.recv_from_full().await {
        Ok((notice, _)) => Ok(notice),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
