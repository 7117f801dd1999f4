//! Reply source substitution: passes a VPN's firewall that accepts replies to the VPN's address only on its own link.
//!
//! A browser binds its ICE sockets to the VPN's address. wg-quick drops packets to this address on another link (its
//! anti-spoofing rule, prerouting, priority -300), and voicelane's replies arrive on its TUN. So the engine sends them to
//! a *substitute address* that is never routed. [`ReplySourceTable`] replaces it by the real address, after that rule
//! and before connection tracking.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    ChecksumFlags, ChecksumType, Expressions, InetHookNumber, MetaKey, Payload, Register,
};

use super::expression::{Expression, NETWORK_HEADER, link_is, load, meta_is, octets, register_is};
use super::table::{AppliedState, Chain, NftError, NftTable, OURS};
use crate::engine::ReplySource;
use crate::net::IfIndex;
use crate::route::observed::{Link, Observed};

/// Reserved block 240.0.0.0/4 (RFC 1112 section 4).
const RESERVED_V4: u32 = 0xf000_0000;
/// Discard-only prefix `100::/64` (RFC 6666).
const DISCARD_V6: u128 = 0x0100 << 112;

/// Returns a substitute for each address on a tunnel, except those on `tun`.
///
/// A substitute keeps the low bits of its address, so it stays the same while other addresses come and go: no reply arrives
/// at another address. If two addresses share these bits, the greater one gets the next free substitute.
///
/// # Panics
/// Never: no machine has more addresses than the smaller block (2^28).
#[must_use]
pub fn reply_sources(observed: &Observed, tun: IfIndex) -> Vec<ReplySource> {
    let tunnel = |link: IfIndex| link != tun && observed.link(link).is_some_and(Link::is_tunnel);
    let real: BTreeSet<_> = observed
        .addresses
        .iter()
        .filter(|address| tunnel(address.link))
        .map(|address| address.addr)
        .filter(|addr| !matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local()))
        .collect();
    let mut taken = BTreeSet::new();
    real.into_iter()
        .map(|real| {
            let substitute = candidates(real).find(|substitute| taken.insert(*substitute));
            let substitute = substitute.expect("a machine has fewer addresses than a block has");
            ReplySource { substitute, real }
        })
        .collect()
}

/// Returns the possible substitutes of an address, best first.
fn candidates(real: IpAddr) -> impl Iterator<Item = IpAddr> {
    (0..).map(move |step: u32| match real {
        IpAddr::V4(real) => {
            // 255.255.255.255 is the broadcast address.
            let low = real.to_bits().wrapping_add(step) & !RESERVED_V4;
            Ipv4Addr::from_bits(RESERVED_V4 | low.min(!RESERVED_V4 - 1)).into()
        }
        IpAddr::V6(real) => {
            let low = (real.to_bits() + u128::from(step)) & u128::from(u64::MAX);
            Ipv6Addr::from_bits(DISCARD_V6 | low).into()
        }
    })
}

/// Replaces the substitute by the real address, in the header and in the checksums of UDP, TCP and ICMPv6.
fn rewrite(source: &ReplySource) -> Vec<Expression> {
    // IPv4 has a header checksum too (RFC 791 section 3.1); IPv6 has none.
    let (family, at, header_checksum) = match source.substitute {
        IpAddr::V4(_) => (
            NetfilterProtoFamily::IPv4,
            16,
            vec![
                Payload::CsumType(ChecksumType::Inet),
                Payload::CsumOffset(10),
            ],
        ),
        IpAddr::V6(_) => (NetfilterProtoFamily::IPv6, 24, Vec::new()),
    };
    let (from, to) = (octets(source.substitute), octets(source.real));
    let destination = [
        Payload::Base(NETWORK_HEADER),
        Payload::Offset(at),
        Payload::Len(u32::try_from(from.len()).expect("an address is short")),
    ];
    let mut fetch = vec![Payload::DestinationRegister(Register::Reg1)];
    fetch.extend(destination.clone());
    let mut store = vec![Payload::SourceRegister(Register::Reg1)];
    store.extend(destination);
    store.extend(header_checksum);
    store.push(Payload::CsumFlags(ChecksumFlags::L4PseudoHeader));

    let mut rule = meta_is(MetaKey::Nfproto, &[family.into()]).to_vec();
    rule.push(Expressions::Payload(fetch).into());
    rule.push(register_is(&from));
    rule.push(load(&to));
    rule.push(Expressions::Payload(store).into());
    rule
}

