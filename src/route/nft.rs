//! Small nftables tables of our own over nfnetlink: aliases for a VPN's addresses here, probes and permits in
//! [`super::firewall`], masquerading for the demo's router.
//!
//! A table is owned by the socket that made it (`NFT_TABLE_F_OWNER`, Linux 5.12): nobody else can change it, and it goes
//! with the process, however that ends. Nobody else's table is touched.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, ChecksumFlags, ChecksumType, Cmp, DataAttribute,
    ExpressionAttribute, Expressions, Hook, Immediate, InetHookNumber, ListAttribute, Meta,
    MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage,
    TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::engine::ReplySource;

/// A table that could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// This kernel has no nftables, or none whose tables can be owned.
    #[error("this kernel has no nftables with owned tables (Linux 5.12, CONFIG_NF_TABLES)")]
    Unsupported(#[source] io::Error),
    /// The kernel refused.
    #[error("cannot change the nftables table {table:?}")]
    Refused {
        /// The table.
        table: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// How the names of our tables begin.
pub(super) const OURS: &str = "voicelane-";

/// One step of a rule.
pub(super) type Expression = ListAttribute<ExpressionAttribute>;

/// `NFNL_SUBSYS_NFTABLES`, which a batch names as its addressee.
const SUBSYSTEM: u16 = 10;
/// `NFT_PAYLOAD_NETWORK_HEADER`.
pub(super) const NETWORK_HEADER: u32 = 1;
/// The one chain of a table that has no more.
const CHAIN: &str = "voicelane";

/// A chain at one of the kernel's hooks.
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) hook: InetHookNumber,
    pub(super) priority: i32,
}

/// Goes on if a property of the packet has this value.
pub(super) fn meta_is(key: MetaKey, value: &[u8]) -> [Expression; 2] {
    let load = Expressions::Meta(vec![
        Meta::DestinationRegister(Register::Reg1),
        Meta::Key(key),
    ]);
    [load.into(), register_is(value)]
}

/// Gives a property of the packet this value.
pub(super) fn set_meta(key: MetaKey, value: &[u8]) -> [Expression; 2] {
    let store = Expressions::Meta(vec![Meta::SourceRegister(Register::Reg1), Meta::Key(key)]);
    [load(value), store.into()]
}

/// Puts a value into the register.
pub(super) fn load(value: &[u8]) -> Expression {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Reg1),
        Immediate::Data(DataAttribute::Value(value.to_vec())),
    ])
    .into()
}

/// Goes on if a property that is an interface's name is this one.
pub(super) fn link_is(key: MetaKey, name: &str) -> [Expression; 2] {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(nix::libc::IFNAMSIZ, 0);
    meta_is(key, &padded)
}

pub(super) fn register_is(value: &[u8]) -> Expression {
    compare(Operator::Equal, value)
}

/// Goes on if the register compares so with a value.
pub(super) fn compare(operator: Operator, value: &[u8]) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
    .into()
}

