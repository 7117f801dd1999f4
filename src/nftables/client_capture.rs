//! Media of a gateway's clients: told from the rest before it is routed, and whether the firewall lets it by.
//!
//! # Theory of operation
//!
//! **Whole datagrams.** A rule that names ports sees none in a fragment, not even in the first. So fragments are put
//! together before routing, as connection tracking would; an expression that no packet reaches (`tproxy`) is enough to
//! have the kernel do it, without tracking anything. On its way out, into the TUN or into the VPN, a datagram is parted
//! again as it was.
//!
//! **Marked.** A chain of ours at the prerouting hook marks what comes in by a client's link, from an address that this
//! link leads back to, for a prefix and port of the policy. The rules of [`crate::route::plan`] ask for that mark, and no
//! other chain makes it: without this table, which goes with our process at once, nothing of clients is captured.
//!
//! **Untracked.** What is captured, and what comes back, is no connection to the kernel. Otherwise a gateway that
//! translates addresses towards the VPN would remember calls as untranslated, and when our process is killed they would
//! go into the VPN with addresses that nobody there knows, for as long as they last. It also leaves clients their own
//! addresses, by which the engine tells them apart, where a firewall translates whatever leaves.
//!
//! **Watched.** No packet can be made to come in by a client's link, so clients' own are watched: one in a second of each
//! link, family and direction is traced through the firewall. Its trace ends in a chain of ours, behind all others, or
//! in somebody else's rule.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use netlink_packet_netfilter::nftables::{
    Expressions, InetHookNumber, Lookup, MetaKey, NfTablesMessage, Operator, Register,
    SetAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use nix::net::if_::if_indextoname;

use super::blocked_path::{BlockedPath, BlockingRule, MediaPath};
use super::expression::{
    Expression, FibQuery, compare, defragment, destination, destination_port, elements, is_family,
    link_is, mark_within, meta_is, ranges, routing, trace_some, untrack,
};
use super::table::{AppliedState, Chain, NftError, NftTable, OURS};
use super::trace::{TRACES, Trace};
use crate::net::{Capture, Family, IfIndex, PortRange, Prefix, Protocol};
use crate::route::desired::{Desired, RoutingIds};

/// Marks what is to be captured: after reply_sources (-290) are real addresses again, before connection tracking (-200).
const CLIENTS: &str = "clients";
/// Turns on traces, ahead of all that forwards.
const BEGIN: &str = "forward-begin";
/// Where a trace ends that nobody dropped: behind all others.
const END: &str = "forward-end";
/// Elements of a set in a message, whose parts are below 64 KiB.
const ELEMENTS: usize = 500;
/// The largest change that is made at once, in bytes: some 50,000 prefixes.
const BATCH: usize = 4 << 20;
/// How long a packet may be on its way through the firewall.
const PASSAGE: Duration = Duration::from_millis(500);
/// As many packets in a row that vanish have met a firewall that cannot be traced.
const VANISHED: u8 = 2;

const CHAINS: [Chain; 3] = [
    Chain {
        name: CLIENTS,
        kind: "filter",
        hook: InetHookNumber::PreRouting,
        priority: -280,
    },
    Chain {
        name: BEGIN,
        kind: "filter",
        hook: InetHookNumber::Forward,
        priority: i32::MIN,
    },
    Chain {
        name: END,
        kind: "filter",
        hook: InetHookNumber::PostRouting,
        priority: i32::MAX - 1,
    },
];

/// A family, and the link of its clients.
type ClientInterface = (Family, String);
type FamilySelector = (Family, Protocol, PortRange);

/// What is marked, for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct CaptureSet {
    clients: BTreeSet<ClientInterface>,
    prefixes: BTreeMap<FamilySelector, BTreeSet<Prefix>>,
}

impl CaptureSet {
    fn of(desired: &Desired) -> Self {
        let mut prefixes = BTreeMap::<_, BTreeSet<_>>::new();
        for Capture {
            protocol,
            ports,
            prefixes: these,
        } in &desired.captures
        {
            for prefix in these {
                let selector = (prefix.family(), *protocol, *ports);
                prefixes.entry(selector).or_default().insert(*prefix);
            }
        }
        Self {
            clients: desired.captured_clients(),
            prefixes,
        }
    }

    fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.clients.extend(other.clients.iter().cloned());
        for (selector, prefixes) in &other.prefixes {
            both.prefixes.entry(*selector).or_default().extend(prefixes);
        }
        both
    }
}

