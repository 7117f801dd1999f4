//! Marks for route lookups without ports, which other programs cause.
//!
//! # Theory of operation
//!
//! Capture rules match ports, but two kinds of lookup have none:
//!
//! - **Outgoing.** A chain of type route changes mark or DSCP (iptables mangle OUTPUT, application firewalls). Then the
//!   kernel looks up the route again, and media enters the VPN. So voicelane's own chains of that type set a mark on
//!   media, one just behind mangle so that filters see the right link, and one behind all chains. The relay's
//!   sockets get their mark back, without which direct packets lose their route.
//! - **Incoming.** A reverse-path check looks up the source of each packet: the expression `fib` with the mark, the
//!   match `rpfilter --validmark`, the sysctl `rp_filter` with `src_valid_mark`. Media from the TUN and from the uplink
//!   gets the mark whose route leads back there. On the uplink only packets to its own address do: the check
//!   stays strict for all others, so no host of the LAN reaches the VPN's address (CVE-2019-14899).
//!
//! Routing rules match the marks ([`crate::route::plan`]). Chains exist only where such programs do.
//!
//! Not possible: to pass a netfilter check that ignores the mark.

use std::collections::BTreeSet;

use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey};

use super::expression::{
    Expression, FibQuery, PacketEnd, end_chain, fib, is_icmp_error, link_is, register_is,
    set_mark_bits, socket_mark_has, socket_mark_is,
};
use super::policy_sets::{BATCH, PolicySets, in_set};
use super::table::{AppliedState, Chain, NftError, NftTable, OURS};
use crate::net::{Family, Fwmark};
use crate::route::desired::{Desired, PortlessLookups, RoutingIds};

/// Behind mangle (-150), and behind all other chains.
const OUTGOING: [Chain; 2] = [
    chain("outgoing", "route", InetHookNumber::LocalOut, -140),
    chain(
        "outgoing-last",
        "route",
        InetHookNumber::LocalOut,
        i32::MAX - 1,
    ),
];
/// Behind defragmentation (-400) and ahead of raw (-300), and once more behind mangle, which may replace the mark.
const INCOMING: [Chain; 2] = [
    chain("incoming", "filter", InetHookNumber::PreRouting, -390),
    chain("incoming-again", "filter", InetHookNumber::PreRouting, -145),
];

const fn chain(
    name: &'static str,
    kind: &'static str,
    hook: InetHookNumber,
    priority: i32,
) -> Chain {
    Chain {
        name,
        kind,
        hook,
        priority,
    }
}

/// Marked packets, and the links on which they arrive.
#[derive(Debug, PartialEq, Eq)]
struct MarkedPackets {
    lookups: PortlessLookups,
    prefixes: PolicySets,
    /// Mark of direct sockets, and its bits.
    direct: (Fwmark, Fwmark),
    uplinks: BTreeSet<String>,
    vpns: BTreeSet<String>,
}

impl MarkedPackets {
    /// None without such lookups or without media.
    fn new(desired: &Desired, vpns: &BTreeSet<String>, ids: &RoutingIds) -> Option<Self> {
        let mut prefixes = PolicySets::of(&desired.captures);
        prefixes.retain(|family| desired.uplinks[family].is_some());
        let whole = |mark| (mark, Fwmark(u32::MAX));
        let uplinks = desired.uplinks.present();
        let is_needed = desired.lookups.any() && prefixes.selectors().next().is_some();
        is_needed.then(|| Self {
            lookups: desired.lookups,
            prefixes,
            direct: desired.marks.mark.map_or((ids.mark, ids.mask), whole),
            uplinks: uplinks.map(|(_, uplink)| uplink.name.clone()).collect(),
            vpns: vpns.clone(),
        })
    }
}

/// Marks packets for lookups without ports. Dropping the value ends it.
pub struct LookupMarks {
    table: NftTable,
    tun: String,
    ids: RoutingIds,
    applied: AppliedState<Option<MarkedPackets>>,
}

impl LookupMarks {
    /// Creates the table without chains.
    ///
    /// # Errors
    /// [`NftError::Unsupported`], without which voicelane works too; [`NftError::Refused`].
    pub fn open(tun: &str, ids: RoutingIds) -> Result<Self, NftError> {
        let table = NftTable::new(format!("{OURS}{tun}-lookups"), &[])?;
        table.set_max_batch(BATCH)?;
        Ok(Self {
            table,
            tun: tun.to_owned(),
            ids,
            applied: AppliedState::certain(None),
        })
    }

