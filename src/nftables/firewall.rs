//! Firewall probes and firewall marks.
//!
//! # Theory of operation
//!
//! **Probe.** Two paths must be open: from applications into the TUN, and from the relay out of the uplink. For each
//! path and each sampled destination of the policy, a datagram is sent as its real sender sends it. For IPv6 there is a
//! neighbour solicitation too (RFC 4861), because a kill switch may block the discovery of the router.
//!
//! A probe contains a random token, because other programs' rules may change mark, DSCP and priority of any packet. The
//! first chain at the output hook enables its trace. The
//! last chain at the postrouting hook drops it, so no probe leaves the machine. The trace names the rule that dropped
//! the probe. If it is voicelane's, the path is open. If it is foreign, it blocks the path;
//! rules of iptables-nft are traced too. If a probe is refused and no rule dropped it, legacy iptables or a security
//! module did.
//!
//! Both chains exist only while probes are sent: a rule that enables a trace costs time for every packet.
//!
//! Not found: rules that drop incoming replies, and everything behind the postrouting hook (netdev chains, traffic
//! control, control groups).
//!
//! **Firewall marks.** A VPN's firewall accepts the VPN's own packets by a mark. If configured, media
//! has this mark too: the relay's sockets set it, and a chain sets it on packets into the TUN.
//!
//! **Reply mark.** Packets out of the TUN get a mark at the end of the input hook, after routing and filters. Bypass
//! policies match it ([`crate::ipsec`]).

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey};
use netlink_sys::{Socket as Netlink, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};

use super::blocked_path::{BlockedPath, BlockingRule, MediaPath};
use super::expression::{
    Expression, drop_packet, has_octets, is_icmpv6, link_is, meta_is, set_conntrack_mark, set_meta,
};
use super::table::{AppliedState, Chain, NftError, NftTable, OURS, discard_received};
use super::trace::{TRACES, Trace};
use crate::net::{Family, Fwmark};
use crate::route::desired::FirewallMarks;

/// Offset of the token in octets from the transport header, in a probe of UDP and in a neighbour solicitation.
const TOKEN_OFFSET: u32 = 16;
/// Turns on the trace, ahead of all chains.
const PROBE_BEGIN: Chain = chain("probe-begin", InetHookNumber::LocalOut, i32::MIN);
/// Drops the probe, behind all chains except the confirmation of connections.
const PROBE_END: Chain = chain("probe-end", InetHookNumber::PostRouting, i32::MAX - 1);
/// Sets firewall marks, after connection tracking (-200), mangle (-150) and marks for lookups (-140), and before the
/// filters (0).
const MARKS: Chain = chain("marks", InetHookNumber::LocalOut, -130);
/// Sets the reply mark, behind all chains.
const REPLIES: Chain = chain("replies", InetHookNumber::LocalIn, i32::MAX - 1);

const fn chain(name: &'static str, hook: InetHookNumber, priority: i32) -> Chain {
    Chain {
        name,
        kind: "filter",
        hook,
        priority,
    }
}

/// Applied firewall marks: the marks, the uplinks, and the mark of media there.
#[derive(PartialEq, Eq)]
struct AppliedMarks {
    marks: FirewallMarks,
    uplinks: BTreeSet<String>,
    mark: Fwmark,
}

impl AppliedMarks {
    /// None without marks.
    fn new(marks: FirewallMarks, uplinks: &BTreeSet<String>, mark: Fwmark) -> Option<Self> {
        (marks != FirewallMarks::default()).then(|| Self {
            marks,
            uplinks: uplinks.clone(),
            mark,
        })
    }

    /// Returns the rules that mark packets into the TUN and out of the uplinks.
    fn rules(&self, tun: &str) -> Vec<Vec<Expression>> {
        let oif_is = |link: &str| link_is(MetaKey::Oifname, link).to_vec();
        let links: Vec<_> = self.uplinks.iter().map(|link| oif_is(link)).collect();
        let mut rules = Vec::new();
        if let Some(mark) = self.marks.mark {
            let neighbours = links.iter().flat_map(|link| {
                [SOLICIT, ADVERTISE].map(|kind| [link, &*is_icmpv6(kind)].concat())
            });
            let set = set_meta(MetaKey::Mark, &mark.0.to_ne_bytes());
            let matches = std::iter::once(oif_is(tun)).chain(neighbours);
            rules.extend(matches.map(|matched| [&*matched, &set].concat()));
        }
        if let Some(connection) = self.marks.conntrack_mark {
            let marked = meta_is(MetaKey::Mark, &self.mark.0.to_ne_bytes());
            let media = links.iter().map(|link| [&**link, &marked].concat());
            let set = set_conntrack_mark(connection);
            let matches = std::iter::once(oif_is(tun)).chain(media);
            rules.extend(matches.map(|matched| [&*matched, &set].concat()));
        }
        rules
    }
}

