//! Whether this machine's firewall lets media by, found out without sending any; and what lets it by.
//!
//! # Theory of operation
//!
//! **Probe.** Two ways must be open: an application's packets into our TUN, and the relay's out of the uplink. For each,
//! a datagram to an address of the policy is sent as those would be; and for IPv6 a neighbour solicitation (RFC 4861), as
//! the kernel sends it to find the router, for a kill switch may forget that one. A probe bears a packet priority that
//! nobody else uses. By that, a chain of ours ahead of all others at the output hook turns on nftables' tracing for it,
//! and another behind all others at the postrouting hook drops it: nothing leaves the machine. The trace names the rule
//! that dropped it. Ours: the way is open. Somebody else's: there is the culprit, by table, chain and rule. What
//! iptables-nft made is traced like the rest. A probe that is refused while no rule dropped it has met something that is
//! not nftables: legacy iptables, or a security module.
//!
//! Not seen: what drops replies on their way in, and what lies behind the postrouting hook (netdev chains, traffic
//! control, control groups).
//!
//! **Permit.** We edit nobody's firewall. But a VPN's firewall must let the VPN's own packets out, and knows them by a
//! mark. Where IT says so, media bears that mark too: the relay's sockets have it as theirs, and a third chain of ours
//! gives it to what goes into our TUN.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use netlink_packet_core::{DefaultNla, NetlinkMessage, NetlinkPayload, Nla, NlasIterator};
use netlink_packet_netfilter::nftables::{
    DataAttribute, Expressions, Immediate, InetHookNumber, MetaKey, NfTablesMessage, Payload,
    Register, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::{Socket as Netlink, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::nft::{
    Chain, Expression, NftError, Table, link_is, load, meta_is, register_is, set_meta,
};
use crate::net::{Family, Fwmark};

/// The packet priority (`SO_PRIORITY`) of probes. Traffic control reads it as a class handle, 7600:1.
const PROBE: u32 = 0x7600_0001;
/// `NFNLGRP_NFTRACE`.
const TRACES: u32 = 9;
/// Turns on the trace: ahead of all.
const BEGIN: &str = "probe-begin";
/// Drops the probe: behind all but the confirmation of connections, which a probe is not worth.
const END: &str = "probe-end";
/// Marks what goes into our TUN and what the relay sends: after connection tracking (-200), before the filters (0).
const PERMIT: &str = "permit";

/// What a VPN's firewall knows its own packets by, lent to media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permit {
    /// The VPN's mark, in the place of ours.
    pub mark: Option<Fwmark>,
    /// The mark of a connection.
    pub conntrack_mark: Option<Fwmark>,
}

/// A way that media takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// From applications into our TUN.
    Captured,
    /// From the relay out of the uplink.
    Direct,
    /// From the kernel to the neighbours on the uplink, the router among them.
    Neighbours,
}

/// A rule that forbids a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// The family of its table, in the words of nft(8): "inet", "ip" or "ip6".
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its handle, as `nft --handle list ruleset` shows it; none when it is the chain's policy.
    pub handle: Option<u64>,
}

/// A way that the firewall forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Whose packets.
    pub family: Family,
    /// Which way.
    pub path: Path,
    /// The link at its end.
    pub link: String,
    /// The mark that they bear, if any.
    pub mark: Option<Fwmark>,
    /// Who forbids it; none when it is no rule of nftables.
    pub culprit: Option<Culprit>,
}

impl Culprit {
    /// Whether iptables-nft made the table: by the names that it gives.
    fn is_iptables(&self) -> bool {
        let tables = ["filter", "mangle", "nat", "raw", "security"];
        self.family != "inet" && tables.contains(&self.table.as_str())
    }

    /// What the maker of the rule offers itself, where it is known by its names.
    fn own_way(&self) -> Option<&'static str> {
        let Self { table, chain, .. } = self;
        if table == "mullvad" {
            Some(
                "[uplink] conntrack_mark = 0xf41 in voicelane's configuration, Mullvad's mark for what it excludes",
            )
        } else if table == "cloudflare-warp" {
            Some("a split-tunnel exclude of the policy's prefixes in the Zero Trust dashboard")
        } else if chain.starts_with("ciscovpn") {
            Some("a split-exclude list of the policy's prefixes on the VPN gateway")
        } else {
            None
        }
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            family,
            table,
            chain,
            handle,
        } = self;
        match handle {
            Some(handle) => write!(f, "rule handle {handle} of the ")?,
            None => f.write_str("the policy of the ")?,
        }
        write!(f, "chain {chain} in the table {family} {table}")
    }
}

