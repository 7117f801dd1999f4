//! Capture of a gateway's clients.
//!
//! # Theory of operation
//!
//! **Defragmentation.** A routing rule with ports matches no fragment, not even the first one. So the kernel
//! reassembles fragments before routing. A `tproxy` expression that no packet reaches enables this, without connection
//! tracking. The kernel fragments the datagram again when it leaves.
//!
//! **Mark.** A chain at the prerouting hook marks a client's packets that have a prefix and port of the policy. The
//! source must be reachable through the link on which the packet was received. Routing rules match the mark
//! ([`crate::route::plan`]), and no other chain sets it. The kernel deletes this table when the process ends, and then no
//! client is captured.
//!
//! **Untracked.** Connection tracking does not see captured packets and their replies. Otherwise it would remember
//! calls as untranslated, and after a kill they would enter the VPN with the client's address, to which nothing
//! replies. A rule that translates all outgoing packets does not change the clients' addresses either, by which the
//! engine tells them apart.
//!
//! **Trace.** No probe can enter through a client's link. So one client packet per second, link, family and
//! direction is traced. Its trace ends in voicelane's last chain or in a foreign rule.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey, Operator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use nix::net::if_::if_indextoname;

use super::blocked_path::{BlockedPath, BlockingRule, MediaPath};
use super::expression::{
    Expression, FibQuery, PacketEnd, compare, defragment, fib, link_is, set_mark_bits, trace_some,
    untrack,
};
use super::policy_sets::{BATCH, FamilySelector, PolicySets, in_set};
use super::table::{AppliedState, Chain, NftError, NftTable, OURS};
use super::trace::{TRACES, Trace};
use crate::net::{Family, IfIndex};
use crate::route::desired::{Desired, RoutingIds};

/// Marks packets to capture: after reply source substitution (-290) and before connection tracking (-200).
const CLIENTS: &str = "clients";
/// Turns on traces, ahead of all chains of the forward hook.
const TRACE_BEGIN: &str = "forward-begin";
/// Ends the trace of a packet that was not dropped, behind all chains.
const TRACE_END: &str = "forward-end";
/// Maximum time of a packet in the firewall.
const MAX_TRANSIT: Duration = Duration::from_millis(500);
/// Number of consecutive packets without a trace end that prove a firewall without traces.
const VANISHED: u8 = 2;

const CHAINS: [Chain; 3] = [
    Chain {
        name: CLIENTS,
        kind: "filter",
        hook: InetHookNumber::PreRouting,
        priority: -280,
    },
    Chain {
        name: TRACE_BEGIN,
        kind: "filter",
        hook: InetHookNumber::Forward,
        priority: i32::MIN,
    },
    Chain {
        name: TRACE_END,
        kind: "filter",
        hook: InetHookNumber::PostRouting,
        priority: i32::MAX - 1,
    },
];

/// Family and interface of clients.
type ClientInterface = (Family, String);

/// Clients and prefixes whose packets are marked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct CaptureSet {
    clients: BTreeSet<ClientInterface>,
    prefixes: PolicySets,
}

impl CaptureSet {
    fn of(desired: &Desired) -> Self {
        Self {
            clients: desired.captured_clients(),
            prefixes: PolicySets::of(&desired.captures),
        }
    }

    fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        union.clients.extend(other.clients.iter().cloned());
        union.prefixes.extend(&other.prefixes);
        union
    }
}

/// Marks packets of a gateway's clients. Dropping the value ends it.
pub struct ClientCapture {
    table: NftTable,
    traces: TokioSocket,
    tun: String,
    ids: RoutingIds,
    applied: AppliedState<CaptureSet>,
    /// Traced packets in the firewall, by trace id.
    in_transit: BTreeMap<u32, (ClientInterface, Instant)>,
    /// Number of consecutive packets without a trace end.
    vanished: BTreeMap<ClientInterface, u8>,
}

impl ClientCapture {
    /// Creates the table. No packet is marked yet.
    ///
    /// # Errors
    /// [`NftError`]: a gateway needs nftables.
    pub fn open(tun: &str, ids: RoutingIds) -> Result<Self, NftError> {
        let table = NftTable::new(format!("{OURS}{tun}-gateway"), &[])?;
        table.set_max_batch(BATCH)?;
        let listen = || -> io::Result<TokioSocket> {
            let mut traces = TokioSocket::new(NETLINK_NETFILTER)?;
            traces.socket_mut().bind_auto()?;
            traces.socket_mut().add_membership(TRACES)?;
            Ok(traces)
        };
        Ok(Self {
            table,
            traces: listen().map_err(NftError::Unsupported)?,
            tun: tun.to_owned(),
            ids,
            applied: AppliedState::certain(CaptureSet::default()),
            in_transit: BTreeMap::new(),
            vanished: BTreeMap::new(),
        })
    }

    /// Marks the desired and the former packets: to be called before rules change.
    ///
    /// # Errors
    /// [`NftError::Refused`]: the former state stays, but this is uncertain. The caller must try again.
    pub fn add_clients(&mut self, desired: &Desired) -> Result<(), NftError> {
        self.set(self.applied.state.union(&CaptureSet::of(desired)))
    }

    /// Marks only the desired packets: to be called after rules have changed.
    ///
    /// # Errors
    /// As [`ClientCapture::add_clients`].
    pub fn remove_clients(&mut self, desired: &Desired) -> Result<(), NftError> {
        self.set(CaptureSet::of(desired))
    }

