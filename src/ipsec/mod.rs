//! Leave for captured IPv6 to pass an IPsec VPN's policies.
//!
//! # Theory of operation
//! A policy-based IPsec VPN takes packets after routing, by their addresses alone. On IPv4 two settings of our TUN keep
//! it off (see [`crate::sysctl`]). IPv6 has no `disable_xfrm`, and its `disable_policy` belongs to the interface that
//! holds the *destination* address, not to the one that a packet comes in by. So, and only while another program has
//! IPv6 policies, we add allow policies of our own, at the best priority there is: one per prefix and aligned block of
//! ports, exact to the port, outward by destination and inward by source. Outward they are for what carries no mark of
//! ours: that is on its way into our TUN. What the relay sends into the VPN carries one, and is IPsec's. Inward they are
//! for what comes out of our TUN and bears our mark therefore ([`crate::nftables::Firewall`]): a policy without a template refuses
//! what came through an association, as answers in the VPN do, and would let in by any link what claims to be from a
//! captured prefix. (The selector has an interface too, but inward the kernel compares it with the one that holds the
//! destination address.) Without nftables nothing bears a mark, and then it has to do without.
//!
//! They are a lease: the kernel lets them lapse when nobody renews them, so that media returns into the VPN after a
//! crash too. When a lease grows old the kernel sends a notice, [`crate::steering::watch::Watch`] tells it, and the
//! reconciliation that follows renews. Our policies are known by their index, which carries a tag of our own.
//!
//! What cannot be won: a foreign policy with priority 0 that was there first, and ICMPv6 errors, which a policy that
//! catches everything inward drops.

use std::fmt;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_xfrm::policy::{DelGetMessage, ModifyMessage};
use netlink_packet_xfrm::{
    Address, LifetimeConfig, Mark, Selector, UserPolicyId, UserPolicyInfo, XfrmAttrs, XfrmMessage,
};
use netlink_sys::protocols::NETLINK_XFRM;
use nix::errno::Errno;
use nix::libc::AF_INET6;
use rtnetlink::proto::{ConnectionHandle, new_connection};
use rtnetlink::sys::SocketAddr;

use crate::net::{Capture, Family, Fwmark, PerFamily, PortRange, Prefix, Protocol};
use crate::route::connection::NetlinkConnection;

/// The upper bits of our policies' indexes. The kernel's own count up from zero.
const TAG: u32 = 0x7600_0000;
/// The bits of an index that hold the tag.
const TAG_MASK: u32 = 0xff00_0000;
/// The age, in seconds, at which the kernel reminds us of a policy.
const RENEW_SECONDS: u64 = 20;
/// The age, in seconds, at which the kernel removes it.
const LEASE_SECONDS: u64 = 60;
/// The bits of a mark that are ours: those of [`crate::route::desired::RoutingIds`], which no setting changes.
const MARK_MASK: u32 = 0xff00_0000;
/// `XFRM_POLICY_ALLOW`.
const ALLOW: u8 = 0;

/// A failed exchange about policies.
#[derive(Debug, thiserror::Error)]
pub enum XfrmError {
    /// The socket could not be opened.
    #[error("cannot open a netlink socket for IPsec")]
    Open(#[source] io::Error),
    /// The policies could not be read.
    #[error("cannot read the IPsec policies")]
    Dump(#[source] io::Error),
    /// A policy was refused.
    #[error("cannot {verb} the IPsec bypass {bypass}")]
    Change {
        /// What was tried.
        verb: &'static str,
        /// For what.
        bypass: BypassPolicy,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The direction of a policy, by the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    In = 0,
    Out = 1,
}

/// Packets of one direction that IPsec is to leave alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BypassPolicy {
    direction: Direction,
    prefix: Prefix,
    protocol: Protocol,
    port: u16,
    mask: u16,
    /// What is in our bits of its packets' marks; none: whatever.
    mark: Option<Fwmark>,
}

impl fmt::Display for BypassPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.direction {
            Direction::In => "from",
            Direction::Out => "to",
        };
        let Self {
            prefix,
            protocol,
            port,
            mask,
            ..
        } = self;
        write!(f, "{way} {prefix} {protocol} port {port}/{mask:#06x}")
    }
}