/// The active substitutions: packets from the TUN to a substitute go to the real address.
pub struct ReplySourceTable {
    table: NftTable,
    tun: String,
    present: AppliedState<Vec<ReplySource>>,
}

impl ReplySourceTable {
    /// After the raw tables (-300), in which VPNs drop packets by the wrong link, and before connection tracking
    /// (-200).
    const CHAIN: Chain = Chain {
        name: "voicelane",
        kind: "filter",
        hook: InetHookNumber::PreRouting,
        priority: -290,
    };

    /// Creates the table without substitutions.
    ///
    /// # Errors
    /// [`NftError::Unsupported`], without which voicelane works too; [`NftError::Refused`].
    pub fn new(tun: &str) -> Result<Self, NftError> {
        // Creating a chain shows at once whether the kernel supports it.
        let table = NftTable::new(format!("{OURS}{tun}"), &[Self::CHAIN])?;
        table.commit(table.deletion(&Self::CHAIN).to_vec())?;
        Ok(Self {
            table,
            tun: tun.to_owned(),
            present: AppliedState::certain(Vec::new()),
        })
    }

    /// Replaces all substitutions at once.
    ///
    /// # Errors
    /// [`NftError::Refused`]: the former substitutions stay, but this is uncertain. The caller must try again.
    pub fn set(&mut self, reply_sources: &[ReplySource]) -> Result<(), NftError> {
        if self.present.is(reply_sources) {
            return Ok(());
        }
        let rules = reply_sources.iter().map(|source| {
            let mut rule = link_is(MetaKey::Iifname, &self.tun).to_vec();
            rule.extend(rewrite(source));
            rule
        });
        let batch = self.table.replacement(&Self::CHAIN, rules);
        self.table
            .apply(&mut self.present, reply_sources.to_vec(), batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::observed::InterfaceAddress;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn observed(addresses: &[(u32, &str)]) -> Observed {
        let link = |index, name: &str, kind: Option<&str>, hardware| Link {
            index: IfIndex(index),
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            hardware,
            up: true,
            carrier: true,
        };
        Observed {
            links: vec![
                link(1, "lo", None, 772),
                link(2, "eth0", None, 1),
                link(3, "wg0", Some("wireguard"), 0xfffe),
                link(4, "voicelane0", Some("tun"), 0xfffe),
            ],
            addresses: addresses
                .iter()
                .map(|&(link, addr)| InterfaceAddress {
                    link: IfIndex(link),
                    addr: ip(addr),
                })
                .collect(),
            ..Observed::default()
        }
    }

    fn pairs(addresses: &[(u32, &str)]) -> Vec<(IpAddr, IpAddr)> {
        let reply_sources = reply_sources(&observed(addresses), IfIndex(4));
        reply_sources
            .into_iter()
            .map(|ReplySource { substitute, real }| (real, substitute))
            .collect()
    }

    #[test]
    fn addresses_on_foreign_tunnels_have_substitutes() {
        let found = pairs(&[
            (1, "127.0.0.1"),
            (2, "192.0.2.2"),
            (3, "10.8.0.2"),
            (3, "fe80::2"),
            (3, "fd00:1:2::3"),
            (4, "10.9.0.1"),
        ]);
        assert_eq!(
            found,
            [
                (ip("10.8.0.2"), ip("250.8.0.2")),
                (ip("fd00:1:2::3"), ip("100::3")),
            ]
        );
    }

    #[test]
    fn equal_low_bits_and_the_broadcast_address_get_distinct_substitutes() {
        let found = pairs(&[
            (3, "10.8.0.2"),
            (3, "26.8.0.2"),
            (3, "fd00::3"),
            (3, "fd01::3"),
        ]);
        assert_eq!(found[1].1, ip("250.8.0.3"));
        assert_eq!(found[3].1, ip("100::4"));
        assert_eq!(pairs(&[(3, "15.255.255.255")])[0].1, ip("255.255.255.254"));
    }
}
