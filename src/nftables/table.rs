//! nftables tables of voicelane, changed over nfnetlink.
//!
//! The socket that creates a table owns it (`NFT_TABLE_F_OWNER`, Linux 5.12). No other program can change it, and the
//! kernel deletes it when the process ends. Foreign tables are never changed.

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

/// A table could not be created or changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The kernel has no nftables, or no owned tables.
    #[error("this kernel has no nftables with owned tables (Linux 5.12, CONFIG_NF_TABLES)")]
    Unsupported(#[source] io::Error),
    /// The kernel refused a change.
    #[error("cannot change the nftables table {table:?}")]
    Refused {
        /// The table.
        table: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Prefix of the names of voicelane's tables.
pub(crate) const OURS: &str = "voicelane-";

/// `NFNL_SUBSYS_NFTABLES`, the subsystem of a batch.
const SUBSYSTEM: u16 = 10;
/// A chain at a netfilter hook.
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) hook: InetHookNumber,
    pub(super) priority: i32,
}

/// The last applied state. It is uncertain after a failure, because reading the kernel's answer may have failed.
pub(super) struct AppliedState<T> {
    pub(super) state: T,
    is_certain: bool,
}

impl<T> AppliedState<T> {
    pub(super) const fn certain(state: T) -> Self {
        Self {
            state,
            is_certain: true,
        }
    }

    /// Whether this state is certainly applied.
    pub(super) fn is<U: ?Sized>(&self, desired: &U) -> bool
    where
        T: PartialEq<U>,
    {
        self.is_certain && self.state == *desired
    }
}

/// A table of the `inet` family. Dropping the value deletes it.
pub struct NftTable {
    socket: Socket,
    name: String,
}

impl NftTable {
    /// Creates a table with chains.
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
        table.commit(table.creation(chains))?;
        Ok(table)
    }

    /// Returns the messages that create the table.
    fn creation(&self, chains: &[Chain]) -> Vec<NfTablesMessage> {
        let table = NfTablesMessage::NewTable(TableMessage {
            attributes: vec![
                TableAttribute::Name(self.name.clone()),
                TableAttribute::Flags(TableFlags::Owner),
            ],
        });
        let chains = chains.iter().map(|chain| self.chain(chain));
        std::iter::once(table).chain(chains).collect()
    }

    /// Returns the message that creates a chain if it does not exist.
    pub(super) fn chain(&self, chain: &Chain) -> NfTablesMessage {
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

    /// Returns the messages that delete a chain, whether it exists or not.
    pub(super) fn deletion(&self, chain: &Chain) -> [NfTablesMessage; 2] {
        let deletion = NfTablesMessage::DeleteChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(self.name.clone()),
                ChainAttribute::Name(chain.name.to_owned()),
            ],
        });
        [self.chain(chain), deletion]
    }

    /// Returns the messages that give a chain exactly these rules, whether it exists or not.
    ///
    /// A chain without rules is deleted: an empty one costs time for every packet.
    pub(super) fn replacement(
        &self,
        chain: &Chain,
        rules: impl IntoIterator<Item = Vec<Expression>>,
    ) -> Vec<NfTablesMessage> {
        let rules = rules.into_iter();
        let mut rules = rules.map(|rule| self.rule(chain.name, rule)).peekable();
        if rules.peek().is_none() {
            return self.deletion(chain).to_vec();
        }
        let empty = [self.chain(chain), self.flush(chain.name)];
        empty.into_iter().chain(rules).collect()
    }

    /// Sends messages, and records the state that they lead to.
    pub(super) fn apply<T>(
        &self,
        present: &mut AppliedState<T>,
        desired: T,
        messages: Vec<NfTablesMessage>,
    ) -> Result<(), NftError> {
        present.is_certain = false;
        self.commit(messages)?;
        *present = AppliedState::certain(desired);
        Ok(())
    }

    /// Returns the messages that replace the table by an empty one.
    pub(super) fn recreation(&self, chains: &[Chain]) -> Vec<NfTablesMessage> {
        let deletion = NfTablesMessage::DeleteTable(TableMessage {
            attributes: vec![TableAttribute::Name(self.name.clone())],
        });
        std::iter::once(deletion)
            .chain(self.creation(chains))
            .collect()
    }

    /// Sets the largest batch in bytes.
    pub(super) fn set_max_batch(&self, bytes: usize) -> Result<(), NftError> {
        let outcome = setsockopt(&self.socket, sockopt::SndBufForce, &bytes);
        outcome.map_err(|source| NftError::Refused {
            table: self.name.clone(),
            source: source.into(),
        })
    }

    /// Returns the name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the message that appends a rule to a chain.
    pub(super) fn rule(&self, chain: &str, expressions: Vec<Expression>) -> NfTablesMessage {
        NfTablesMessage::NewRule(RuleMessage {
            attributes: vec![
                RuleAttribute::Table(self.name.clone()),
                RuleAttribute::Chain(chain.to_owned()),
                RuleAttribute::Expressions(expressions),
            ],
        })
    }

    /// Returns the message that deletes all rules of a chain.
    fn flush(&self, chain: &str) -> NfTablesMessage {
        NfTablesMessage::DeleteRule(RuleMessage {
            attributes: vec![
                RuleAttribute::Table(self.name.clone()),
                RuleAttribute::Chain(chain.to_owned()),
            ],
        })
    }

    /// Sends messages as one transaction.
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
        let control = |inner| {
            (
                NetfilterProtoFamily::Unspec,
                SUBSYSTEM,
                0,
                NetfilterMessageInner::None(inner),
            )
        };
        let inner = messages.into_iter().map(|message| {
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
        let batch = std::iter::once(control(ControlMessage::BatchBegin))
            .chain(inner)
            .chain([control(ControlMessage::BatchEnd)]);

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
        // Unread answers to an earlier batch must not count as answers to this one.
        discard_received(&self.socket);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        self.answers(last)
    }

    /// Reads the answers up to the one to message `last`. All are there as soon as the batch was sent.
    fn answers(&self, last: u32) -> io::Result<()> {
        let mut done = false;
        while !done {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut unread = bytes.as_slice();
            while !unread.is_empty() {
                let answer = NetlinkMessage::<NetfilterMessage>::deserialize(unread)
                    .map_err(io::Error::other)?;
                if let NetlinkPayload::Error(error) = &answer.payload {
                    if error.code.is_some() {
                        return Err(error.to_io());
                    }
                    done |= answer.header.sequence_number == last;
                }
                let length = usize::try_from(answer.header.length).expect("32 bits fit");
                unread = unread.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// Discards all received messages, and the error about lost ones (`ENOBUFS`).
pub(super) fn discard_received(socket: &Socket) {
    loop {
        match socket.recv_from_full() {
            Err(error) if error.raw_os_error() != Some(Errno::ENOBUFS as i32) => return,
            Ok(_) | Err(_) => {}
        }
    }
}