/// Splits a range into aligned blocks of a power of two, as a port and the bits of it that count.
fn blocks(ports: PortRange) -> impl Iterator<Item = (u16, u16)> {
    let (mut at, end) = (u32::from(ports.first()), u32::from(ports.last()) + 1);
    std::iter::from_fn(move || {
        let room = end.checked_sub(at).filter(|room| *room > 0)?;
        let size = (1 << at.trailing_zeros()).min(1 << room.ilog2());
        let block = (
            u16::try_from(at).ok()?,
            u16::try_from(0x1_0000 - size).ok()?,
        );
        at += size;
        Some(block)
    })
}

/// What must be exempted for these captures, whose answers bear the mark `answers`, if they do.
#[must_use]
pub fn bypass_policies(captures: &[Capture], answers: Option<Fwmark>) -> Vec<BypassPolicy> {
    let mut found = Vec::new();
    for capture in captures {
        for &prefix in capture
            .prefixes
            .iter()
            .filter(|prefix| prefix.family() == Family::V6)
        {
            for (port, mask) in blocks(capture.ports) {
                let unmarked = Some(Fwmark(0));
                let halves = [(Direction::Out, unmarked), (Direction::In, answers)];
                found.extend(halves.map(|(direction, mark)| BypassPolicy {
                    direction,
                    prefix,
                    protocol: capture.protocol,
                    port,
                    mask,
                    mark,
                }));
            }
        }
    }
    found
}

impl BypassPolicy {
    fn selector(&self) -> Selector {
        let mut selector = Selector {
            family: AF_INET6.try_into().expect("AF_INET6 is a small number"),
            proto: self.protocol.number(),
            ..Selector::default()
        };
        let address = Address::from_ip(&self.prefix.first());
        match self.direction {
            Direction::Out => {
                (selector.daddr, selector.prefixlen_d) = (address, self.prefix.len());
                (selector.dport, selector.dport_mask) = (self.port, self.mask);
            }
            Direction::In => {
                (selector.saddr, selector.prefixlen_s) = (address, self.prefix.len());
                (selector.sport, selector.sport_mask) = (self.port, self.mask);
            }
        }
        selector
    }

    fn mark(&self) -> Option<XfrmAttrs> {
        let Fwmark(value) = self.mark?;
        let mask = MARK_MASK;
        Some(XfrmAttrs::Mark(Mark { value, mask }))
    }

    fn policy(&self, index: u32) -> ModifyMessage {
        ModifyMessage {
            user_policy_info: UserPolicyInfo {
                selector: self.selector(),
                lifetime_cfg: LifetimeConfig {
                    soft_add_expires_seconds: RENEW_SECONDS,
                    hard_add_expires_seconds: LEASE_SECONDS,
                    ..LifetimeConfig::default()
                },
                direction: self.direction as u8,
                action: ALLOW,
                index,
                ..UserPolicyInfo::default()
            },
            nlas: self.mark().into_iter().collect(),
        }
    }
}

/// Whether a policy is one of ours.
fn is_ours(policy: &ModifyMessage) -> bool {
    let info = &policy.user_policy_info;
    info.index & TAG_MASK == TAG
        && (info.action, info.priority) == (ALLOW, 0)
        && !policy
            .nlas
            .iter()
            .any(|attribute| matches!(attribute, XfrmAttrs::Template(_)))
}

/// What a policy says of marks, if anything.
fn mark_of(policy: &ModifyMessage) -> Option<&XfrmAttrs> {
    let mut attributes = policy.nlas.iter();
    attributes.find(|attribute| matches!(attribute, XfrmAttrs::Mark(_)))
}

/// The family of which a policy catches packets, if it is somebody else's. Those of single sockets have directions above
/// 2, and catch nobody else's.
fn foreign_family(policy: &ModifyMessage) -> Option<Family> {
    let info = &policy.user_policy_info;
    let family = match i32::from(info.selector.family) {
        AF_INET6 => Family::V6,
        _ => Family::V4,
    };
    (!is_ours(policy) && info.direction <= 2).then_some(family)
}

/// A connection to the IPsec half of the kernel, in the network namespace of the thread that opened it.
pub struct Ipsec {
    handle: ConnectionHandle<XfrmMessage>,
    connection: NetlinkConnection,
}

impl Ipsec {
    /// Opens a connection, as a task of the current tokio runtime; none when this kernel has no IPsec.
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