/// Result of a probe.
enum ProbeResult {
    /// It reached voicelane's last chain.
    Passed,
    /// It was blocked, by this rule if known.
    Blocked(Option<BlockingRule>),
    /// Its trace has no end.
    Unknown,
}

/// Firewall probes, firewall marks and the reply mark.
pub struct Firewall {
    table: NftTable,
    traces: Netlink,
    tun: String,
    applied: AppliedState<Option<AppliedMarks>>,
    reply_mark: AppliedState<Option<Fwmark>>,
    /// Identifies probes.
    token: [u8; 8],
    /// Raw socket for neighbour solicitations; none without `CAP_NET_RAW`.
    neighbour_socket: Option<Socket>,
}

impl Firewall {
    /// Creates the table without chains. Opens the raw socket while the process may do so.
    ///
    /// # Errors
    /// [`NftError::Unsupported`], without which voicelane works too; [`NftError::Refused`].
    pub fn open(tun: &str) -> Result<Self, NftError> {
        let table = NftTable::new(format!("{OURS}{tun}-firewall"), &[])?;
        let listen = || -> io::Result<Netlink> {
            let mut traces = Netlink::new(NETLINK_NETFILTER)?;
            traces.bind_auto()?;
            traces.add_membership(TRACES)?;
            traces.set_non_blocking(true)?;
            Ok(traces)
        };
        let firewall = Self {
            traces: listen().map_err(NftError::Unsupported)?,
            table,
            tun: tun.to_owned(),
            applied: AppliedState::certain(None),
            reply_mark: AppliedState::certain(None),
            token: RandomState::new().hash_one(0).to_ne_bytes(),
            neighbour_socket: neighbour_socket().ok(),
        };
        // Creating the chains shows at once whether the kernel supports them.
        drop(firewall.prober()?);
        Ok(firewall)
    }

    /// Sets or removes firewall marks on packets into the TUN, and on packets with `mark` out of `uplinks`.
    ///
    /// # Errors
    /// [`NftError::Refused`]: the former marks stay, but this is uncertain. The caller must try again.
    pub fn set_marks(
        &mut self,
        marks: FirewallMarks,
        uplinks: &BTreeSet<String>,
        mark: Fwmark,
    ) -> Result<(), NftError> {
        let desired = AppliedMarks::new(marks, uplinks, mark);
        if self.applied.is(&desired) {
            return Ok(());
        }
        let rules = desired.iter().flat_map(|applied| applied.rules(&self.tun));
        let batch = self.table.replacement(&MARKS, rules);
        self.table.apply(&mut self.applied, desired, batch)
    }

    /// Sets or removes the mark of packets out of the TUN.
    ///
    /// # Errors
    /// [`NftError::Refused`]: the former mark stays, but this is uncertain. The caller must try again.
    pub fn set_reply_mark(&mut self, mark: Option<Fwmark>) -> Result<(), NftError> {
        if self.reply_mark.is(&mark) {
            return Ok(());
        }
        let rule = mark.map(|mark| {
            let rule = link_is(MetaKey::Iifname, &self.tun).into_iter();
            let rule = rule.chain(set_meta(MetaKey::Mark, &mark.0.to_ne_bytes()));
            rule.collect()
        });
        let batch = self.table.replacement(&REPLIES, rule);
        self.table.apply(&mut self.reply_mark, mark, batch)
    }