    /// Sets or removes the marks. `vpns` are the links of VPNs, on which calls in the VPN are answered.
    ///
    /// # Errors
    /// [`NftError::Refused`]: the former marks stay, but this is uncertain. The caller must try again.
    pub fn set(&mut self, desired: &Desired, vpns: &BTreeSet<String>) -> Result<(), NftError> {
        let packets = MarkedPackets::new(desired, vpns, &self.ids);
        if self.applied.is(&packets) {
            return Ok(());
        }
        let is =
            |is: fn(&PortlessLookups) -> bool| packets.as_ref().is_some_and(|it| is(&it.lookups));
        let (outgoing, incoming) = (is(|it| it.outgoing), is(|it| it.incoming));
        let chains = OUTGOING.iter().filter(|_| outgoing);
        let chains = chains.chain(INCOMING.iter().filter(|_| incoming));
        let chains: Vec<_> = chains.collect();
        let mut batch = self.table.recreation(&[]);
        batch.extend(chains.iter().map(|chain| self.table.chain(chain)));
        if let Some(packets) = &packets {
            for set in packets.prefixes.selectors() {
                batch.extend(packets.prefixes.creation(&self.table, set));
            }
            for chain in chains {
                let rules = match chain.hook {
                    InetHookNumber::LocalOut => self.outgoing(packets),
                    _ => self.incoming(packets),
                };
                let rules = rules.into_iter();
                batch.extend(rules.map(|rule| self.table.rule(chain.name, rule)));
            }
        }
        self.table.apply(&mut self.applied, packets, batch)
    }

    /// Marks media of applications, and gives packets of the relay the mark of their socket.
    fn outgoing(&self, packets: &MarkedPackets) -> Vec<Vec<Expression>> {
        let RoutingIds { mask, .. } = self.ids;
        let relay = [packets.direct, (self.ids.tunnel_mark(), mask)];
        let mut rules: Vec<Vec<_>> = Vec::new();
        for (mark, bits) in relay {
            let mut rule = socket_mark_is(mark).to_vec();
            rule.extend(set_mark_bits(mark.0, bits.0));
            rule.push(end_chain());
            rules.push(rule);
        }
        // As the capture rules do, these leave such sockets alone.
        let mut marked = socket_mark_has(mask).to_vec();
        marked.push(end_chain());
        rules.push(marked);
        for set in packets.prefixes.selectors() {
            let mut rule = in_set(PacketEnd::Destination, set);
            rule.extend(set_mark_bits(self.ids.client_mark().0, mask.0));
            rules.push(rule);
        }
        rules
    }

    /// Marks answers by the link on which they arrive.
    fn incoming(&self, packets: &MarkedPackets) -> Vec<Vec<Expression>> {
        /// `RTN_LOCAL`.
        const LOCAL: u32 = 2;
        let set_mark = |mark: Fwmark| set_mark_bits(mark.0, self.ids.mask.0);
        let uplinks = packets.uplinks.iter().map(|link| {
            let mut matched = link_is(MetaKey::Iifname, link).to_vec();
            matched.push(fib(FibQuery::DestinationTypeOnLink));
            matched.push(register_is(&LOCAL.to_ne_bytes()));
            (matched, self.ids.mark)
        });
        let vpns = packets.vpns.iter().map(|link| {
            let matched = link_is(MetaKey::Iifname, link).to_vec();
            (matched, self.ids.tunnel_mark())
        });
        let tun = link_is(MetaKey::Iifname, &self.tun).to_vec();
        let tun = [(tun, self.ids.client_mark())];
        let mut rules = Vec::new();
        for (link, mark) in uplinks.chain(vpns).chain(tun) {
            let sets = packets.prefixes.selectors();
            let mut sources: Vec<_> = sets.map(|set| in_set(PacketEnd::Source, set)).collect();
            if mark == self.ids.mark {
                // A router between here and the media server sends them.
                sources.extend(Family::BOTH.map(is_icmp_error));
            }
            rules.extend(sources.into_iter().map(|source| {
                let rule = link.iter().cloned().chain(source);
                rule.chain(set_mark(mark)).collect()
            }));
        }
        rules
    }
}
