//! Expressions of nftables rules, and elements of sets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Meta,
    MetaKey, Operator, Payload, Register, SetElementAttribute, SetElementFlags, Verdict,
    VerdictAttribute,
};

use crate::net::{Family, Fwmark, Prefix};

/// An expression of a rule.
pub(super) type Expression = ListAttribute<ExpressionAttribute>;

/// `NFT_PAYLOAD_NETWORK_HEADER`.
pub(super) const NETWORK_HEADER: u32 = 1;
/// `NFT_PAYLOAD_TRANSPORT_HEADER`.
const TRANSPORT_HEADER: u32 = 2;
/// Matches packets whose meta key has this value.
pub(super) fn meta_is(key: MetaKey, value: &[u8]) -> [Expression; 2] {
    let load = Expressions::Meta(vec![
        Meta::DestinationRegister(Register::Reg1),
        Meta::Key(key),
    ]);
    [load.into(), register_is(value)]
}

/// Sets a meta key.
pub(super) fn set_meta(key: MetaKey, value: &[u8]) -> [Expression; 2] {
    let store = Expressions::Meta(vec![Meta::SourceRegister(Register::Reg1), Meta::Key(key)]);
    [load(value), store.into()]
}

/// Loads a value into the register.
pub(super) fn load(value: &[u8]) -> Expression {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Reg1),
        Immediate::Data(DataAttribute::Value(value.to_vec())),
    ])
    .into()
}

/// Matches packets whose meta key is this interface name.
pub(super) fn link_is(key: MetaKey, name: &str) -> [Expression; 2] {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(nix::libc::IFNAMSIZ, 0);
    meta_is(key, &padded)
}

pub(super) fn register_is(value: &[u8]) -> Expression {
    compare(Operator::Equal, value)
}

/// Compares the register with a value.
pub(super) fn compare(operator: Operator, value: &[u8]) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
    .into()
}

pub(super) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// Converts prefixes into address ranges that neither overlap nor touch.
pub(super) fn ranges(prefixes: &BTreeSet<Prefix>) -> Vec<(IpAddr, IpAddr)> {
    let mut ranges: Vec<(IpAddr, IpAddr)> = Vec::new();
    for prefix in Prefix::aggregate(prefixes.iter().copied()) {
        match ranges.last_mut() {
            Some((_, last)) if successor(*last) == Some(prefix.first()) => *last = prefix.last(),
            _ => ranges.push((prefix.first(), prefix.last())),
        }
    }
    ranges
}

fn successor(addr: IpAddr) -> Option<IpAddr> {
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

/// Returns the set elements of a range: its first address, and the first one behind it if there is one.
pub(super) fn elements((first, last): (IpAddr, IpAddr)) -> Vec<ListAttribute<SetElementAttribute>> {
    let key = |addr| SetElementAttribute::Key(DataAttribute::Value(octets(addr)));
    let end = successor(last).map(|end| {
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

/// One end of a packet's path.
#[derive(Clone, Copy)]
pub(super) enum PacketEnd {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// Loads an address into the register.
pub(super) fn address(end: PacketEnd, family: Family) -> Expression {
    let (source, length) = match family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 16),
    };
    match end {
        PacketEnd::Source => fetch(NETWORK_HEADER, source, length),
        PacketEnd::Destination => fetch(NETWORK_HEADER, source + length, length),
    }
}

/// Loads a port into the register.
pub(super) fn port(end: PacketEnd) -> Expression {
    match end {
        PacketEnd::Source => fetch(TRANSPORT_HEADER, 0, 2),
        PacketEnd::Destination => fetch(TRANSPORT_HEADER, 2, 2),
    }
}

/// Matches packets with these octets at this offset from the transport header.
pub(super) fn has_octets(offset: u32, octets: &[u8]) -> [Expression; 2] {
    let length = u32::try_from(octets.len()).expect("few octets");
    [fetch(TRANSPORT_HEADER, offset, length), register_is(octets)]
}

/// Builds an expression that netlink-packet-netfilter does not name.
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

/// Excludes a packet from connection tracking.
pub(super) fn untrack() -> Expression {
    let notrack: Expression =
        ListAttribute::Element(vec![ExpressionAttribute::Name("notrack".to_owned())]);
    notrack
}

/// A query of the routing tables (`nft_fib`).
#[derive(Clone, Copy)]
pub(super) enum FibQuery {
    /// The link by which the source is reachable, if the packet came in by it; else 0.
    SourceLink,
    /// Type of the destination address.
    DestinationType,
    /// Type of the destination address on the incoming link.
    DestinationTypeOnLink,
}

/// Loads the result of a query into the register.
pub(super) fn fib(query: FibQuery) -> Expression {
    const SOURCE: u32 = 1;
    const DESTINATION: u32 = 1 << 1;
    const BY_LINK: u32 = 1 << 3;
    let (result, flags): (u32, u32) = match query {
        FibQuery::SourceLink => (1, SOURCE | BY_LINK),
        FibQuery::DestinationType => (3, DESTINATION),
        FibQuery::DestinationTypeOnLink => (3, DESTINATION | BY_LINK),
    };
    let register = u32::from(Register::Reg1);
    let words = [register, result, flags].map(u32::to_be_bytes);
    expression("fib", &[(1, &words[0]), (2, &words[1]), (3, &words[2])])
}

/// Enables reassembly of fragments (`nft_tproxy`, both families) by a rule that no packet reaches.
pub(super) fn defragment() -> Vec<Expression> {
    let no_protocol = [0xff];
    let (family, register) = (0_u32.to_be_bytes(), u32::from(Register::Reg1).to_be_bytes());
    let mut rule = meta_is(MetaKey::Nfproto, &no_protocol).to_vec();
    rule.push(load(&[0, 1]));
    rule.push(expression("tproxy", &[(1, &family), (3, &register)]));
    rule
}

/// Sets voicelane's bits of the mark and keeps the others.
pub(super) fn set_mark_bits(mark: u32, mask: u32) -> [Expression; 3] {
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

/// Traces one packet per second from one link to another.
pub(super) fn trace_some(family: Family, from: &str, to: &str) -> Vec<Expression> {
    let (rate, burst) = (1_u64.to_be_bytes(), 1_u32.to_be_bytes());
    let mut rule = is_family(family).to_vec();
    rule.extend(link_is(MetaKey::Iifname, from));
    rule.extend(link_is(MetaKey::Oifname, to));
    rule.push(expression("limit", &[(1, &rate), (2, &rate), (3, &burst)]));
    rule.extend(set_meta(MetaKey::NftraceBit, &[1]));
    rule
}

/// Drops the packet.
pub(super) fn drop_packet() -> Expression {
    verdict(0)
}

/// Ends the chain: no later rule of it sees the packet.
pub(super) fn end_chain() -> Expression {
    verdict(1)
}

/// `NF_DROP` or `NF_ACCEPT`.
fn verdict(code: u32) -> Expression {
    let verdict = VerdictAttribute::Code(Verdict::Other(code));
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![verdict])),
    ])
    .into()
}

