//! Bypass policies: which ones the captures need, and which of the kernel's policies are voicelane's.

use std::fmt;

use netlink_packet_xfrm::policy::ModifyMessage;
use netlink_packet_xfrm::{Address, LifetimeConfig, Mark, Selector, UserPolicyInfo, XfrmAttrs};
use nix::libc::AF_INET6;

use crate::net::{Capture, Family, Fwmark, PortRange, Prefix, Protocol};

/// Tag in the upper bits of the indexes of voicelane's policies. The kernel's own indexes count up from zero.
pub(super) const TAG: u32 = 0x7600_0000;
/// Mask of the tag.
const TAG_MASK: u32 = 0xff00_0000;
/// Age in seconds at which the kernel requests a renewal (soft limit).
pub(super) const RENEW_SECONDS: u64 = 20;
/// Age in seconds at which the kernel deletes a policy (hard limit).
const LIFETIME_SECONDS: u64 = 60;
/// Mask of voicelane's marks: that of [`RoutingIds`](crate::route::desired::RoutingIds), which no setting changes.
const MARK_MASK: u32 = 0xff00_0000;
/// `XFRM_POLICY_ALLOW`.
const ALLOW: u8 = 0;

/// Direction of a policy, with the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    In = 0,
    Out = 1,
}

/// A policy that lets packets of one direction bypass IPsec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BypassPolicy {
    pub(super) direction: Direction,
    prefix: Prefix,
    protocol: Protocol,
    port: u16,
    mask: u16,
    /// Value of voicelane's bits of the mark; none: any value.
    mark: Option<Fwmark>,
}

impl fmt::Display for BypassPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let preposition = match self.direction {
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
        write!(
            f,
            "{preposition} {prefix} {protocol} port {port}/{mask:#06x}"
        )
    }
}

/// Splits a range into aligned blocks whose size is a power of two. Each is a port and a mask.
fn blocks(ports: PortRange) -> impl Iterator<Item = (u16, u16)> {
    let (mut at, end) = (u32::from(ports.first()), u32::from(ports.last()) + 1);
    std::iter::from_fn(move || {
        let left = end.checked_sub(at).filter(|left| *left > 0)?;
        let size = (1 << at.trailing_zeros()).min(1 << left.ilog2());
        let block = (
            u16::try_from(at).ok()?,
            u16::try_from(0x1_0000 - size).ok()?,
        );
        at += size;
        Some(block)
    })
}

/// Returns the policies that captures need. Replies out of the TUN have the mark `reply_mark`; none: any mark.
#[must_use]
pub fn bypass_policies(captures: &[Capture], reply_mark: Option<Fwmark>) -> Vec<BypassPolicy> {
    let mut found = Vec::new();
    for capture in captures {
        for &prefix in capture
            .prefixes
            .iter()
            .filter(|prefix| prefix.family() == Family::V6)
        {
            for (port, mask) in blocks(capture.ports) {
                let unmarked = Some(Fwmark(0));
                let directions = [(Direction::Out, unmarked), (Direction::In, reply_mark)];
                found.extend(directions.map(|(direction, mark)| BypassPolicy {
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
    pub(super) fn selector(&self) -> Selector {
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

    pub(super) fn mark(&self) -> Option<XfrmAttrs> {
        let Fwmark(value) = self.mark?;
        let mask = MARK_MASK;
        Some(XfrmAttrs::Mark(Mark { value, mask }))
    }

    pub(super) fn policy(&self, index: u32) -> ModifyMessage {
        ModifyMessage {
            user_policy_info: UserPolicyInfo {
                selector: self.selector(),
                lifetime_cfg: LifetimeConfig {
                    soft_add_expires_seconds: RENEW_SECONDS,
                    hard_add_expires_seconds: LIFETIME_SECONDS,
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

/// Whether a policy belongs to voicelane.
pub(super) fn is_own(policy: &ModifyMessage) -> bool {
    let info = &policy.user_policy_info;
    info.index & TAG_MASK == TAG
        && (info.action, info.priority) == (ALLOW, 0)
        && !policy
            .nlas
            .iter()
            .any(|attribute| matches!(attribute, XfrmAttrs::Template(_)))
}

/// Returns the mark attribute of a policy.
pub(super) fn mark_of(policy: &ModifyMessage) -> Option<&XfrmAttrs> {
    let mut attributes = policy.nlas.iter();
    attributes.find(|attribute| matches!(attribute, XfrmAttrs::Mark(_)))
}

/// Returns the family of a foreign policy. Policies of single sockets have directions above 2 and match no other
/// socket.
pub(super) fn foreign_family(policy: &ModifyMessage) -> Option<Family> {
    let info = &policy.user_policy_info;
    let family = match i32::from(info.selector.family) {
        AF_INET6 => Family::V6,
        _ => Family::V4,
    };
    (!is_own(policy) && info.direction <= 2).then_some(family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_cover_exactly_the_range(a in 1u16.., b in 1u16.., probe: u16) {
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
    fn the_range_without_port_zero_has_sixteen_blocks() {
        let all = PortRange::new(1, u16::MAX).expect("in order");
        assert_eq!(blocks(all).count(), 16);
        let one = PortRange::new(3478, 3478).expect("in order");
        assert_eq!(blocks(one).collect::<Vec<_>>(), [(3478, 0xffff)]);
    }

    #[test]
    fn only_ipv6_gets_a_bypass() {
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