    fn set(&mut self, desired: CaptureSet) -> Result<(), NftError> {
        if self.applied.is(&desired) {
            return Ok(());
        }
        let has_clients = !desired.clients.is_empty();
        let mut batch = self
            .table
            .recreation(if has_clients { &CHAINS } else { &[] });
        if has_clients {
            batch.push(self.table.rule(CLIENTS, defragment()));
            batch.push(self.table.rule(CLIENTS, self.untrack_replies()));
        }
        for set @ (_, selector) in desired.prefixes.selectors() {
            let mut clients = desired
                .clients
                .iter()
                .filter(|it| it.0 == selector.0)
                .peekable();
            if clients.peek().is_none() {
                continue;
            }
            batch.extend(desired.prefixes.creation(&self.table, set));
            batch
                .extend(clients.map(|(_, link)| self.table.rule(CLIENTS, self.capture(link, set))));
        }
        for (family, link) in &desired.clients {
            for (from, to) in [(link, &self.tun), (&self.tun, link)] {
                batch.push(self.table.rule(TRACE_BEGIN, trace_some(*family, from, to)));
            }
        }
        self.table.apply(&mut self.applied, desired, batch)
    }

    /// Excludes forwarded packets out of the TUN from connection tracking.
    fn untrack_replies(&self) -> Vec<Expression> {
        /// `RTN_LOCAL`.
        const LOCAL: u32 = 2;
        let mut rule = link_is(MetaKey::Iifname, &self.tun).to_vec();
        rule.push(fib(FibQuery::DestinationType));
        rule.push(compare(Operator::NotEqual, &LOCAL.to_ne_bytes()));
        rule.push(untrack());
        rule
    }

    /// Marks a client's packets and excludes them from connection tracking.
    fn capture(&self, link: &str, set: (u32, FamilySelector)) -> Vec<Expression> {
        let (mark, mask) = (self.ids.client_mark(), self.ids.mask);
        let mut rule = link_is(MetaKey::Iifname, link).to_vec();
        rule.extend(in_set(PacketEnd::Destination, set));
        rule.push(fib(FibQuery::SourceLink));
        rule.push(compare(Operator::NotEqual, &0_u32.to_ne_bytes()));
        rule.push(untrack());
        rule.extend(set_mark_bits(mark.0, mask.0));
        rule
    }

    /// Waits until the firewall has dropped a client's packet or a reply to one.
    ///
    /// # Errors
    /// The socket failed.
    ///
    /// # Cancel safety
    /// No notification is lost.
    pub async fn next_blocked(&mut self) -> io::Result<BlockedPath> {
        loop {
            match self.traces.recv_from_full().await {
                Ok((bytes, _)) => {
                    let blocked = Trace::parse(&bytes).and_then(|it| self.process(it));
                    if let Some(blocked) = blocked {
                        return Ok(blocked);
                    }
                }
                // A lost message may have ended any trace, so all are forgotten.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    self.in_transit.clear();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Processes a trace notification. Returns a blocked path if the packet was dropped.
    fn process(&mut self, trace: Trace) -> Option<BlockedPath> {
        let Trace {
            id,
            family,
            links,
            at,
            drops,
        } = trace;
        let is_ours = at.table == self.table.name();
        if is_ours && at.chain == TRACE_BEGIN {
            let clients = (family?, self.link_of_clients(links)?);
            return self.begin(id, clients);
        }
        if is_ours && at.chain == TRACE_END {
            let (clients, _) = self.in_transit.remove(&id)?;
            self.vanished.remove(&clients);
        } else if drops {
            let (clients, _) = self.in_transit.remove(&id)?;
            return Some(self.blocked_path(clients, Some(at)));
        }
        None
    }

    /// Records a new traced packet. Returns a blocked path if earlier ones of the same clients vanished without a trace
    /// end.
    fn begin(&mut self, id: u32, clients: ClientInterface) -> Option<BlockedPath> {
        let now = Instant::now();
        if self.in_transit.contains_key(&id) {
            return None;
        }
        let before = self.in_transit.len();
        self.in_transit
            .retain(|_, (other, since)| *other != clients || now - *since < MAX_TRANSIT);
        let has_vanished = self.in_transit.len() < before;
        self.in_transit.insert(id, (clients.clone(), now));
        if !has_vanished {
            return None;
        }
        let vanished = self.vanished.entry(clients.clone()).or_default();
        *vanished += 1;
        if *vanished < VANISHED {
            return None;
        }
        self.vanished.remove(&clients);
        Some(self.blocked_path(clients, None))
    }

    fn link_of_clients(&self, links: [Option<IfIndex>; 2]) -> Option<String> {
        let names = links.into_iter().flatten().filter_map(|index| {
            let name = if_indextoname(index.0).ok()?;
            Some(name.to_string_lossy().into_owned())
        });
        names.into_iter().find(|name| *name != self.tun)
    }

    fn blocked_path(
        &self,
        (family, clients): ClientInterface,
        rule: Option<BlockingRule>,
    ) -> BlockedPath {
        BlockedPath {
            family,
            path: MediaPath::Forwarded,
            link: self.tun.clone(),
            clients: Some(clients),
            mark: None,
            rule,
        }
    }
}
