//! The kernel's links, addresses, routes and rules over rtnetlink: read, changed, set up.

use std::io;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressScope;
use netlink_packet_route::route::RouteMessage;
use netlink_sys::AsyncSocket;
use nix::errno::Errno;
use rtnetlink::{Handle, IpVersion, LinkUnspec};

use super::connection::NetlinkConnection;
use super::message;
use super::observed::Observed;
use super::plan::RoutingChange;
use crate::net::IfIndex;

/// The address that no host has (RFC 7600), for our TUN. From a link without an IPv4 address a reverse-path filter, even
/// a loose one, drops everything whose way back leads elsewhere, and rules with `iif lo` have no part in the way back.
/// Its scope is the host, so that no socket gets it as its source.
const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// A failed exchange with the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// A dump failed.
    #[error("cannot read the kernel's {what}")]
    Dump {
        /// What was to be read.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The connection has ended, or an answer was lost: nothing is known of what was asked last.
    #[error("the exchange with the kernel was cut off")]
    Lost(#[source] io::Error),
    /// A change was refused.
    #[error("cannot {change}")]
    Change {
        /// What was to change.
        change: Box<RoutingChange>,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A link could not be set up.
    #[error("cannot set up link #{link}")]
    Link {
        /// The link.
        link: IfIndex,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The kernel's answer as an error of the system.
pub(super) fn answer(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(error) => error.to_io(),
        other => io::Error::other(other),
    }
}

/// A connection to the routing half of the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Rtnetlink {
    pub(super) handle: Handle,
    pub(super) connection: NetlinkConnection,
    port: u32,
}

impl Rtnetlink {
    /// Opens a connection; its exchange runs as a task of the current tokio runtime.
    ///
    /// # Errors
    /// [`NetlinkError::Open`].
    pub fn open() -> Result<Self, NetlinkError> {
        let (mut connection, handle, _) =
            rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        let address = connection.socket_mut().socket_mut().bind_auto();
        Ok(Self {
            handle,
            connection: NetlinkConnection::drive(connection),
            port: address.map_err(NetlinkError::Open)?.port_number(),
        })
    }

    /// The netlink port that our changes come from.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Whether the connection has ended: every exchange fails from now on.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.has_ended()
    }

    /// Reads links, addresses, routes and rules.
    ///
    /// The dumps follow each other: what changes between them is seen by the next observation, to which the change's
    /// own notice leads (see [`super::watch`]).
    ///
    /// # Errors
    /// [`NetlinkError::Dump`], [`NetlinkError::Lost`].
    pub async fn observe(&self) -> Result<Observed, NetlinkError> {
        let observed = self.connection.attend(self.dump()).await;
        observed.map_err(NetlinkError::Lost)?
    }

    async fn dump(&self) -> Result<Observed, NetlinkError> {
        let dump = |what| {
            move |error| NetlinkError::Dump {
                what,
                source: answer(error),
            }
        };
        let mut observed = Observed::default();
        // One after the other: the kernel gives a socket one dump at a time.
        let links = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect::<Vec<_>>()
            .await;
        observed.links.extend(
            links
                .map_err(dump("links"))?
                .iter()
                .filter_map(message::link),
        );
        let addresses = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect::<Vec<_>>()
            .await;
        let addresses = addresses.map_err(dump("addresses"))?;
        observed
            .addresses
            .extend(addresses.iter().filter_map(message::address));
        for (version, family) in [
            (IpVersion::V4, AddressFamily::Inet),
            (IpVersion::V6, AddressFamily::Inet6),
        ] {
            let mut every = RouteMessage::default();
            every.header.address_family = family;
            let routes = self
                .handle
                .route()
                .get(every)
                .execute()
                .try_collect::<Vec<_>>()
                .await;
            observed.routes.extend(
                routes
                    .map_err(dump("routes"))?
                    .iter()
                    .filter_map(message::route),
            );
            let rules = self
                .handle
                .rule()
                .get(version)
                .execute()
                .try_collect::<Vec<_>>()
                .await;
            let rules = rules.map_err(dump("rules"))?;
            observed
                .rules
                .extend(rules.iter().filter_map(message::rule));
            observed
                .inverted_marks
                .extend(rules.iter().filter_map(message::inverted_mark));
        }
        Ok(observed)
    }

    /// Carries changes out in their order, going on after a failure.
    ///
    /// What is to be added and is there already, or to be deleted and is gone, is no failure: the kernel also removes
    /// routes by itself when their link goes.
    ///
    /// # Errors
    /// Every failed change; after [`NetlinkError::Lost`] no more is tried.
    pub async fn apply(&self, changes: &[RoutingChange]) -> Result<(), Vec<NetlinkError>> {
        let mut errors = Vec::new();
        for change in changes {
            let error = match self.connection.attend(self.carry_out(change)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(lost) => {
                    errors.push(NetlinkError::Lost(lost));
                    break;
                }
            };
            let source = answer(error);
            let done: &[Errno] = match change {
                RoutingChange::AddRoute(_) | RoutingChange::AddRule(_) => &[Errno::EEXIST],
                RoutingChange::ReplaceRoute(_) => &[],
                RoutingChange::DeleteRule(_) | RoutingChange::DeleteRoute(_) => {
                    &[Errno::ENOENT, Errno::ESRCH, Errno::ENODEV]
                }
            };
            if !source
                .raw_os_error()
                .is_some_and(|code| done.contains(&Errno::from_raw(code)))
            {
                errors.push(NetlinkError::Change {
                    change: Box::new(change.clone()),
                    source,
                });
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    async fn carry_out(&self, change: &RoutingChange) -> Result<(), rtnetlink::Error> {
        let (routes, rules) = (self.handle.route(), self.handle.rule());
        match change {
            RoutingChange::AddRoute(route) => {
                routes.add(message::route_message(route)).execute().await
            }
            RoutingChange::ReplaceRoute(route) => {
                routes
                    .add(message::route_message(route))
                    .replace()
                    .execute()
                    .await
            }
            RoutingChange::AddRule(rule) => {
                let mut request = rules.add();
                *request.message_mut() = message::rule_message(rule);
                request.execute().await
            }
            RoutingChange::DeleteRule(rule) => {
                rules.del(message::rule_message(rule)).execute().await
            }
            RoutingChange::DeleteRoute(route) => {
                routes.del(message::route_message(route)).execute().await
            }
        }
    }

    /// Sets our TUN's MTU, brings it up and gives it the IPv4 address that no host has: without one the
    /// kernel would drop replies. What the kernel adds by itself, that the address is local, is taken back: a machine
    /// answers on every link for what is local to it, and who is on the LAN need not find our TUN (as in Mullvad's audit
    /// finding MLLVD-CR-24-03).
    ///
    /// # Errors
    /// [`NetlinkError::Link`], [`NetlinkError::Lost`].
    pub async fn bring_up(&self, tun: IfIndex, mtu: u32) -> Result<(), NetlinkError> {
        let brought_up = self.connection.attend(self.set_up(tun, mtu)).await;
        brought_up.map_err(NetlinkError::Lost)?
    }

    async fn set_up(&self, tun: IfIndex, mtu: u32) -> Result<(), NetlinkError> {
        let failed = |error| NetlinkError::Link {
            link: tun,
            source: answer(error),
        };
        let up = LinkUnspec::new_with_index(tun.0).mtu(mtu).up().build();
        self.handle.link().set(up).execute().await.map_err(failed)?;
        let mut request = self.handle.address().add(tun.0, DUMMY.into(), 32);
        request.message_mut().header.scope = AddressScope::Host;
        request.replace().execute().await.map_err(failed)?;
        let local = self.handle.route().del(message::local_route(DUMMY, tun));
        local.execute().await.map_err(failed)
    }
}