impl Obstacle {
    /// The command by which IT lets this way through, ahead of the rule that forbids it.
    #[must_use]
    pub fn exclude(&self) -> String {
        let Self {
            family, link, mark, ..
        } = self;
        let neighbours = self.path == Path::Neighbours;
        let iptables = |variant, chain: &str| {
            let program = match family {
                Family::V4 => "iptables",
                Family::V6 => "ip6tables",
            };
            let let_out =
                |what: &str| format!("{program}{variant} -I {chain} -o {link}{what} -j ACCEPT");
            match mark {
                Some(mark) => let_out(&format!(" -m mark --mark {:#x}", mark.0)),
                None if neighbours => ["solicitation", "advertisement"]
                    .map(|kind| let_out(&format!(" -p icmpv6 --icmpv6-type neighbour-{kind}")))
                    .join("; "),
                None => let_out(""),
            }
        };
        match &self.culprit {
            None => iptables("-legacy", "OUTPUT"),
            Some(culprit) if culprit.is_iptables() => iptables("", &culprit.chain),
            Some(Culprit {
                family,
                table,
                chain,
                ..
            }) => {
                let what = match mark {
                    Some(mark) => format!(" meta mark {:#x}", mark.0),
                    None if neighbours => {
                        " icmpv6 type '{ nd-neighbor-solicit, nd-neighbor-advert }'".to_owned()
                    }
                    None => String::new(),
                };
                format!("nft insert rule {family} {table} {chain} oifname {link}{what} accept")
            }
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.path {
            Path::Captured => "applications' media into",
            Path::Direct => "the direct path by",
            Path::Neighbours => "to find neighbours by",
        };
        let Self { family, link, .. } = self;
        write!(
            f,
            "a firewall on this machine forbids {way} {link} ({family}): "
        )?;
        match &self.culprit {
            Some(culprit) => culprit.fmt(f)?,
            None => f.write_str("no rule of nftables, so legacy iptables or a security module")?,
        }
        write!(
            f,
            "; media stays in the VPN until IT adds: {}",
            self.exclude()
        )?;
        match self.culprit.as_ref().and_then(Culprit::own_way) {
            Some(own) => write!(f, "; or: {own}"),
            None => Ok(()),
        }
    }
}

/// Our hold on the firewall: its probes, and the permit in force.
pub struct Firewall {
    table: Table,
    traces: Netlink,
    tun: String,
    permit: Option<(Permit, String, Fwmark)>,
}

impl Firewall {
    /// Makes our chains. They do nothing yet to any packet but a probe.
    ///
    /// # Errors
    /// [`NftError::Unsupported`], with which one can do without; [`NftError::Refused`].
    pub fn open(tun: &str) -> Result<Self, NftError> {
        let chain = |name, hook, priority| Chain {
            name,
            kind: "filter",
            hook,
            priority,
        };
        let table = Table::new(
            format!("voicelane-{tun}-firewall"),
            &[
                chain(BEGIN, InetHookNumber::LocalOut, i32::MIN),
                chain(PERMIT, InetHookNumber::LocalOut, -150),
                chain(END, InetHookNumber::PostRouting, i32::MAX - 1),
            ],
        )?;
        let is_probe = || meta_is(MetaKey::Priority, &PROBE.to_ne_bytes()).into_iter();
        let trace = is_probe().chain(set_meta(MetaKey::NftraceBit, &[1]));
        let end = is_probe().chain([drop_it()]);
        table.commit(vec![
            table.rule(BEGIN, trace.collect()),
            table.rule(END, end.collect()),
        ])?;
        let listen = || -> io::Result<Netlink> {
            let mut traces = Netlink::new(NETLINK_NETFILTER)?;
            traces.bind_auto()?;
            traces.add_membership(TRACES)?;
            traces.set_non_blocking(true)?;
            Ok(traces)
        };
        Ok(Self {
            traces: listen().map_err(NftError::Unsupported)?,
            table,
            tun: tun.to_owned(),
            permit: None,
        })
    }

    /// Lends media a permit, or takes it back: to what goes into our TUN, and to what leaves by `uplink` with `mark`.
    ///
    /// # Errors
    /// [`NftError::Refused`]; the former permit then stays.
    pub fn lend(&mut self, permit: Permit, uplink: &str, mark: Fwmark) -> Result<(), NftError> {
        let wanted = Some((permit, uplink.to_owned(), mark));
        if self.permit == wanted {
            return Ok(());
        }
        let mut batch = vec![self.table.flush(PERMIT)];
        let captured = || link_is(MetaKey::Oifname, &self.tun).into_iter();
        if let Some(mark) = permit.mark {
            let neighbours = [SOLICIT, ADVERTISE].map(|kind| {
                let rule = link_is(MetaKey::Oifname, uplink).into_iter();
                rule.chain(is_icmpv6(kind)).collect()
            });
            let captured = captured().collect::<Vec<_>>();
            for these in std::iter::once(captured).chain(neighbours) {
                let rule = these.into_iter();
                let rule = rule.chain(set_meta(MetaKey::Mark, &mark.0.to_ne_bytes()));
                batch.push(self.table.rule(PERMIT, rule.collect()));
            }
        }
        if let Some(connection) = permit.conntrack_mark {
            let direct = link_is(MetaKey::Oifname, uplink).into_iter();
            let direct = direct.chain(meta_is(MetaKey::Mark, &mark.0.to_ne_bytes()));
            for these in [captured().collect::<Vec<_>>(), direct.collect()] {
                let rule = these.into_iter().chain(set_conntrack_mark(connection));
                batch.push(self.table.rule(PERMIT, rule.collect()));
            }
        }
        self.table.commit(batch)?;
        self.permit = wanted;
        Ok(())
    }