/// The number of `ICMPv6` in an IPv6 header.
const ICMPV6: u8 = 58;

/// Matches `ICMPv6` packets of a type.
pub(super) fn is_icmpv6(kind: u8) -> Vec<Expression> {
    let mut rule = meta_is(MetaKey::L4Proto, &[ICMPV6]).to_vec();
    rule.extend([fetch(TRANSPORT_HEADER, 0, 1), register_is(&[kind])]);
    rule
}

/// Matches errors of ICMP (RFC 792: 3, 11, 12) or of `ICMPv6` (RFC 4443: 1 to 4).
pub(super) fn is_icmp_error(family: Family) -> Vec<Expression> {
    let (protocol, first, last) = match family {
        Family::V4 => (1, 3, 12),
        Family::V6 => (ICMPV6, 1, 4),
    };
    let mut rule = is_family(family).to_vec();
    rule.extend(meta_is(MetaKey::L4Proto, &[protocol]));
    rule.push(fetch(TRANSPORT_HEADER, 0, 1));
    rule.push(compare(Operator::GreatherThanEqual, &[first]));
    rule.push(compare(Operator::LessThanEqual, &[last]));
    if family == Family::V4 {
        // Between them are redirect, echo request, and router discovery.
        let others = [5, 8, 9, 10].map(|kind| compare(Operator::NotEqual, &[kind]));
        rule.extend(others);
    }
    rule
}

/// Loads the mark of the packet's socket into the register (`nft_socket`). A packet without a socket does not match.
fn socket_mark() -> Expression {
    const MARK: u32 = 1;
    let register = u32::from(Register::Reg1);
    let words = [MARK, register].map(u32::to_be_bytes);
    expression("socket", &[(1, &words[0]), (2, &words[1])])
}

/// Matches packets of sockets with this mark.
pub(super) fn socket_mark_is(mark: Fwmark) -> [Expression; 2] {
    [socket_mark(), register_is(&mark.0.to_ne_bytes())]
}

/// Matches packets of sockets whose mark has one of these bits.
pub(super) fn socket_mark_has(bits: Fwmark) -> [Expression; 3] {
    let value = |bits: u32| DataAttribute::Value(bits.to_ne_bytes().to_vec());
    let mask = Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(4),
        Bitwise::Mask(value(bits.0)),
        Bitwise::Xor(value(0)),
    ]);
    let some = compare(Operator::NotEqual, &0_u32.to_ne_bytes());
    [socket_mark(), mask.into(), some]
}

/// Sets the connection tracking mark: the expression `ct`, which netlink-packet-netfilter does not name.
pub(super) fn set_conntrack_mark(mark: Fwmark) -> [Expression; 2] {
    /// `NFTA_CT_KEY`, whose value is `NFT_CT_MARK`.
    const KEY: u16 = 2;
    const MARK: u32 = 3;
    /// `NFTA_CT_SREG`.
    const SOURCE: u16 = 4;
    let word = |kind, value: u32| DefaultNla::new(kind, value.to_be_bytes().to_vec());
    let store = Expressions::Other {
        expression_type: "ct".to_owned(),
        attributes: vec![word(KEY, MARK), word(SOURCE, Register::Reg1.into())],
    };
    [load(&mark.0.to_ne_bytes()), store.into()]
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
        let join = |texts: &[&str]| {
            let ranges = ranges(&prefixes(texts)).into_iter();
            ranges
                .map(|(first, last)| format!("{first}-{last}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            join(&["10.0.1.0/24", "10.0.2.0/24", "10.0.2.128/25", "10.0.4.0/24"]),
            ["10.0.1.0-10.0.2.255", "10.0.4.0-10.0.4.255"]
        );
        assert_eq!(
            join(&["2001:db8::/33", "2001:db8:8000::/33"]),
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
