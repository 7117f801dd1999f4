//! Notice that something changed in the kernel's links, addresses, routes, rules or IPsec policies.

use std::io;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_XFRM};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::MulticastGroup;
use tokio::time::{Instant, timeout_at};

/// `XFRMNLGRP_EXPIRE` and `XFRMNLGRP_POLICY` (linux/xfrm.h): our leases run out, somebody's policies change.
const XFRM_GROUPS: [u32; 2] = [2, 4];
/// How long notices are gathered: a VPN makes a dozen changes in a row when it starts.
const SETTLE: Duration = Duration::from_millis(20);

/// A subscription to the kernel's notices, in the network namespace of the thread that opened it.
///
/// It tells that something changed, not what: the answer to a notice is to observe and to plan anew, so that a notice
/// that was lost, or one of our own changes, does no harm.
pub struct Watch {
    routing: TokioSocket,
    ipsec: Option<TokioSocket>,
    noticed: bool,
}

impl Watch {
    /// Subscribes. What changes from now on is told, also while nobody waits.
    ///
    /// # Errors
    /// When a socket cannot be opened. A kernel without IPsec is no error.
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
        let routing = pin!(read(&mut self.routing));
        match &mut self.ipsec {
            None => routing.await,
            Some(ipsec) => match select(routing, pin!(read(ipsec))).await {
                Either::Left((noticed, _)) | Either::Right((noticed, _)) => noticed,
            },
        }
    }
}

fn subscribe(protocol: isize, groups: impl Iterator<Item = u32>) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    let mask = groups.fold(0, |mask, group| mask | 1 << (group - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
    Ok(socket)
}

async fn read(socket: &mut TokioSocket) -> io::Result<()> {
    match socket.recv_from_full().await {
        Err(error) if error.raw_os_error() != Some(nix::libc::ENOBUFS) => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}
