//! Tables of our own in nftables, over nfnetlink.
//!
//! A table is owned by the socket that made it (`NFT_TABLE_F_OWNER`, Linux 5.12): nobody else can change it, and it goes
//! with the process, however that ends. Nobody else's table is touched.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, InetHookNumber, NfTablesMessage, RuleAttribute,
    RuleMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::expression::Expression;

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
pub(crate) const OURS: &str = "voicelane-";

/// `NFNL_SUBSYS_NFTABLES`, which a batch names as its addressee.
const SUBSYSTEM: u16 = 10;
/// A chain at one of the kernel's hooks.
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) hook: InetHookNumber,
    pub(super) priority: i32,
}

/// What the kernel has in force of ours. That is in doubt after a failure, which may have been that of reading its answer.
pub(super) struct AppliedState<T> {
    pub(super) last: T,
    is_certain: bool,
}

impl<T> AppliedState<T> {
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
pub struct NftTable {
    socket: Socket,
    name: String,
}

impl NftTable {
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
    pub(super) fn apply<T>(
        &self,
        present: &mut AppliedState<T>,
        wanted: T,
        messages: Vec<NfTablesMessage>,
    ) -> Result<(), NftError> {
        present.is_certain = false;
        self.commit(messages)?;
        *present = AppliedState::certain(wanted);
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
