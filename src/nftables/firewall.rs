//! Whether this machine's firewall lets media by, found out without sending any; and what lets it by.
//!
//! # Theory of operation
//!
//! **Probe.** Two ways must be open: an application's packets into our TUN, and the relay's out of the uplink. For each,
//! a datagram to an address of the policy is sent as those would be; and for IPv6 a neighbour solicitation (RFC 4861), as
//! the kernel sends it to find the router, for a kill switch may forget that one. A probe bears a packet priority that
//! nobody else uses. By that, a chain of ours ahead of all others at the output hook turns on nftables' tracing for it,
//! and another behind all others at the postrouting hook drops it: nothing leaves the machine. The trace names the rule
//! that dropped it. Ours: the way is open. Somebody else's: there is the rule, by table, chain and rule. What
//! iptables-nft made is traced like the rest. These two chains are there only while probes are sent: a rule that turns
//! tracing on has the kernel look at every packet for it, whoever's that is. A probe that is refused while no rule dropped it has met something that is
//! not nftables: legacy iptables, or a security module.
//!
//! Not seen: what drops replies on their way in, and what lies behind the postrouting hook (netdev chains, traffic
//! control, control groups).
//!
//! **FirewallMarks.** We edit nobody's firewall. But a VPN's firewall must let the VPN's own packets out, and knows them by a
//! mark. Where IT says so, media bears that mark too: the relay's sockets have it as theirs, and a third chain of ours
//! gives it to what goes into our TUN.
//!
//! **Answers.** What comes out of our TUN can be given our mark at the end of the input hook, where no route and no filter
//! sees it any more: that is how exemptions from IPsec know it ([`crate::ipsec`]).

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey};
use netlink_sys::{Socket as Netlink, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};

use super::blocked_path::{BlockedPath, BlockingRule, MediaPath};
use super::expression::{
    Expression, drop_it, is_icmpv6, link_is, meta_is, set_conntrack_mark, set_meta,
};
use super::table::{AppliedState, Chain, NftError, NftTable, OURS, forget};
use super::trace::{TRACES, Trace};
use crate::net::{Family, Fwmark};
use crate::route::desired::FirewallMarks;

/// The packet priority (`SO_PRIORITY`) of probes. Traffic control reads it as a class handle, 7600:1.
const PROBE: u32 = 0x7600_0001;
/// Turns on the trace: ahead of all.
const BEGIN: Chain = chain("probe-begin", InetHookNumber::LocalOut, i32::MIN);
/// Drops the probe: behind all but the confirmation of connections, which a probe is not worth.
const END: Chain = chain("probe-end", InetHookNumber::PostRouting, i32::MAX - 1);
/// Marks what goes into our TUN and what the relay sends: after connection tracking (-200), before the filters (0).
const PERMIT: Chain = chain("marks", InetHookNumber::LocalOut, -150);
/// Marks what comes out of our TUN: behind all others.
const ANSWERS: Chain = chain("answers", InetHookNumber::LocalIn, i32::MAX - 1);

const fn chain(name: &'static str, hook: InetHookNumber, priority: i32) -> Chain {
    Chain {
        name,
        kind: "filter",
        hook,
        priority,
    }
}

/// A marks, the uplinks that it is for, and the mark that media has there.
#[derive(PartialEq, Eq)]
struct AppliedMarks {
    marks: FirewallMarks,
    uplinks: BTreeSet<String>,
    mark: Fwmark,
}

impl AppliedMarks {
    /// None where nothing is lent.
    fn new(marks: FirewallMarks, uplinks: &BTreeSet<String>, mark: Fwmark) -> Option<Self> {
        (marks != FirewallMarks::default()).then(|| Self {
            marks,
            uplinks: uplinks.clone(),
            mark,
        })
    }

    /// What marks packets into this TUN and out of the uplinks.
    fn rules(&self, tun: &str) -> Vec<Vec<Expression>> {
        let leaves_by = |link: &str| link_is(MetaKey::Oifname, link).to_vec();
        let links: Vec<_> = self.uplinks.iter().map(|link| leaves_by(link)).collect();
        let mut rules = Vec::new();
        if let Some(mark) = self.marks.mark {
            let neighbours = links.iter().flat_map(|link| {
                [SOLICIT, ADVERTISE].map(|kind| [link, &*is_icmpv6(kind)].concat())
            });
            let set = set_meta(MetaKey::Mark, &mark.0.to_ne_bytes());
            let these = std::iter::once(leaves_by(tun)).chain(neighbours);
            rules.extend(these.map(|these| [&*these, &set].concat()));
        }
        if let Some(connection) = self.marks.conntrack_mark {
            let marked = meta_is(MetaKey::Mark, &self.mark.0.to_ne_bytes());
            let media = links.iter().map(|link| [&**link, &marked].concat());
            let set = set_conntrack_mark(connection);
            let these = std::iter::once(leaves_by(tun)).chain(media);
            rules.extend(these.map(|these| [&*these, &set].concat()));
        }
        rules
    }
}

