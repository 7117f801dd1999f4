//! The policy's prefixes as nftables sets, and expressions that match packets to or from them.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_netfilter::nftables::{
    Expressions, Lookup, MetaKey, NfTablesMessage, Operator, Register, SetAttribute,
    SetElementList, SetElementMessage, SetFlags, SetMessage,
};

use super::expression::{
    Expression, PacketEnd, address, compare, elements, is_family, meta_is, port, ranges,
};
use super::table::NftTable;
use crate::net::{Capture, Family, PortRange, Prefix, Protocol};

/// Maximum elements of a set in one message: nested attributes are limited to 64 KiB.
const ELEMENTS: usize = 500;
/// Maximum batch in bytes: about 50,000 prefixes.
pub(super) const BATCH: usize = 4 << 20;

/// Family, protocol and ports of the prefixes of one set.
pub(super) type FamilySelector = (Family, Protocol, PortRange);

/// Prefixes by family, protocol and ports: one set each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PolicySets(BTreeMap<FamilySelector, BTreeSet<Prefix>>);

impl PolicySets {
    pub(super) fn of(captures: &[Capture]) -> Self {
        let mut sets = BTreeMap::<_, BTreeSet<_>>::new();
        for Capture {
            protocol,
            ports,
            prefixes,
        } in captures
        {
            for prefix in prefixes {
                let selector = (prefix.family(), *protocol, *ports);
                sets.entry(selector).or_default().insert(*prefix);
            }
        }
        Self(sets)
    }

    /// Adds the prefixes of other sets.
    pub(super) fn extend(&mut self, other: &Self) {
        for (selector, prefixes) in &other.0 {
            self.0.entry(*selector).or_default().extend(prefixes);
        }
    }

    /// Keeps the sets of these families.
    pub(super) fn retain(&mut self, is_kept: impl Fn(Family) -> bool) {
        self.0.retain(|selector, _| is_kept(selector.0));
    }

    /// Returns the selector of each set with its number in a batch.
    pub(super) fn selectors(&self) -> impl Iterator<Item = (u32, FamilySelector)> {
        (1..).zip(self.0.keys().copied())
    }

    /// Returns the messages that create a set.
    pub(super) fn creation(
        &self,
        table: &NftTable,
        (number, selector): (u32, FamilySelector),
    ) -> Vec<NfTablesMessage> {
        // nft(8) shows the type; the kernel ignores it.
        let kind = match selector.0 {
            Family::V4 => 7,
            Family::V6 => 8,
        };
        let name = set_name(selector);
        let mut messages = vec![NfTablesMessage::NewSet(SetMessage {
            attributes: vec![
                SetAttribute::Table(table.name().to_owned()),
                SetAttribute::Name(name.clone()),
                SetAttribute::Flags(SetFlags::Interval),
                SetAttribute::KeyType(kind),
                SetAttribute::KeyLen(u32::from(selector.0.bits()) / 8),
                SetAttribute::Id(number),
            ],
        })];
        let prefixes = &self.0[&selector];
        let elements: Vec<_> = ranges(prefixes).into_iter().flat_map(elements).collect();
        messages.extend(elements.chunks(ELEMENTS).map(|elements| {
            NfTablesMessage::NewSetElement(SetElementMessage {
                attributes: vec![
                    SetElementList::Table(table.name().to_owned()),
                    SetElementList::Set(name.clone()),
                    SetElementList::SetId(number),
                    SetElementList::Elements(elements.to_vec()),
                ],
            })
        }));
        messages
    }
}

/// Matches packets with one end in a set: its protocol, ports and prefixes.
pub(super) fn in_set(end: PacketEnd, (number, selector): (u32, FamilySelector)) -> Vec<Expression> {
    let (family, protocol, ports) = selector;
    let mut rule = is_family(family).to_vec();
    rule.extend(meta_is(MetaKey::L4Proto, &[protocol.number()]));
    rule.push(port(end));
    let (first, last) = (ports.first().to_be_bytes(), ports.last().to_be_bytes());
    rule.push(compare(Operator::GreatherThanEqual, &first));
    rule.push(compare(Operator::LessThanEqual, &last));
    rule.push(address(end, family));
    rule.push(
        Expressions::Lookup(vec![
            Lookup::Set(set_name(selector)),
            Lookup::SetId(number),
            Lookup::SourceRegister(Register::Reg1),
        ])
        .into(),
    );
    rule
}

fn set_name((family, protocol, ports): FamilySelector) -> String {
    format!("{family}-{protocol}-{ports}").to_lowercase()
}
