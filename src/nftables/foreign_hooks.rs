//! Search for other programs' hooks that cause route lookups without ports.

use std::fs;
use std::io;

use netlink_packet_core::NlasIterator;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::table::OURS;
use crate::route::desired::PortlessLookups;

/// `NFT_MSG_GETCHAIN` and `NFT_MSG_GETRULE` with the subsystem in the upper octet.
const GET_CHAIN: u16 = 0x0a04;
const GET_RULE: u16 = 0x0a07;
/// The header of a message (struct nlmsghdr), and of netfilter (struct nfgenmsg).
const HEADER: usize = 16;
const FAMILY: usize = 4;
/// `NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE`.
const TABLE: u16 = 1;

/// Searches the ruleset for chains of type route and for reverse-path checks.
///
/// The rules of legacy iptables are not readable without loading its tables, so its mere presence counts.
///
/// # Errors
/// The ruleset could not be read.
pub fn portless_lookups() -> io::Result<PortlessLookups> {
    let legacy = legacy_tables();
    let has_legacy = |names: &[&str]| names.iter().any(|name| legacy.contains(name));
    let (mut outgoing, mut incoming) = (false, false);
    dump(GET_CHAIN, |chain| {
        outgoing |= is_foreign(chain) && is_route_chain(chain);
    })?;
    dump(GET_RULE, |rule| {
        incoming |= is_foreign(rule) && is_source_check(rule);
    })?;
    Ok(PortlessLookups {
        outgoing: outgoing || has_legacy(&["mangle"]),
        incoming: incoming || has_legacy(&["mangle", "raw"]),
    })
}

/// Names of the tables of legacy iptables, of both families. If only root may read them, the loaded modules count.
fn legacy_tables() -> Vec<&'static str> {
    let names = ["ip", "ip6"].map(|family| {
        let names = fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names"));
        names.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(String::new()),
            _ => fs::read_to_string("/proc/modules"),
        })
    });
    let names: Vec<_> = names.into_iter().map(Result::unwrap_or_default).collect();
    let is_listed = |table: &&str| {
        let mut words = names
            .iter()
            .flat_map(|it| it.lines())
            .filter_map(|line| line.split(' ').next());
        words.any(|word| {
            word.trim_start_matches("ip6table_")
                .trim_start_matches("iptable_")
                == *table
        })
    };
    ["mangle", "raw"].into_iter().filter(is_listed).collect()
}

/// Whether a message about a chain or rule is about another program's table.
pub(crate) fn is_foreign(content: &[u8]) -> bool {
    let mut tables = attributes(content).filter(|it| it.0 == TABLE);
    !tables.any(|(_, name)| name.starts_with(OURS.as_bytes()))
}

/// Whether a chain is of the type that looks up routes again.
fn is_route_chain(content: &[u8]) -> bool {
    /// `NFTA_CHAIN_TYPE`.
    const TYPE: u16 = 7;
    attributes(content).any(|it| it == (TYPE, b"route\0"))
}

/// Whether a rule looks up a source with the mark: the expression `fib`, or the match `rpfilter` of iptables-nft.
fn is_source_check(content: &[u8]) -> bool {
    /// `NFTA_RULE_EXPRESSIONS`; `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA` in each; `NFTA_MATCH_NAME` in a match.
    const EXPRESSIONS: u16 = 4;
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    /// `NFTA_FIB_RESULT` and its value for the type of an address; `NFTA_FIB_FLAGS`.
    const RESULT: u16 = 2;
    const TYPE: u32 = 3;
    const FLAGS: u16 = 3;
    const SOURCE_AND_MARK: u32 = 1 | 1 << 2;
    let nested = |bytes: &[u8]| -> Vec<(u16, Vec<u8>)> {
        let nested = NlasIterator::new(bytes).flatten();
        nested
            .map(|it| (it.kind() & 0x3fff, it.value().to_vec()))
            .collect()
    };
    let expressions = attributes(content).filter(|it| it.0 == EXPRESSIONS);
    expressions
        .flat_map(|it| nested(it.1))
        .any(|(_, expression)| {
            let fields = nested(&expression);
            let is_named = |name: &[u8]| fields.iter().any(|it| it.0 == NAME && it.1 == name);
            let data = fields.iter().filter(|it| it.0 == DATA);
            let data: Vec<_> = data.flat_map(|it| nested(&it.1)).collect();
            let value = |kind| {
                data.iter()
                    .find(|it| it.0 == kind)
                    .map(|it| it.1.as_slice())
            };
            let word =
                |kind| value(kind).and_then(|it| Some(u32::from_be_bytes(*it.first_chunk()?)));
            let is_match =
                is_named(b"match\0") && value(NAME).is_some_and(|it| it.starts_with(b"rpfilter\0"));
            let looks_up_source =
                word(FLAGS).is_some_and(|flags| flags & SOURCE_AND_MARK == SOURCE_AND_MARK);
            is_match || is_named(b"fib\0") && word(RESULT) != Some(TYPE) && looks_up_source
        })
}

/// Returns the attributes of a message about a chain or rule.
fn attributes(content: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let attributes = NlasIterator::new(content.get(FAMILY..).unwrap_or_default());
    let attributes = attributes.map_while(Result::ok);
    attributes.map(|it| {
        let range = it.into_inner();
        let kind = u16::from_ne_bytes([range[2], range[3]]) & 0x3fff;
        let length = usize::from(u16::from_ne_bytes([range[0], range[1]]));
        (kind, &range[FAMILY..length])
    })
}

/// Returns the messages of a datagram: type, and content after the header (struct nlmsghdr).
pub(crate) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, rest) = datagram.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let length = (u32::from_ne_bytes(*length) as usize).max(HEADER);
        let content = datagram.get(HEADER..length)?;
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((u16::from_ne_bytes(*kind), content))
    })
}

/// Reads all objects of one kind, and hands over the content of each message.
fn dump(kind: u16, mut on_content: impl FnMut(&[u8])) -> io::Result<()> {
    /// `NLM_F_REQUEST` and `NLM_F_DUMP`.
    const FLAGS: u16 = 0x301;
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    let mut request = Vec::new();
    request.extend(20_u32.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(FLAGS.to_ne_bytes());
    // Sequence number, port, and the header of netfilter: all families.
    request.resize(HEADER + FAMILY, 0);
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        for (kind, content) in messages(&answer) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = content
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => on_content(content),
            }
        }
    }
}
