//! Reads and changes the kernel's links, addresses, routes and rules over rtnetlink.

use std::io;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressScope;
use netlink_packet_route::link::{LinkAttribute, LinkMode, State};
use netlink_packet_route::route::RouteMessage;
use netlink_sys::AsyncSocket;
use nix::errno::Errno;
use rtnetlink::{Handle, IpVersion, LinkUnspec};

use super::connection::NetlinkConnection;
use super::message;
use super::observed::Observed;
use super::plan::RoutingChange;
use crate::net::IfIndex;

/// IPv4 address of the TUN, from the loopback range.
///
/// A reverse-path filter, even a loose one, drops all packets from a link without an IPv4 address. The scope is the
/// host, so no socket selects it as its source. Browsers bind a socket to each address that they find, and loopback
/// addresses can be bound everywhere.
const TUN_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 118, 0, 8);

/// Failure of an exchange over rtnetlink.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// A dump failed.
    #[error("cannot read the kernel's {what}")]
    Dump {
        /// Objects to read.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The connection has closed, or an answer was lost. The outcome of the last request is unknown.
    #[error("the connection to the kernel was interrupted")]
    Lost(#[source] io::Error),
    /// The kernel refused a change.
    #[error("cannot {change}")]
    Change {
        /// The change.
        change: Box<RoutingChange>,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused to set up a link.
    #[error("cannot set up link #{link}")]
    Link {
        /// The link.
        link: IfIndex,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Converts the kernel's answer into an I/O error.
pub(super) fn answer(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(error) => error.to_io(),
        other => io::Error::other(other),
    }
}

/// An rtnetlink connection, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Rtnetlink {
    pub(super) handle: Handle,
    pub(super) connection: NetlinkConnection,
    port: u32,
}

impl Rtnetlink {
    /// Opens a connection. It runs as a task of the current tokio runtime.
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

    /// Netlink port from which changes are sent.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Whether the connection is closed: every further exchange fails.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Reads links, addresses, routes and rules.
    ///
    /// The dumps follow each other. A change between two dumps is in the next observation, which its notification
    /// causes.
    ///
    /// # Errors
    /// [`NetlinkError::Dump`], [`NetlinkError::Lost`].
    pub async fn observe(&self) -> Result<Observed, NetlinkError> {
        let observed = self.connection.exchange(self.dump()).await;
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
        // The kernel allows one dump at a time for each socket.
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
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            let routes = self
                .handle
                .route()
                .get(all)
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

    /// Applies changes in order and continues after a failure.
    ///
    /// Adding an object that exists and deleting an object that is gone are no failures: the kernel removes routes
    /// itself when their link goes.
    ///
    /// # Errors
    /// Every failed change. After [`NetlinkError::Lost`] the remaining changes are not tried.
    pub async fn apply(&self, changes: &[RoutingChange]) -> Result<(), Vec<NetlinkError>> {
        let mut errors = Vec::new();
        for change in changes {
            let error = match self.connection.exchange(self.request(change)).await {
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

    async fn request(&self, change: &RoutingChange) -> Result<(), rtnetlink::Error> {
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

    /// Sets the TUN's MTU, brings it up and gives it its IPv4 address.
    ///
    /// The link is dormant (RFC 2863 section 3.1.12): it carries packets, but is not "running". Browsers skip such a
    /// link when they look for local addresses. IPv6 needs the link up before it is dormant: the kernel keeps this
    /// order within one request.
    ///
    /// Deletes the local route that the kernel adds for this address. With it, hosts on the LAN could find the TUN by
    /// ARP (Mullvad's audit finding MLLVD-CR-24-03).
    ///
    /// # Errors
    /// [`NetlinkError::Link`], [`NetlinkError::Lost`].
    pub async fn bring_up(&self, tun: IfIndex, mtu: u32) -> Result<(), NetlinkError> {
        let brought_up = self.connection.exchange(self.set_up(tun, mtu)).await;
        brought_up.map_err(NetlinkError::Lost)?
    }

    async fn set_up(&self, tun: IfIndex, mtu: u32) -> Result<(), NetlinkError> {
        let failed = |error| NetlinkError::Link {
            link: tun,
            source: answer(error),
        };
        let up = LinkUnspec::new_with_index(tun.0)
            .mtu(mtu)
            .up()
            .append_extra_attribute(LinkAttribute::Mode(LinkMode::Dormant))
            .append_extra_attribute(LinkAttribute::OperState(State::Dormant))
            .build();
        self.handle.link().set(up).execute().await.map_err(failed)?;
        let mut request = self.handle.address().add(tun.0, TUN_ADDRESS.into(), 32);
        request.message_mut().header.scope = AddressScope::Host;
        request.replace().execute().await.map_err(failed)?;
        let local = self
            .handle
            .route()
            .del(message::local_route(TUN_ADDRESS, tun));
        local.execute().await.map_err(failed)
    }
}