/// What became of a probe.
enum ProbeResult {
    /// It came to our own chain, behind all others.
    Passed,
    /// It was forbidden: by this, if that is known.
    Forbidden(Option<BlockingRule>),
    /// Nothing is known of it.
    Unknown,
}

/// Our hold on the firewall: its probes, and the marks in force.
pub struct Firewall {
    table: NftTable,
    traces: Netlink,
    tun: String,
    applied: AppliedState<Option<AppliedMarks>>,
    answers: AppliedState<Option<Fwmark>>,
    /// What neighbours are solicited with; none without `CAP_NET_RAW`, and then nothing is known of them.
    neighbour_socket: Option<Socket>,
}

impl Firewall {
    /// Makes our table, with no chain yet. A raw socket is opened while that may be allowed.
    ///
    /// # Errors
    /// [`NftError::Unsupported`], with which one can do without; [`NftError::Refused`].
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
            answers: AppliedState::certain(None),
            neighbour_socket: neighbour_socket().ok(),
        };
        // What this kernel cannot do is found out now.
        drop(firewall.prober()?);
        Ok(firewall)
    }

    /// Lends media a marks, or takes it back: to what goes into our TUN, and to what leaves by one of `uplinks` with
    /// `mark`.
    ///
    /// # Errors
    /// [`NftError::Refused`]: the former marks is still lent, if this could not be said. To be tried again.
    pub fn set_marks(
        &mut self,
        marks: FirewallMarks,
        uplinks: &BTreeSet<String>,
        mark: Fwmark,
    ) -> Result<(), NftError> {
        let wanted = AppliedMarks::new(marks, uplinks, mark);
        if self.applied.is(&wanted) {
            return Ok(());
        }
        let rules = wanted.iter().flat_map(|applied| applied.rules(&self.tun));
        let batch = self.table.fill(&PERMIT, rules);
        self.table.apply(&mut self.applied, wanted, batch)
    }

    /// Gives what comes out of our TUN a mark, or no longer does.
    ///
    /// # Errors
    /// [`NftError::Refused`]: what was is so still, if this could not be said. To be tried again.
    pub fn set_reply_mark(&mut self, mark: Option<Fwmark>) -> Result<(), NftError> {
        if self.answers.is(&mark) {
            return Ok(());
        }
        let rule = mark.map(|mark| {
            let rule = link_is(MetaKey::Iifname, &self.tun).into_iter();
            let rule = rule.chain(set_meta(MetaKey::Mark, &mark.0.to_ne_bytes()));
            rule.collect()
        });
        let batch = self.table.fill(&ANSWERS, rule);
        self.table.apply(&mut self.answers, mark, batch)
    }

    /// Makes ready for probes.
    ///
    /// # Errors
    /// [`NftError::Refused`].
    pub fn prober(&self) -> Result<Prober<'_>, NftError> {
        let is_probe = || meta_is(MetaKey::Priority, &PROBE.to_ne_bytes()).into_iter();
        let trace = is_probe().chain(set_meta(MetaKey::NftraceBit, &[1]));
        let end = is_probe().chain([drop_it()]);
        let mut batch = self.table.fill(&BEGIN, [trace.collect()]);
        batch.extend(self.table.fill(&END, [end.collect()]));
        // Whatever comes of it, the chains go.
        let prober = Prober(self);
        self.table.commit(batch)?;
        Ok(prober)
    }

    /// Sends a probe into our TUN, if that is there.
    fn capture(&self, to: SocketAddr) -> Option<ProbeResult> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM.nonblocking(), None);
        let socket = socket.ok()?;
        socket.bind_device(Some(self.tun.as_bytes())).ok()?;
        Some(self.send(&socket, &[], to))
    }

    /// Looks for a neighbour on a link, if that may be done.
    fn solicit_neighbour(&self, uplink: &str) -> Option<ProbeResult> {
        let socket = self.neighbour_socket.as_ref()?;
        let link = if_nametoindex(uplink).ok()?;
        let to = SocketAddrV6::new(SOLICITED, 0, 0, link);
        Some(self.send(socket, &SOLICITATION, to.into()))
    }

    fn send(&self, socket: &Socket, probe: &[u8], to: SocketAddr) -> ProbeResult {
        if socket.set_priority(PROBE).is_err() {
            return ProbeResult::Unknown;
        }
        // What is traced of others, and what was lost of that, is none of the probe's.
        forget(&self.traces);
        let sent = socket.send_to(probe, &to.into());
        // The kernel traces while it sends: the trace is complete now.
        match self.end_of_probe() {
            Some(rule) if rule.table == self.table.name() => ProbeResult::Passed,
            Some(rule) => ProbeResult::Forbidden(Some(rule)),
            None => {
                let refused = sent.err().and_then(|error| error.raw_os_error());
                match refused.map(Errno::from_raw) {
                    Some(Errno::EPERM | Errno::EACCES) => ProbeResult::Forbidden(None),
                    _ => ProbeResult::Unknown,
                }
            }
        }
    }

    /// Reads all traces and says which rule dropped the probe among them.
    fn end_of_probe(&self) -> Option<BlockingRule> {
        let (mut probe, mut end) = (None, None);
        while let Ok((bytes, _)) = self.traces.recv_from_full() {
            let Some(trace) = Trace::parse(&bytes) else {
                continue;
            };
            let Trace { id, at, drops, .. } = trace;
            if at.table == self.table.name() && at.chain == BEGIN.name {
                probe = Some(id);
            }
            if drops && probe == Some(id) {
                end = Some(at);
            }
        }
        end
    }
}

