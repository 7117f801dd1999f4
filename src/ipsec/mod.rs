//! IPsec bypass: policies that let captured IPv6 traffic pass a VPN's IPsec policies.
//!
//! # Theory of operation
//!
//! A policy-based IPsec VPN takes packets after routing, by their addresses alone. On IPv4 two sysctls of the TUN prevent
//! this (see [`crate::sysctl`]). IPv6 has no `disable_xfrm`, and its `disable_policy` belongs to the interface that
//! holds the *destination* address, not to the incoming one.
//!
//! So, and only while foreign IPv6 policies exist, voicelane adds allow policies at priority 0. There is one per prefix
//! and aligned block of ports, exact to the port: outward by destination, inward by source.
//!
//! - **Outward** they match packets without a mark: those that enter the TUN. Packets that the relay sends into
//!   the VPN have a mark, so the VPN's policies apply to them.
//! - **Inward** they match packets with the mark that [`crate::nftables::Firewall`] sets on packets out of the TUN. A
//!   policy without a template rejects packets of an IPsec association, and so replies in the VPN. Without the mark it
//!   would also accept packets from any link with a spoofed source. An inward selector's interface is compared with the
//!   interface of the destination address, so it cannot replace the mark. Without nftables, no packet has the mark.
//!
//! Each policy has a lifetime, so media returns into the VPN after a crash too. The kernel sends a notification when a
//! policy must be renewed, and the next reconciliation renews it. Voicelane's policies have indexes with a tag.
//!
//! Two limits remain: a foreign policy at priority 0 that existed before, and ICMPv6 errors, which a policy that
//! matches all inward packets drops.

mod bypass;

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_xfrm::policy::{DelGetMessage, ModifyMessage};
use netlink_packet_xfrm::{UserPolicyId, XfrmMessage};
use netlink_sys::protocols::NETLINK_XFRM;
use nix::errno::Errno;
use rtnetlink::proto::{ConnectionHandle, new_connection};
use rtnetlink::sys::SocketAddr;

use crate::net::PerFamily;
use crate::route::connection::NetlinkConnection;
use bypass::{RENEW_SECONDS, TAG, foreign_family, is_own, mark_of};

pub use bypass::{BypassPolicy, bypass_policies};