/// Turns the alias into the real address, in the header and in the checksums of UDP, TCP and ICMPv6 that cover it.
fn rewrite(alias: &ReplySource) -> Vec<Expression> {
    // IPv4 has a checksum in its header too (RFC 791 section 3.1), IPv6 has none.
    let (family, at, mend_header) = match alias.alias {
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
    let (from, to) = (octets(alias.alias), octets(alias.real));
    let destination = [
        Payload::Base(NETWORK_HEADER),
        Payload::Offset(at),
        Payload::Len(u32::try_from(from.len()).expect("an address is short")),
    ];
    let mut fetch = vec![Payload::DestinationRegister(Register::Reg1)];
    fetch.extend(destination.clone());
    let mut store = vec![Payload::SourceRegister(Register::Reg1)];
    store.extend(destination);
    store.extend(mend_header);
    store.push(Payload::CsumFlags(ChecksumFlags::L4PseudoHeader));

    let mut rule = meta_is(MetaKey::Nfproto, &[family.into()]).to_vec();
    rule.push(Expressions::Payload(fetch).into());
    rule.push(register_is(&from));
    rule.push(load(&to));
    rule.push(Expressions::Payload(store).into());
    rule
}

pub(super) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// What the kernel has in force of ours. That is in doubt after a failure, which may have been that of reading its answer.
pub(super) struct InForce<T> {
    pub(super) last: T,
    is_certain: bool,
}

impl<T> InForce<T> {
    pub(super) const fn certain(last: T) -> Self {
        Self {
            last,
            is_certain: true,
        }
    }

    /// Whether this is in force for certain.
    pub(super) fn is<U: ?Sized>(&self, wanted: &U) -> bool
    where
        T: PartialEq<U>,
    {
        self.is_certain && self.last == *wanted
    }
}

/// A table of the `inet` family. It is there as long as this value.
pub struct Table {
    socket: Socket,
    name: String,
}

impl Table {
    /// Makes the table with its chains.
    pub(super) fn new(name: String, chains: &[Chain]) -> Result<Self, NftError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let table = Self {
            socket: open().map_err(NftError::Unsupported)?,
            name,
        };
        table.commit(table.made(chains))?;
        Ok(table)
    }

    /// Messages that make the table.
    fn made(&self, chains: &[Chain]) -> Vec<NfTablesMessage> {
        let made = NfTablesMessage::NewTable(TableMessage {
            attributes: vec![
                TableAttribute::Name(self.name.clone()),
                TableAttribute::Flags(TableFlags::Owner),
            ],
        });
        let chains = chains.iter().map(|chain| self.chain(chain));
        std::iter::once(made).chain(chains).collect()
    }

    /// A message that makes a chain, if it is not there.
    fn chain(&self, chain: &Chain) -> NfTablesMessage {
        NfTablesMessage::NewChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(self.name.clone()),
                ChainAttribute::Name(chain.name.to_owned()),
                ChainAttribute::Type(chain.kind.to_owned()),
                ChainAttribute::Hook(vec![
                    Hook::Number(chain.hook.into()),
                    Hook::Priority(chain.priority.cast_unsigned()),
                ]),
            ],
        })
    }

    /// Messages after which a chain is not there, whether it was or not.
    pub(super) fn without(&self, chain: &Chain) -> [NfTablesMessage; 2] {
        let gone = NfTablesMessage::DeleteChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(self.name.clone()),
                ChainAttribute::Name(chain.name.to_owned()),
            ],
        });
        [self.chain(chain), gone]
    }

    /// Messages after which a chain has these rules and no other, whether it was there or not. It is there only while it has
    /// some: an empty one costs every packet a call.
    pub(super) fn fill(
        &self,
        chain: &Chain,
        rules: impl IntoIterator<Item = Vec<Expression>>,
    ) -> Vec<NfTablesMessage> {
        let rules = rules.into_iter();
        let mut rules = rules.map(|rule| self.rule(chain.name, rule)).peekable();
        if rules.peek().is_none() {
            return self.without(chain).to_vec();
        }
        let empty = [self.chain(chain), self.flush(chain.name)];
        empty.into_iter().chain(rules).collect()
    }

    /// Carries messages out by which this comes into force.
    pub(super) fn bring_about<T>(
        &self,
        present: &mut InForce<T>,
        wanted: T,
        messages: Vec<NfTablesMessage>,
    ) -> Result<(), NftError> {
        present.is_certain = false;
        self.commit(messages)?;
        *present = InForce::certain(wanted);
        Ok(())
    }

    /// Messages that put an empty table in the place of this one.
    pub(super) fn made_anew(&self, chains: &[Chain]) -> Vec<NfTablesMessage> {
        let gone = NfTablesMessage::DeleteTable(TableMessage {
            attributes: vec![TableAttribute::Name(self.name.clone())],
        });
        std::iter::once(gone).chain(self.made(chains)).collect()
    }

    /// Allows batches of this many bytes.
    pub(super) fn allow_batches_of(&self, bytes: usize) -> Result<(), NftError> {
        let allowed = setsockopt(&self.socket, sockopt::SndBufForce, &bytes);
        allowed.map_err(|source| NftError::Refused {
            table: self.name.clone(),
            source: source.into(),
        })
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A message that puts a rule at the end of a chain.
    pub(super) fn rule(&self, chain: &str, expressions: Vec<Expression>) -> NfTablesMessage {
        NfTablesMessage::NewRule(RuleMessage {
            attributes: vec![
                RuleAttribute::Table(self.name.clone()),
                RuleAttribute::Chain(chain.to_owned()),
                RuleAttribute::Expressions(expressions),
            ],
        })
    }

    /// A message that takes all rules out of a chain.
    fn flush(&self, chain: &str) -> NfTablesMessage {
        NfTablesMessage::DeleteRule(RuleMessage {
            attributes: vec![
                RuleAttribute::Table(self.name.clone()),
                RuleAttribute::Chain(chain.to_owned()),
            ],
        })
    }

    /// Carries messages out together or not at all.
    pub(super) fn commit(&self, messages: Vec<NfTablesMessage>) -> Result<(), NftError> {
        if messages.is_empty() {
            return Ok(());
        }
        self.exchange(messages)
            .map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT) => NftError::Unsupported(source),
                _ => NftError::Refused {
                    table: self.name.clone(),
                    source,
                },
            })
    }

    fn exchange(&self, messages: Vec<NfTablesMessage>) -> io::Result<()> {
        let last = u32::try_from(messages.len()).expect("few messages");
        let frame = |inner| {
            (
                NetfilterProtoFamily::Unspec,
                SUBSYSTEM,
                0,
                NetfilterMessageInner::None(inner),
            )
        };
        let inside = messages.into_iter().map(|message| {
            let flags = NLM_F_ACK
                | match message {
                    NfTablesMessage::NewRule(_) => NLM_F_CREATE | NLM_F_APPEND,
                    NfTablesMessage::DeleteRule(_)
                    | NfTablesMessage::DeleteChain(_)
                    | NfTablesMessage::DeleteTable(_) => 0,
                    NfTablesMessage::NewChain(_) => NLM_F_CREATE,
                    _ => NLM_F_CREATE | NLM_F_EXCL,
                };
            (
                NetfilterProtoFamily::Inet,
                0,
                flags,
                NetfilterMessageInner::NfTables(message),
            )
        });
        let batch = std::iter::once(frame(ControlMessage::BatchBegin))
            .chain(inside)
            .chain([frame(ControlMessage::BatchEnd)]);

        let mut bytes = Vec::new();
        for (sequence, (family, resource, flags, inner)) in (0..).zip(batch) {
            let header = NetfilterHeader::new(family, 0, resource);
            let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
            message.header.flags = NLM_F_REQUEST | flags;
            message.header.sequence_number = sequence;
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len(), 0);
            message.serialize(&mut bytes[start..]);
        }
        // What an earlier batch left unread is no answer to this one.
        forget(&self.socket);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        self.answers(last)
    }

    /// Reads the answers, all of which are there when the batch has been sent, up to that to message `last`.
    fn answers(&self, last: u32) -> io::Result<()> {
        let mut done = false;
        while !done {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                    .map_err(io::Error::other)?;
                if let NetlinkPayload::Error(error) = &answer.payload {
                    if error.code.is_some() {
                        return Err(error.to_io());
                    }
                    done |= answer.header.sequence_number == last;
                }
                let length = usize::try_from(answer.header.length).expect("32 bits fit");
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// Throws away all that was told so far, also what was lost (`ENOBUFS`).
pub(super) fn forget(socket: &Socket) {
    loop {
        match socket.recv_from_full() {
            Err(error) if error.raw_os_error() != Some(Errno::ENOBUFS as i32) => return,
            Ok(_) | Err(_) => {}
        }
    }
}

/// The aliases in force: packets from our TUN to an alias go to the real address.
pub struct ReplySourceTable {
    table: Table,
    tun: String,
    present: InForce<Vec<ReplySource>>,
}

impl ReplySourceTable {
    /// After the raw tables (-300), in which VPNs drop what comes by the wrong link, and before connection tracking
    /// (-200), which must see the real address.
    const CHAIN: Chain = Chain {
        name: CHAIN,
        kind: "filter",
        hook: InetHookNumber::PreRouting,
        priority: -290,
    };

    /// Makes the table, without an alias.
    ///
    /// # Errors
    /// [`NftError::Unsupported`], with which one can do without; [`NftError::Refused`].
    pub fn new(tun: &str) -> Result<Self, NftError> {
        // What this kernel cannot do is found out now.
        let table = Table::new(format!("{OURS}{tun}"), &[Self::CHAIN])?;
        table.commit(table.without(&Self::CHAIN).to_vec())?;
        Ok(Self {
            table,
            tun: tun.to_owned(),
            present: InForce::certain(Vec::new()),
        })
    }

    /// Replaces the aliases, all at once.
    ///
    /// # Errors
    /// [`NftError::Refused`]: the former aliases are still in force, if this could not be said. To be tried again.
    pub fn set(&mut self, aliases: &[ReplySource]) -> Result<(), NftError> {
        if self.present.is(aliases) {
            return Ok(());
        }
        let rules = aliases.iter().map(|alias| {
            let mut rule = link_is(MetaKey::Iifname, &self.tun).to_vec();
            rule.extend(rewrite(alias));
            rule
        });
        let batch = self.table.fill(&Self::CHAIN, rules);
        self.table
            .bring_about(&mut self.present, aliases.to_vec(), batch)
    }
}

/// Gives the IPv4 that leaves by `oif` that interface's address, as home routers do, as long as the table is held.
///
/// # Errors
/// [`NftError`].
pub fn masquerade(oif: &str) -> Result<Table, NftError> {
    const SOURCE_NAT: i32 = 100;
    let name = format!("masquerade-{oif}");
    let chain = Chain {
        name: CHAIN,
        kind: "nat",
        hook: InetHookNumber::PostRouting,
        priority: SOURCE_NAT,
    };
    let table = Table::new(name, &[chain])?;
    let mut rule = meta_is(MetaKey::Nfproto, &[NetfilterProtoFamily::IPv4.into()]).to_vec();
    rule.extend(link_is(MetaKey::Oifname, oif));
    rule.push(ListAttribute::Element(vec![ExpressionAttribute::Name(
        "masq".to_owned(),
    )]));
    table.commit(vec![table.rule(CHAIN, rule)])?;
    Ok(table)
}
