//! Notifications about a traced packet.

use netlink_packet_core::{NetlinkMessage, NetlinkPayload, Nla, NlasIterator};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};

use super::blocked_path::BlockingRule;
use crate::net::{Family, IfIndex};

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const FAMILIES: [(u32, Family); 2] = [(2, Family::V4), (10, Family::V6)];

/// `NFNLGRP_NFTRACE`.
pub(super) const TRACES: u32 = 9;

/// Whether bytes are a trace notification, for tests of the parser.
#[cfg(feature = "lab")]
#[must_use]
pub fn is_trace(bytes: &[u8]) -> bool {
    Trace::parse(bytes).is_some()
}

/// A trace notification (`enum nft_trace_attributes` of linux/netfilter/nf_tables.h).
pub(super) struct Trace {
    /// Identifies the packet.
    pub(super) id: u32,
    /// Family of the packet, if the notification has it.
    pub(super) family: Option<Family>,
    /// Incoming and outgoing link, which only the first notification of a chain has.
    pub(super) links: [Option<IfIndex>; 2],
    /// Position in the ruleset.
    pub(super) at: BlockingRule,
    /// Whether the packet was dropped there.
    pub(super) drops: bool,
}

impl Trace {
    /// Parses a notification; none if it is of another kind.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let message = NetlinkMessage::<NetfilterMessage>::deserialize(bytes).ok()?;
        let NetlinkPayload::InnerMessage(message) = message.payload else {
            return None;
        };
        let NetfilterMessageInner::NfTables(NfTablesMessage::Trace(attributes)) = message.inner
        else {
            return None;
        };
        let value = |kind| {
            let attribute = attributes.iter().find(|it| it.kind() & 0x3fff == kind)?;
            let mut value = vec![0; attribute.value_len()];
            attribute.emit_value(&mut value);
            Some(value)
        };
        let word = |value: Vec<u8>| Some(u32::from_be_bytes(value.try_into().ok()?));
        let text = |value: Vec<u8>| {
            String::from_utf8_lossy(&value)
                .trim_end_matches('\0')
                .to_owned()
        };
        let verdict = value(5).and_then(|nested| {
            let code = NlasIterator::new(&nested)
                .flatten()
                .find(|it| it.kind() == 1)?;
            word(code.value().to_vec())
        });
        let (policy, handle) = (value(16).and_then(word), value(3));
        let handle = handle.and_then(|handle| Some(u64::from_be_bytes(handle.try_into().ok()?)));
        let family = value(15).and_then(word);
        let family = FAMILIES.iter().find(|it| Some(it.0) == family);
        Some(Self {
            id: word(value(6)?)?,
            family: family.map(|it| it.1),
            links: [10, 12].map(|kind| value(kind).and_then(word).map(IfIndex)),
            drops: verdict.or(policy) == Some(0),
            at: BlockingRule {
                family: match message.header.family {
                    NetfilterProtoFamily::IPv4 => "ip",
                    NetfilterProtoFamily::IPv6 => "ip6",
                    _ => "inet",
                },
                table: text(value(1)?),
                chain: text(value(2)?),
                handle,
            },
        })
    }
}
