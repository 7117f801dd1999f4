//! Source NAT for the routers of the demo.

use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    ExpressionAttribute, InetHookNumber, ListAttribute, MetaKey,
};

use super::expression::{link_is, meta_is};
use super::table::{Chain, NftError, NftTable};

/// Masquerades IPv4 packets that leave by `oif`, as home routers do. Dropping the table ends it.
///
/// # Errors
/// [`NftError`].
pub fn masquerade(oif: &str) -> Result<NftTable, NftError> {
    const CHAIN: &str = "voicelane";
    const SOURCE_NAT: i32 = 100;
    let name = format!("masquerade-{oif}");
    let chain = Chain {
        name: CHAIN,
        kind: "nat",
        hook: InetHookNumber::PostRouting,
        priority: SOURCE_NAT,
    };
    let table = NftTable::new(name, &[chain])?;
    let mut rule = meta_is(MetaKey::Nfproto, &[NetfilterProtoFamily::IPv4.into()]).to_vec();
    rule.extend(link_is(MetaKey::Oifname, oif));
    rule.push(ListAttribute::Element(vec![ExpressionAttribute::Name(
        "masq".to_owned(),
    )]));
    table.commit(vec![table.rule(CHAIN, rule)])?;
    Ok(table)
}