/// The chains that probes need, as long as this value: while they are there, the kernel looks at every packet twice, and
/// once more whether it is traced.
pub struct Prober<'a>(&'a Firewall);

impl Prober<'_> {
    /// Tries both ways to each of these destinations, all of one family. `direct` is a socket as the relay's are, bound
    /// to `uplink` and with `mark`. What several of them meet is named once.
    ///
    /// A probe that ends in neither an open way nor a refusal tells nothing: an unreachable network is no firewall.
    #[must_use]
    pub fn probe(
        &self,
        direct: &Socket,
        (uplink, mark): (&str, Fwmark),
        destinations: &[SocketAddr],
    ) -> Vec<BlockedPath> {
        let mut found = Vec::new();
        let mut note = |family, path, link: &str, mark, result| {
            let ProbeResult::Forbidden(rule) = result else {
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
            if let Some(result) = firewall.capture(*to) {
                note(family, MediaPath::Captured, &firewall.tun, None, result);
            }
            let result = firewall.send(direct, &[], *to);
            note(family, MediaPath::Direct, uplink, Some(mark), result);
        }
        let has_neighbours = destinations.iter().any(SocketAddr::is_ipv6);
        if let (true, Some(result)) = (has_neighbours, firewall.solicit_neighbour(uplink)) {
            note(Family::V6, MediaPath::Neighbours, uplink, None, result);
        }
        found
    }
}

impl Drop for Prober<'_> {
    fn drop(&mut self) {
        let Self(Firewall { table, .. }) = self;
        // What stays all the same costs time, and goes after the next probe.
        let _ = table.commit([table.without(&BEGIN), table.without(&END)].concat());
    }
}

/// The ids of neighbour solicitations and advertisements in `ICMPv6` (RFC 4861).
const SOLICIT: u8 = 135;
const ADVERTISE: u8 = 136;
/// A neighbour solicitation (RFC 4861 section 4.3) for fe80::1, whose checksum is the kernel's to write.
const SOLICITATION: [u8; 24] = {
    let mut message = [0; 24];
    (message[0], message[8], message[9], message[23]) = (SOLICIT, 0xfe, 0x80, 1);
    message
};
/// Whom it goes to (RFC 4291 section 2.7.1).
const SOLICITED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);

/// A socket for any link: one that is bound to a link could not be bound to the next without `CAP_NET_RAW`.
fn neighbour_socket() -> io::Result<Socket> {
    let kind = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6))?;
    socket.set_multicast_hops_v6(255)?;
    // It never reads: what comes has no room.
    socket.set_recv_buffer_size(0)?;
    Ok(socket)
}