    /// Creates the chains for probes.
    ///
    /// # Errors
    /// [`NftError::Refused`].
    pub fn prober(&self) -> Result<Prober<'_>, NftError> {
        let probe = || has_octets(TOKEN_OFFSET, &self.token).into_iter();
        let trace = probe().chain(set_meta(MetaKey::NftraceBit, &[1]));
        let end = probe().chain([drop_packet()]);
        let mut batch = self.table.replacement(&PROBE_BEGIN, [trace.collect()]);
        batch.extend(self.table.replacement(&PROBE_END, [end.collect()]));
        // Created before the commit, so that the chains are deleted even if it fails.
        let prober = Prober(self);
        self.table.commit(batch)?;
        Ok(prober)
    }

    /// Sends a probe into the TUN; none if it does not exist.
    fn probe_tun(&self, to: SocketAddr) -> Option<ProbeResult> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM.nonblocking(), None);
        let socket = socket.ok()?;
        socket.bind_device(Some(self.tun.as_bytes())).ok()?;
        Some(self.send(&socket, &self.datagram(), to))
    }

    /// Sends a neighbour solicitation; none without a raw socket.
    fn solicit_neighbour(&self, uplink: &str) -> Option<ProbeResult> {
        let socket = self.neighbour_socket.as_ref()?;
        let link = if_nametoindex(uplink).ok()?;
        let [.., x, y, z] = self.token;
        let solicited_node = Ipv6Addr::from_bits(
            SOLICITED_NODE.to_bits() | u128::from(u32::from_be_bytes([0, x, y, z])),
        );
        let to = SocketAddrV6::new(solicited_node, 0, 0, link);
        Some(self.send(socket, &self.solicitation(), to.into()))
    }

    /// Returns the payload of a probe of UDP: behind a header of 8 octets, the token is at its offset.
    fn datagram(&self) -> [u8; 16] {
        let mut payload = [0; 16];
        payload[8..].copy_from_slice(&self.token);
        payload
    }

    /// Returns a neighbour solicitation (RFC 4861 section 4.3) for a link-local address that ends with the token. The
    /// kernel sets the checksum.
    fn solicitation(&self) -> [u8; 24] {
        let mut message = [0; 24];
        (message[0], message[8], message[9]) = (SOLICIT, 0xfe, 0x80);
        message[16..].copy_from_slice(&self.token);
        message
    }

    fn send(&self, socket: &Socket, probe: &[u8], to: SocketAddr) -> ProbeResult {
        // Traces of other packets must not count.
        discard_received(&self.traces);
        let sent = socket.send_to(probe, &to.into());
        // The kernel traces while it sends, so the trace is complete now.
        match self.read_drop() {
            Some(rule) if rule.table == self.table.name() => ProbeResult::Passed,
            Some(rule) => ProbeResult::Blocked(Some(rule)),
            None => {
                let error = sent.err().and_then(|error| error.raw_os_error());
                match error.map(Errno::from_raw) {
                    Some(Errno::EPERM | Errno::EACCES) => ProbeResult::Blocked(None),
                    _ => ProbeResult::Unknown,
                }
            }
        }
    }

    /// Reads all traces, and returns the rule that dropped the probe.
    fn read_drop(&self) -> Option<BlockingRule> {
        let (mut probe, mut end) = (None, None);
        while let Ok((bytes, _)) = self.traces.recv_from_full() {
            let Some(trace) = Trace::parse(&bytes) else {
                continue;
            };
            let Trace { id, at, drops, .. } = trace;
            if at.table == self.table.name() && at.chain == PROBE_BEGIN.name {
                probe = Some(id);
            }
            if drops && probe == Some(id) {
                end = Some(at);
            }
        }
        end
    }
}

/// The chains for probes. Dropping the value deletes them: while they exist, they cost time for every packet.
pub struct Prober<'a>(&'a Firewall);

impl Prober<'_> {
    /// Probes both paths to destinations of one family. Returns each blocked path once.
    ///
    /// `direct` is a socket like the relay's, bound to `uplink`, with `mark`. A probe without a result is no blocked
    /// path: an unreachable network is no firewall.
    #[must_use]
    pub fn probe(
        &self,
        direct: &Socket,
        (uplink, mark): (&str, Fwmark),
        destinations: &[SocketAddr],
    ) -> Vec<BlockedPath> {
        let mut found = Vec::new();
        let mut record = |family, path, link: &str, mark, result| {
            let ProbeResult::Blocked(rule) = result else {
                return;
            };
            let blocked = BlockedPath {
                family,
                path,
                link: link.to_owned(),
                clients: None,
                mark,
                rule,
            };
            if !found.contains(&blocked) {
                found.push(blocked);
            }
        };
        let Self(firewall) = self;
        for to in destinations {
            let family = Family::of(to.ip());
            if let Some(result) = firewall.probe_tun(*to) {
                record(family, MediaPath::Captured, &firewall.tun, None, result);
            }
            let result = firewall.send(direct, &firewall.datagram(), *to);
            record(family, MediaPath::Direct, uplink, Some(mark), result);
        }
        let is_ipv6 = destinations.iter().any(SocketAddr::is_ipv6);
        if let (true, Some(result)) = (is_ipv6, firewall.solicit_neighbour(uplink)) {
            record(Family::V6, MediaPath::Neighbours, uplink, None, result);
        }
        found
    }
}

impl Drop for Prober<'_> {
    fn drop(&mut self) {
        let Self(Firewall { table, .. }) = self;
        // Remaining chains cost time, and the next probe deletes them.
        let _ = table.commit([table.deletion(&PROBE_BEGIN), table.deletion(&PROBE_END)].concat());
    }
}

/// The ids of neighbour solicitations and advertisements in `ICMPv6` (RFC 4861).
const SOLICIT: u8 = 135;
const ADVERTISE: u8 = 136;
/// The prefix of solicited-node addresses (RFC 4291 section 2.7.1): the last 24 bits are those of the address.
const SOLICITED_NODE: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0);

/// Opens a raw socket for all links: binding to another link later would need `CAP_NET_RAW`.
fn neighbour_socket() -> io::Result<Socket> {
    let kind = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6))?;
    socket.set_multicast_hops_v6(255)?;
    // Nothing is read from it.
    socket.set_recv_buffer_size(0)?;
    Ok(socket)
}