/// Failure of an exchange about IPsec policies.
#[derive(Debug, thiserror::Error)]
pub enum XfrmError {
    /// The socket could not be opened.
    #[error("cannot open a netlink socket for IPsec")]
    Open(#[source] io::Error),
    /// The policies could not be read.
    #[error("cannot read the IPsec policies")]
    Dump(#[source] io::Error),
    /// The kernel refused a change.
    #[error("cannot {verb} the IPsec bypass {bypass}")]
    Change {
        /// The operation.
        verb: &'static str,
        /// The policy.
        bypass: BypassPolicy,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// An IPsec netlink connection, in the network namespace of the thread that opened it.
pub struct Ipsec {
    handle: ConnectionHandle<XfrmMessage>,
    connection: NetlinkConnection,
}

impl Ipsec {
    /// Opens a connection. It runs as a task of the current tokio runtime. None if the kernel has no IPsec.
    ///
    /// # Errors
    /// [`XfrmError::Open`].
    pub fn open() -> Result<Option<Self>, XfrmError> {
        match new_connection(NETLINK_XFRM) {
            Ok((connection, handle, _)) => Ok(Some(Self {
                handle,
                connection: NetlinkConnection::drive(connection),
            })),
            Err(error) if error.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) => Ok(None),
            Err(error) => Err(XfrmError::Open(error)),
        }
    }

    /// Whether the connection is closed: every further exchange fails.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Returns the families for which foreign policies exist.
    ///
    /// # Errors
    /// [`XfrmError::Dump`].
    pub async fn foreign_families(&self) -> Result<PerFamily<bool>, XfrmError> {
        let present = self.dump().await.map_err(XfrmError::Dump)?;
        let families: Vec<_> = present.iter().filter_map(foreign_family).collect();
        Ok(PerFamily::new(|family| families.contains(&family)))
    }

    /// Adds, renews and deletes voicelane's policies until they are the desired ones. Returns the number of changes.
    ///
    /// `now` determines which policies must be renewed.
    ///
    /// # Errors
    /// The first [`XfrmError`]. All other changes were made.
    pub async fn reconcile(
        &self,
        desired: &[BypassPolicy],
        now: SystemTime,
    ) -> Result<usize, XfrmError> {
        let present = self.dump().await.map_err(XfrmError::Dump)?;
        let mut own: Vec<_> = present.iter().filter(|policy| is_own(policy)).collect();
        let used: Vec<_> = own
            .iter()
            .map(|policy| policy.user_policy_info.index)
            .collect();
        let mut free = (0..)
            .map(|n| TAG | n << 3)
            .filter(|base| !used.contains(base) && !used.contains(&(base | 1)));
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());

        let (mut changed, mut first_error) = (0, None);
        let mut record = |verb, bypass: BypassPolicy, outcome: io::Result<()>| match outcome {
            Ok(()) => changed += 1,
            Err(source) => {
                first_error.get_or_insert(XfrmError::Change {
                    verb,
                    bypass,
                    source,
                });
            }
        };
        for bypass in desired {
            let (selector, direction) = (bypass.selector(), bypass.direction as u8);
            let position = own.iter().position(|policy| {
                let info = &policy.user_policy_info;
                (info.selector, info.direction) == (selector, direction)
                    && mark_of(policy) == bypass.mark().as_ref()
            });
            if let Some(at) = position {
                let info = &own.swap_remove(at).user_policy_info;
                if now.saturating_sub(info.lifetime_cur.add_time) >= RENEW_SECONDS {
                    let renewed = XfrmMessage::UpdatePolicy(bypass.policy(info.index));
                    record("renew", *bypass, self.request(renewed).await);
                }
            } else {
                let index = free.next().unwrap_or(TAG) | u32::from(direction);
                let added = XfrmMessage::AddPolicy(bypass.policy(index));
                record("add", *bypass, self.request(added).await);
            }
        }
        for policy in own {
            match self.delete(policy).await {
                Ok(()) => changed += 1,
                Err(error) => {
                    first_error.get_or_insert(XfrmError::Dump(error));
                }
            }
        }
        first_error.map_or(Ok(changed), Err)
    }

    /// Deletes a policy by its index, because a foreign policy may have the same selector. The kernel requires the mark
    /// too.
    async fn delete(&self, policy: &ModifyMessage) -> io::Result<()> {
        let info = &policy.user_policy_info;
        let deletion = XfrmMessage::DeletePolicy(DelGetMessage {
            user_policy_id: UserPolicyId {
                selector: info.selector,
                index: info.index,
                direction: info.direction,
            },
            nlas: mark_of(policy).cloned().into_iter().collect(),
        });
        match self.request(deletion).await {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
            outcome => outcome,
        }
    }

    async fn dump(&self) -> io::Result<Vec<ModifyMessage>> {
        let mut policies = Vec::new();
        let all = XfrmMessage::GetPolicy(DelGetMessage::default());
        self.exchange(all, NLM_F_DUMP, |message| {
            if let XfrmMessage::AddPolicy(policy) = message {
                policies.push(policy);
            }
        })
        .await?;
        Ok(policies)
    }

    async fn request(&self, message: XfrmMessage) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK, |_| {}).await
    }

    async fn exchange(
        &self,
        message: XfrmMessage,
        flags: u16,
        mut receive: impl FnMut(XfrmMessage),
    ) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let kernel = SocketAddr::new(0, 0);
        let mut replies = self
            .handle
            .clone()
            .request(request, kernel)
            .map_err(io::Error::other)?;
        let exchange = async {
            while let Some(reply) = replies.next().await {
                match reply.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::InnerMessage(message) => receive(message),
                    _ => {}
                }
            }
            Ok(())
        };
        self.connection.exchange(exchange).await?
    }
}
