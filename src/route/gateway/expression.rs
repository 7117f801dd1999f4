//! Sets and expressions of nftables that only a gateway needs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    Bitwise, DataAttribute, ExpressionAttribute, Expressions, ListAttribute, Meta, MetaKey,
    Payload, Register, SetElementAttribute, SetElementFlags,
};

use crate::net::{Family, Prefix};
use crate::route::nft::{Expression, NETWORK_HEADER, link_is, load, meta_is, octets, set_meta};

/// Prefixes as ranges of addresses that neither overlap nor touch.
pub(super) fn ranges(prefixes: &BTreeSet<Prefix>) -> Vec<(IpAddr, IpAddr)> {
    let mut ranges: Vec<(IpAddr, IpAddr)> = Vec::new();
    for prefix in Prefix::aggregate(prefixes.iter().copied()) {
        match ranges.last_mut() {
            Some((_, last)) if following(*last) == Some(prefix.first()) => *last = prefix.last(),
            _ => ranges.push((prefix.first(), prefix.last())),
        }
    }
    ranges
}

fn following(addr: IpAddr) -> Option<IpAddr> {
    match addr {
        IpAddr::V4(addr) => addr
            .to_bits()
            .checked_add(1)
            .map(|it| IpAddr::V4(it.into())),
        IpAddr::V6(addr) => addr
            .to_bits()
            .checked_add(1)
            .map(|it| IpAddr::V6(it.into())),
    }
}

/// The first address of a range, and the first behind it if there is one.
pub(super) fn elements((first, last): (IpAddr, IpAddr)) -> Vec<ListAttribute<SetElementAttribute>> {
    let key = |addr| SetElementAttribute::Key(DataAttribute::Value(octets(addr)));
    let end = following(last).map(|end| {
        ListAttribute::Element(vec![
            key(end),
            SetElementAttribute::Flags(SetElementFlags::IntervalEnd),
        ])
    });
    let begin = ListAttribute::Element(vec![key(first)]);
    std::iter::once(begin).chain(end).collect()
}

pub(super) fn is_family(family: Family) -> [Expression; 2] {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    meta_is(MetaKey::Nfproto, &[family.into()])
}

fn fetch(base: u32, offset: u32, length: u32) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
    .into()
}

pub(super) fn destination(family: Family) -> Expression {
    match family {
        Family::V4 => fetch(NETWORK_HEADER, 16, 4),
        Family::V6 => fetch(NETWORK_HEADER, 24, 16),
    }
}

pub(super) fn destination_port() -> Expression {
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`.
    const TRANSPORT_HEADER: u32 = 2;
    fetch(TRANSPORT_HEADER, 2, 2)
}

/// An expression that the library does not name.
fn expression(name: &str, attributes: &[(u16, &[u8])]) -> Expression {
    let attributes = attributes.iter();
    Expressions::Other {
        expression_type: name.to_owned(),
        attributes: attributes
            .map(|(kind, value)| DefaultNla::new(*kind, value.to_vec()))
            .collect(),
    }
    .into()
}

/// Takes a packet out of connection tracking's sight.
pub(super) fn untrack() -> Expression {
    let notrack: Expression =
        ListAttribute::Element(vec![ExpressionAttribute::Name("notrack".to_owned())]);
    notrack
}

/// What routing is asked.
#[derive(Clone, Copy)]
pub(super) enum Asked {
    /// Whether the source is reached by the link that the packet came in by: the link, or 0.
    LinkOfSource,
    /// What kind of address the destination is.
    TypeOfDestination,
}

/// Loads what routing says (`nft_fib`).
pub(super) fn routing(asked: Asked) -> Expression {
    const SOURCE: u32 = 1;
    const DESTINATION: u32 = 1 << 1;
    const BY_LINK: u32 = 1 << 3;
    let (result, flags): (u32, u32) = match asked {
        Asked::LinkOfSource => (1, SOURCE | BY_LINK),
        Asked::TypeOfDestination => (3, DESTINATION),
    };
    let register = u32::from(Register::Reg1);
    let words = [register, result, flags].map(u32::to_be_bytes);
    expression("fib", &[(1, &words[0]), (2, &words[1]), (3, &words[2])])
}

/// Has fragments put together (`nft_tproxy`, both families), by a rule that no packet gets through.
pub(super) fn defragment() -> Vec<Expression> {
    let nobody = [0xff];
    let (family, register) = (0_u32.to_be_bytes(), u32::from(Register::Reg1).to_be_bytes());
    let mut rule = meta_is(MetaKey::Nfproto, &nobody).to_vec();
    rule.push(load(&[0, 1]));
    rule.push(expression("tproxy", &[(1, &family), (3, &register)]));
    rule
}

/// Sets the bits of the mark that are ours, and leaves the others.
pub(super) fn mark_within(mark: u32, mask: u32) -> [Expression; 3] {
    let get = Expressions::Meta(vec![
        Meta::DestinationRegister(Register::Reg1),
        Meta::Key(MetaKey::Mark),
    ]);
    let value = |bits: u32| DataAttribute::Value(bits.to_ne_bytes().to_vec());
    let change = Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(4),
        Bitwise::Mask(value(!mask)),
        Bitwise::Xor(value(mark)),
    ]);
    let set = Expressions::Meta(vec![
        Meta::SourceRegister(Register::Reg1),
        Meta::Key(MetaKey::Mark),
    ]);
    [get.into(), change.into(), set.into()]
}

/// Traces one packet in a second from one link to another.
pub(super) fn trace_some(family: Family, from: &str, to: &str) -> Vec<Expression> {
    let (rate, burst) = (1_u64.to_be_bytes(), 1_u32.to_be_bytes());
    let mut rule = is_family(family).to_vec();
    rule.extend(link_is(MetaKey::Iifname, from));
    rule.extend(link_is(MetaKey::Oifname, to));
    rule.push(expression("limit", &[(1, &rate), (2, &rate), (3, &burst)]));
    rule.extend(set_meta(MetaKey::NftraceBit, &[1]));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> BTreeSet<Prefix> {
        let prefixes = texts.iter();
        prefixes.map(|it| it.parse().expect("a prefix")).collect()
    }

    #[test]
    fn ranges_neither_overlap_nor_touch() {
        let told = |texts: &[&str]| {
            let ranges = ranges(&prefixes(texts)).into_iter();
            ranges
                .map(|(first, last)| format!("{first}-{last}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            told(&["10.0.1.0/24", "10.0.2.0/24", "10.0.2.128/25", "10.0.4.0/24"]),
            ["10.0.1.0-10.0.2.255", "10.0.4.0-10.0.4.255"]
        );
        assert_eq!(
            told(&["2001:db8::/33", "2001:db8:8000::/33"]),
            ["2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"]
        );
    }

    #[test]
    fn a_range_up_to_the_last_address_has_no_end() {
        let ends = |text| {
            let range = ranges(&prefixes(&[text]));
            elements(range[0]).len()
        };
        assert_eq!(ends("255.255.255.0/24"), 1);
        assert_eq!(ends("255.255.254.0/24"), 2);
    }
}