/// Our hold on clients' packets. All that it did ends with it.
pub struct ClientCapture {
    table: NftTable,
    traces: TokioSocket,
    tun: String,
    ids: RoutingIds,
    present: AppliedState<CaptureSet>,
    /// Packets on their way through the firewall, by the trace's number.
    under_way: BTreeMap<u32, (ClientInterface, Instant)>,
    /// How many packets in a row vanished.
    vanished: BTreeMap<ClientInterface, u8>,
}

impl ClientCapture {
    /// Makes our table. Nothing is marked yet, and no packet passes a chain of ours.
    ///
    /// # Errors
    /// [`NftError`]: a gateway needs nftables.
    pub fn open(tun: &str, ids: RoutingIds) -> Result<Self, NftError> {
        let table = NftTable::new(format!("{OURS}{tun}-gateway"), &[])?;
        table.allow_batches_of(BATCH)?;
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
            present: AppliedState::certain(CaptureSet::default()),
            under_way: BTreeMap::new(),
            vanished: BTreeMap::new(),
        })
    }

    /// Marks what is desired as well as what was: to be done before rules change.
    ///
    /// # Errors
    /// [`NftError::Refused`]: all is as it was, if this could not be said. To be tried again.
    pub fn add_clients(&mut self, desired: &Desired) -> Result<(), NftError> {
        self.set(self.present.last.and(&CaptureSet::of(desired)))
    }

    /// Marks only what is desired: to be done after rules have changed.
    ///
    /// # Errors
    /// Likewise.
    pub fn remove_clients(&mut self, desired: &Desired) -> Result<(), NftError> {
        self.set(CaptureSet::of(desired))
    }

    fn set(&mut self, served: CaptureSet) -> Result<(), NftError> {
        if self.present.is(&served) {
            return Ok(());
        }
        let serves = !served.clients.is_empty();
        let mut batch = self.table.made_anew(if serves { &CHAINS } else { &[] });
        if serves {
            batch.push(self.table.rule(CLIENTS, defragment()));
            batch.push(self.table.rule(CLIENTS, self.answers()));
        }
        for (number, (selector, prefixes)) in (1..).zip(&served.prefixes) {
            let mut clients = served
                .clients
                .iter()
                .filter(|it| it.0 == selector.0)
                .peekable();
            if clients.peek().is_none() {
                continue;
            }
            let set = set_name(*selector);
            batch.extend(self.new_set(&set, number, selector.0, prefixes));
            batch.extend(clients.map(|(_, link)| {
                let rule = self.capture(link, *selector, &set, number);
                self.table.rule(CLIENTS, rule)
            }));
        }
        for (family, link) in &served.clients {
            for (from, to) in [(link, &self.tun), (&self.tun, link)] {
                batch.push(self.table.rule(BEGIN, trace_some(*family, from, to)));
            }
        }
        self.table.apply(&mut self.present, served, batch)
    }

    /// Leaves untracked what comes out of our TUN and is not for this machine.
    fn answers(&self) -> Vec<Expression> {
        /// `RTN_LOCAL`.
        const LOCAL: u32 = 2;
        let mut rule = link_is(MetaKey::Iifname, &self.tun).to_vec();
        rule.push(routing(FibQuery::TypeOfDestination));
        rule.push(compare(Operator::NotEqual, &LOCAL.to_ne_bytes()));
        rule.push(untrack());
        rule
    }

    /// Marks a client's packets of a selector, and leaves them untracked.
    fn capture(
        &self,
        link: &str,
        selector: FamilySelector,
        set: &str,
        number: u32,
    ) -> Vec<Expression> {
        let (family, protocol, ports) = selector;
        let (mark, mask) = (self.ids.client_mark(), self.ids.mask);
        let mut rule = link_is(MetaKey::Iifname, link).to_vec();
        rule.extend(is_family(family));
        rule.extend(meta_is(MetaKey::L4Proto, &[protocol.number()]));
        rule.push(destination_port());
        rule.push(compare(
            Operator::GreatherThanEqual,
            &ports.first().to_be_bytes(),
        ));
        rule.push(compare(
            Operator::LessThanEqual,
            &ports.last().to_be_bytes(),
        ));
        rule.push(destination(family));
        rule.push(
            Expressions::Lookup(vec![
                Lookup::Set(set.to_owned()),
                Lookup::SetId(number),
                Lookup::SourceRegister(Register::Reg1),
            ])
            .into(),
        );
        rule.push(routing(FibQuery::LinkOfSource));
        rule.push(compare(Operator::NotEqual, &0_u32.to_ne_bytes()));
        rule.push(untrack());
        rule.extend(mark_within(mark.0, mask.0));
        rule
    }

    /// Messages that make a set of prefixes.
    fn new_set(
        &self,
        name: &str,
        number: u32,
        family: Family,
        prefixes: &BTreeSet<Prefix>,
    ) -> Vec<NfTablesMessage> {
        // The type is only for nft(8) to show.
        let kind = match family {
            Family::V4 => 7,
            Family::V6 => 8,
        };
        let mut messages = vec![NfTablesMessage::NewSet(SetMessage {
            attributes: vec![
                SetAttribute::Table(self.table.name().to_owned()),
                SetAttribute::Name(name.to_owned()),
                SetAttribute::Flags(SetFlags::Interval),
                SetAttribute::KeyType(kind),
                SetAttribute::KeyLen(u32::from(family.bits()) / 8),
                SetAttribute::Id(number),
            ],
        })];
        let elements: Vec<_> = ranges(prefixes).into_iter().flat_map(elements).collect();
        messages.extend(elements.chunks(ELEMENTS).map(|elements| {
            NfTablesMessage::NewSetElement(SetElementMessage {
                attributes: vec![
                    SetElementList::Table(self.table.name().to_owned()),
                    SetElementList::Set(name.to_owned()),
                    SetElementList::SetId(number),
                    SetElementList::Elements(elements.to_vec()),
                ],
            })
        }));
        messages
    }

    /// Waits until the firewall has refused a packet of a client, or an answer to one.
    ///
    /// # Errors
    /// When the socket fails.
    ///
    /// # Cancel safety
    /// Nothing that was told is lost.
    pub async fn next_blocked(&mut self) -> io::Result<BlockedPath> {
        loop {
            match self.traces.recv_from_full().await {
                Ok((bytes, _)) => {
                    let blocked = Trace::parse(&bytes).and_then(|it| self.follow(it));
                    if let Some(blocked) = blocked {
                        return Ok(blocked);
                    }
                }
                // What was lost may have been the end of any.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    self.under_way.clear();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Follows a packet through the firewall; answers if it was refused.
    fn follow(&mut self, trace: Trace) -> Option<BlockedPath> {
        let Trace {
            id,
            family,
            links,
            at,
            drops,
        } = trace;
        let is_ours = at.table == self.table.name();
        if is_ours && at.chain == BEGIN {
            let clients = (family?, self.link_of_clients(links)?);
            return self.begin(id, clients);
        }
        if is_ours && at.chain == END {
            let (clients, _) = self.under_way.remove(&id)?;
            self.vanished.remove(&clients);
        } else if drops {
            let (clients, _) = self.under_way.remove(&id)?;
            return Some(self.blocked(clients, Some(at)));
        }
        None
    }

    /// Notes that a packet begins its way. An earlier one of the same clients that has not come to its end by now was
    /// dropped by something that is not traced.
    fn begin(&mut self, id: u32, clients: ClientInterface) -> Option<BlockedPath> {
        let now = Instant::now();
        if self.under_way.contains_key(&id) {
            return None;
        }
        let before = self.under_way.len();
        self.under_way
            .retain(|_, (whose, since)| *whose != clients || now - *since < PASSAGE);
        let lost = self.under_way.len() < before;
        self.under_way.insert(id, (clients.clone(), now));
        if !lost {
            return None;
        }
        let vanished = self.vanished.entry(clients.clone()).or_default();
        *vanished += 1;
        if *vanished < VANISHED {
            return None;
        }
        self.vanished.remove(&clients);
        Some(self.blocked(clients, None))
    }

    fn link_of_clients(&self, links: [Option<IfIndex>; 2]) -> Option<String> {
        let names = links.into_iter().flatten().filter_map(|index| {
            let name = if_indextoname(index.0).ok()?;
            Some(name.to_string_lossy().into_owned())
        });
        names.into_iter().find(|name| *name != self.tun)
    }

    fn blocked(
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

fn set_name((family, protocol, ports): FamilySelector) -> String {
    format!("{family}-{protocol}-{ports}").to_lowercase()
}