    /// Whether the connection has ended: every exchange fails from now on.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.has_ended()
    }

    /// Of which families others have policies.
    ///
    /// # Errors
    /// [`XfrmError::Dump`].
    pub async fn foreign_families(&self) -> Result<PerFamily<bool>, XfrmError> {
        let present = self.dump().await.map_err(XfrmError::Dump)?;
        let families: Vec<_> = present.iter().filter_map(foreign_family).collect();
        Ok(PerFamily::new(|family| families.contains(&family)))
    }

    /// Brings our policies to what is wanted. Returns how many were added, renewed or removed. What is old is told by
    /// `now`.
    ///
    /// # Errors
    /// [`XfrmError`], the first; the rest is tried all the same.
    pub async fn reconcile(
        &self,
        wanted: &[BypassPolicy],
        now: SystemTime,
    ) -> Result<usize, XfrmError> {
        let present = self.dump().await.map_err(XfrmError::Dump)?;
        let mut ours: Vec<_> = present.iter().filter(|policy| is_ours(policy)).collect();
        let used: Vec<_> = ours
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
        let mut note = |verb, bypass: BypassPolicy, outcome: io::Result<()>| match outcome {
            Ok(()) => changed += 1,
            Err(source) => {
                first_error.get_or_insert(XfrmError::Change {
                    verb,
                    bypass,
                    source,
                });
            }
        };
        for bypass in wanted {
            let (selector, direction) = (bypass.selector(), bypass.direction as u8);
            let there = ours.iter().position(|policy| {
                let info = &policy.user_policy_info;
                (info.selector, info.direction) == (selector, direction)
                    && mark_of(policy) == bypass.mark().as_ref()
            });
            if let Some(at) = there {
                let info = &ours.swap_remove(at).user_policy_info;
                if now.saturating_sub(info.lifetime_cur.add_time) >= RENEW_SECONDS {
                    let renewed = XfrmMessage::UpdatePolicy(bypass.policy(info.index));
                    note("renew", *bypass, self.request(renewed).await);
                }
            } else {
                let index = free.next().unwrap_or(TAG) | u32::from(direction);
                let added = XfrmMessage::AddPolicy(bypass.policy(index));
                note("add", *bypass, self.request(added).await);
            }
        }
        for policy in ours {
            match self.delete(policy).await {
                Ok(()) => changed += 1,
                Err(error) => {
                    first_error.get_or_insert(XfrmError::Dump(error));
                }
            }
        }
        first_error.map_or(Ok(changed), Err)
    }

    /// Deletes by index: the selector alone may be somebody else's too. The kernel wants to be told the mark as well.
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
        let every = XfrmMessage::GetPolicy(DelGetMessage::default());
        self.exchange(every, NLM_F_DUMP, |message| {
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
        self.connection.attend(exchange).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_hold_the_range_and_nothing_else(a in 1u16.., b in 1u16.., probe: u16) {
            let ports = PortRange::new(a.min(b), a.max(b)).expect("in order");
            let blocks: Vec<_> = blocks(ports).collect();
            prop_assert!(blocks.len() <= 30);
            for probe in [probe, ports.first(), ports.last(), ports.first() - 1, ports.last().wrapping_add(1)] {
                let held = blocks.iter().filter(|(port, mask)| probe & mask == *port).count();
                prop_assert_eq!(held, usize::from(ports.contains(probe)), "{} in {:?}", probe, blocks);
            }
        }
    }

    #[test]
    fn every_port_is_one_block_short_of_port_zero() {
        let all = PortRange::new(1, u16::MAX).expect("in order");
        assert_eq!(blocks(all).count(), 16);
        let one = PortRange::new(3478, 3478).expect("in order");
        assert_eq!(blocks(one).collect::<Vec<_>>(), [(3478, 0xffff)]);
    }

    #[test]
    fn only_ipv6_is_exempted() {
        let capture = Capture {
            protocol: Protocol::Udp,
            ports: "3478".parse().expect("ports"),
            prefixes: ["10.0.0.0/8", "2001:db8::/32"]
                .map(|text| text.parse().expect("a prefix"))
                .to_vec(),
        };
        let shown: Vec<_> = bypass_policies(&[capture], None)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "to 2001:db8::/32 udp port 3478/0xffff",
                "from 2001:db8::/32 udp port 3478/0xffff"
            ]
        );
    }
}