    /// Tries both ways to a destination. `direct` is a socket as the relay's are, bound to `uplink` and with `mark`.
    ///
    /// A probe that ends in neither an open way nor a refusal tells nothing: an unreachable network is no firewall.
    pub fn probe(
        &self,
        direct: &Socket,
        (uplink, mark): (&str, Fwmark),
        to: SocketAddr,
    ) -> Vec<Obstacle> {
        let family = Family::of(to.ip());
        let obstacle = |path, link: &str, mark, culprit| Obstacle {
            family,
            path,
            link: link.to_owned(),
            mark,
            culprit,
        };
        let captured = socket_on(&self.tun, Domain::for_address(to), Type::DGRAM, None)
            .ok()
            .and_then(|socket| self.send(&socket, &[], to))
            .map(|culprit| obstacle(Path::Captured, &self.tun, None, culprit));
        let directly = self
            .send(direct, &[], to)
            .map(|culprit| obstacle(Path::Direct, uplink, Some(mark), culprit));
        let neighbours = || {
            let icmp = Some(Protocol::ICMPV6);
            let socket = socket_on(uplink, Domain::IPV6, Type::RAW, icmp).ok()?;
            socket.set_multicast_hops_v6(255).ok()?;
            let culprit = self.send(&socket, &SOLICITATION, SOLICITED.into())?;
            Some(obstacle(Path::Neighbours, uplink, None, culprit))
        };
        let neighbours = (family == Family::V6).then(neighbours).flatten();
        [captured, directly, neighbours]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Sends a probe. None: nothing is known to forbid it; otherwise who does, if that is known.
    fn send(&self, socket: &Socket, probe: &[u8], to: SocketAddr) -> Option<Option<Culprit>> {
        socket.set_priority(PROBE).ok()?;
        let sent = socket.send_to(probe, &to.into());
        // The kernel traces while it sends: the trace is complete now.
        match self.end_of_probe() {
            Some(culprit) if culprit.table == self.table.name() => None,
            Some(culprit) => Some(Some(culprit)),
            None => {
                let refused = sent.err().and_then(|error| error.raw_os_error());
                let refused = refused.map(Errno::from_raw);
                matches!(refused, Some(Errno::EPERM | Errno::EACCES)).then_some(None)
            }
        }
    }

    /// Reads all traces and says which rule dropped the probe among them.
    fn end_of_probe(&self) -> Option<Culprit> {
        let (mut probe, mut end) = (None, None);
        while let Ok((bytes, _)) = self.traces.recv_from_full() {
            let Some(trace) = Trace::parse(&bytes) else {
                continue;
            };
            let Trace { id, at, drops } = trace;
            if at.table == self.table.name() && at.chain == BEGIN {
                probe = Some(id);
            }
            if drops && probe == Some(id) {
                end = Some(at);
            }
        }
        end
    }
}

/// The number of `ICMPv6` in a header, and of neighbour solicitations and advertisements in its own (RFC 4861).
const ICMPV6: u8 = 58;
const SOLICIT: u8 = 135;
const ADVERTISE: u8 = 136;
/// A neighbour solicitation (RFC 4861 section 4.3) for fe80::1, whose checksum is the kernel's to write.
const SOLICITATION: [u8; 24] = {
    let mut message = [0; 24];
    (message[0], message[8], message[9], message[23]) = (SOLICIT, 0xfe, 0x80, 1);
    message
};
/// Whom it goes to (RFC 4291 section 2.7.1).
const SOLICITED: SocketAddrV6 =
    SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1), 0, 0, 0);

fn socket_on(
    link: &str,
    domain: Domain,
    kind: Type,
    protocol: Option<Protocol>,
) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind.nonblocking(), protocol)?;
    socket.bind_device(Some(link.as_bytes()))?;
    Ok(socket)
}

/// The verdict that ends a packet.
fn drop_it() -> Expression {
    const DROP: u32 = 0;
    let verdict = VerdictAttribute::Code(Verdict::Other(DROP));
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![verdict])),
    ])
    .into()
}

/// Goes on if the packet is `ICMPv6` of this type.
fn is_icmpv6(kind: u8) -> Vec<Expression> {
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`.
    const TRANSPORT_HEADER: u32 = 2;
    let fetch = Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(TRANSPORT_HEADER),
        Payload::Offset(0),
        Payload::Len(1),
    ]);
    let mut rule = meta_is(MetaKey::L4Proto, &[ICMPV6]).to_vec();
    rule.extend([fetch.into(), register_is(&[kind])]);
    rule
}

/// Gives the packet's connection a mark: the expression `ct`, which the library does not name.
fn set_conntrack_mark(mark: Fwmark) -> [Expression; 2] {
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

/// One notice of a trace (`enum nft_trace_attributes` of linux/netfilter/nf_tables.h).
struct Trace {
    id: u32,
    at: Culprit,
    drops: bool,
}

impl Trace {
    fn parse(bytes: &[u8]) -> Option<Self> {
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
        Some(Self {
            id: word(value(6)?)?,
            drops: verdict.or(policy) == Some(0),
            at: Culprit {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacle(
        family: Family,
        path: Path,
        culprit: Option<(&'static str, &str, &str)>,
    ) -> Obstacle {
        let (link, mark) = match path {
            Path::Captured => ("voicelane0", None),
            Path::Direct => ("wlan0", Some(Fwmark(0x7600_0000))),
            Path::Neighbours => ("wlan0", None),
        };
        Obstacle {
            family,
            path,
            link: link.to_owned(),
            mark,
            culprit: culprit.map(|(family, table, chain)| Culprit {
                family,
                table: table.to_owned(),
                chain: chain.to_owned(),
                handle: (chain != "output").then_some(7),
            }),
        }
    }

    #[test]
    fn it_is_told_what_to_add_in_the_words_of_what_forbids() {
        let filter = Some(("ip6", "filter", "OUTPUT"));
        let own = Some(("ip", "corp", "egress"));
        for (family, path, culprit, exclude) in [
            (
                Family::V4,
                Path::Captured,
                Some(("ip", "filter", "ciscovpn")),
                "iptables -I ciscovpn -o voicelane0 -j ACCEPT",
            ),
            (
                Family::V6,
                Path::Direct,
                filter,
                "ip6tables -I OUTPUT -o wlan0 -m mark --mark 0x76000000 -j ACCEPT",
            ),
            (
                Family::V6,
                Path::Neighbours,
                filter,
                "ip6tables -I OUTPUT -o wlan0 -p icmpv6 --icmpv6-type neighbour-solicitation -j ACCEPT; \
                 ip6tables -I OUTPUT -o wlan0 -p icmpv6 --icmpv6-type neighbour-advertisement -j ACCEPT",
            ),
            (
                Family::V4,
                Path::Direct,
                own,
                "nft insert rule ip corp egress oifname wlan0 meta mark 0x76000000 accept",
            ),
            (
                Family::V6,
                Path::Neighbours,
                Some(("inet", "corp", "egress")),
                "nft insert rule inet corp egress oifname wlan0 \
                 icmpv6 type '{ nd-neighbor-solicit, nd-neighbor-advert }' accept",
            ),
            (
                Family::V4,
                Path::Captured,
                None,
                "iptables-legacy -I OUTPUT -o voicelane0 -j ACCEPT",
            ),
        ] {
            let obstacle = obstacle(family, path, culprit);
            assert_eq!(obstacle.exclude(), exclude);
            assert!(obstacle.to_string().contains(exclude), "{obstacle}");
        }
    }

    #[test]
    fn it_is_told_who_forbids_and_what_the_vpn_offers_itself() {
        let told = |table| obstacle(Family::V4, Path::Direct, Some(table)).to_string();
        let policy = told(("inet", "mullvad", "output"));
        assert!(
            policy.contains("(IPv4): the policy of the chain output in the table inet mullvad; ")
        );
        assert!(policy.contains("conntrack_mark = 0xf41"), "{policy}");
        let rule = told(("ip", "filter", "OUTPUT"));
        assert!(
            rule.contains("rule handle 7 of the chain OUTPUT in the table ip filter"),
            "{rule}"
        );
        assert!(!rule.contains("; or: "), "{rule}");
        assert!(told(("inet", "cloudflare-warp", "output")).contains("Zero Trust"));
        assert!(told(("ip", "filter", "ciscovpn")).contains("split-exclude"));
        let unread = obstacle(Family::V6, Path::Direct, None).to_string();
        assert!(
            unread.contains("legacy iptables or a security module"),
            "{unread}"
        );
    }
}
