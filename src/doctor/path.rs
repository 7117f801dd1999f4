//! Where on the path EF is lost: a few datagrams that die on the way, and what the routers say of them.
//!
//! # Theory of operation
//!
//! To an address of the policy, from a socket as the relay's are, eight datagrams with EF are sent, with hop limits 1
//! to 8. A router where one dies returns its header as it came there (RFC 792, RFC 4443 section 3.3), the mark included:
//! the first hop that quotes another mark lies behind who changed it. A datagram's length is its hop limit, so that each
//! answer finds its question.
//!
//! The quoted header is read from a raw ICMP socket, for which root is needed: the error queue of the socket itself
//! (`IP_RECVERR`) hands out what the datagram carried and no header.
//!
//! This is traffic to the vendor, so it is only sent when asked for.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::dscp::class;
use super::{Finding, SystemFacts, firewall};
use crate::net::{Dscp, Egress, Endpoint, Family, Inside, Treatment};
use crate::relay::SocketFactory;

/// How far to go: what lies behind is the vendor's.
const HOPS: u8 = 8;

/// How long answers may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who answered, and the mark that the datagram had when it came there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RouterReply {
    router: IpAddr,
    mark: Dscp,
}

/// What was heard, by hop limit.
type Replies = BTreeMap<u8, RouterReply>;

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    if !facts.options.path {
        return vec![Finding::unknown(
            "whether EF survives on the way was not tried, for that sends a few datagrams to the vendor",
            "sudo voicelane doctor --path",
        )];
    }
    if !(facts.may_administer && facts.may_listen) {
        return vec![Finding::for_root(
            "only root may read what routers say of a datagram",
        )];
    }
    if facts.uplink_name().is_none() {
        return vec![Finding::unknown(
            "there is no uplink to try",
            "see what is said of the uplink",
        )];
    }
    let found = Family::BOTH.into_iter().filter_map(|family| {
        let binder = SocketFactory {
            device: facts.uplink(family)?.name.clone(),
            addresses: Vec::new(),
            mark: facts.numbers.mark,
            tunnel_mark: facts.numbers.tunnel_mark(),
        };
        let to = firewall::target(&facts.policy, family)?;
        Some(match trace(&binder, to) {
            Ok(heard) => judge(family, &heard),
            Err(error) => Finding::unknown(
                format!("the way to {to} could not be tried: {error}"),
                "see what is said of the uplink and of firewalls",
            ),
        })
    });
    found.collect()
}

fn judge(family: Family, heard: &Replies) -> Finding {
    let Some((last, end)) = heard.last_key_value() else {
        return Finding::unknown(
            format!("no router within {HOPS} hops says what it got ({family})"),
            "try from another network; some routers say nothing",
        );
    };
    let Some((at, changed)) = heard.iter().find(|(_, hop)| hop.mark != Dscp::EF) else {
        return Finding::ok(format!(
            "EF is still there at hop {last}, {} ({family})",
            end.router
        ));
    };
    let how = match changed.mark.value() {
        0 => "is bleached to 0".to_owned(),
        6 => "has lost its upper three bits (6), as by routers that know TOS precedence".to_owned(),
        value => format!("has become {} ({value})", changed.mark),
    };
    let before = heard.range(..at).next_back();
    let remedy = match before {
        None if *at == 1 => {
            "something on this machine changes it: look for a DSCP rule in `nft list ruleset`, or a queue discipline"
        }
        None => {
            "a router before it does that; one at home can be told to keep or set DSCP (`voicelane policy export`)"
        }
        Some((1, _)) => {
            "the router at home does that: let it trust or set DSCP (`voicelane policy export openwrt`, `mikrotik`, ...)"
        }
        Some(_) => {
            "a network behind the home does that: ask the provider; up to there EF still helps"
        }
    };
    let before = before.map_or_else(
        || "nobody before it answers".to_owned(),
        |(hop, it)| format!("hop {hop}, {}, still had EF", it.router),
    );
    Finding::warning(
        format!(
            "EF (46) {how} when it comes to hop {at}, {}: {before} ({family})",
            changed.router
        ),
        remedy,
    )
}

/// Sends the datagrams and hears what is said of them.
fn trace(binder: &SocketFactory, to: SocketAddr) -> io::Result<Replies> {
    let family = Family::of(to.ip());
    let any = Inside(Endpoint::new(family.unspecified(), 0));
    let bound = binder.open_udp(Egress::Direct, any, Treatment::of(Dscp::EF), true);
    let (socket, outside) = bound.map_err(|error| error.source)?;
    let kind = Type::RAW.cloexec();
    let mut ears = match family {
        Family::V4 => Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4)),
        Family::V6 => Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6)),
    }?;
    for limit in 1..=HOPS {
        match family {
            Family::V4 => socket.set_ttl_v4(limit.into())?,
            Family::V6 => socket.set_unicast_hops_v6(limit.into())?,
        }
        // An earlier datagram's error is told here, and has been heard of by the other socket.
        let payload = vec![0; limit.into()];
        socket
            .send_to(&payload, &to.into())
            .or_else(|_| socket.send_to(&payload, &to.into()))?;
    }
    let (mut heard, end) = (Replies::new(), Instant::now() + PATIENCE);
    let mut buffer = [0; 1500];
    while heard.len() < HOPS.into() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        ears.set_read_timeout(Some(left))?;
        let (length, from) = match receive(&mut ears, family, &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            received => received?,
        };
        let said = quoted(family, &buffer[..length], (outside.0.port, to));
        if let Some((limit, mark)) = said {
            heard
                .entry(limit)
                .or_insert(RouterReply { router: from, mark });
        }
    }
    // The host itself answers every datagram that reaches it: the first of them is its hop.
    let arrived = heard.iter().find(|(_, hop)| hop.router == to.ip());
    if let Some((&limit, _)) = arrived {
        heard.retain(|it, _| *it <= limit);
    }
    Ok(heard)
}

/// Reads an ICMP message without its IP header; answers its length and who sent it.
fn receive(ears: &mut Socket, family: Family, buffer: &mut [u8]) -> io::Result<(usize, IpAddr)> {
    match family {
        // A raw IPv4 socket gives the header as well.
        Family::V4 => {
            let length = ears.read(buffer)?;
            let header = usize::from(buffer[0] & 0x0f) * 4;
            let source: [u8; 4] = buffer[12..16].try_into().expect("four bytes");
            buffer.copy_within(header.min(length)..length, 0);
            Ok((length.saturating_sub(header), source.into()))
        }
        Family::V6 => {
            let (length, from) = nix::sys::socket::recvfrom::<nix::sys::socket::SockaddrIn6>(
                std::os::fd::AsRawFd::as_raw_fd(ears),
                buffer,
            )?;
            let from = from.map_or(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), |it| {
                it.ip().into()
            });
            Ok((length, from))
        }
    }
}

/// The hop limit and the mark of our datagram that an ICMP error quotes; none for any other message.
fn quoted(family: Family, message: &[u8], (port, to): (u16, SocketAddr)) -> Option<(u8, Dscp)> {
    // Time exceeded and destination unreachable (RFC 792; RFC 4443 sections 3.1 and 3.3).
    let is_error = match family {
        Family::V4 => [11, 3].contains(message.first()?),
        Family::V6 => [3, 1].contains(message.first()?),
    };
    let packet = message.get(8..).filter(|_| is_error)?;
    let (destination, header): (IpAddr, usize) = match family {
        Family::V4 => {
            let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (destination.into(), usize::from(packet[0] & 0x0f) * 4)
        }
        Family::V6 => {
            let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (destination.into(), 40)
        }
    };
    let udp: [u8; 6] = packet.get(header..header + 6)?.try_into().ok()?;
    let [source_high, source_low, high, low, length_high, length_low] = udp;
    let is_ours = destination == to.ip()
        && u16::from_be_bytes([source_high, source_low]) == port
        && u16::from_be_bytes([high, low]) == to.port();
    let length = u16::from_be_bytes([length_high, length_low]).checked_sub(8)?;
    let limit = u8::try_from(length)
        .ok()
        .filter(|it| (1..=HOPS).contains(it))?;
    is_ours.then_some((limit, class(packet)?.dscp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(marks: &[(u8, u8)]) -> Replies {
        let hop = |&(limit, mark): &(u8, u8)| {
            let router = IpAddr::from([192, 0, 2, limit]);
            let mark = Dscp::new(mark).expect("six bits");
            (limit, RouterReply { router, mark })
        };
        marks.iter().map(hop).collect()
    }

    #[test]
    fn who_changes_the_mark_is_narrowed_down() {
        let told = |marks| {
            let finding = judge(Family::V4, &heard(marks));
            format!("{} | {}", finding.found, finding.remedy.unwrap_or_default())
        };
        assert!(told(&[(1, 46), (3, 46)]).starts_with("EF is still there at hop 3, 192.0.2.3"));
        assert!(told(&[(1, 46), (2, 0), (3, 0)]).contains("bleached to 0 when it comes to hop 2"));
        assert!(told(&[(1, 46), (2, 0)]).contains("the router at home does that"));
        assert!(told(&[(1, 46), (2, 46), (5, 6)]).contains("ask the provider"));
        assert!(told(&[(1, 0)]).contains("something on this machine"));
        assert!(told(&[(2, 10)]).contains("AF11 (10)"));
        assert!(told(&[]).contains("no router"));
    }

    #[test]
    fn only_our_own_datagram_is_read() {
        let to: SocketAddr = "168.86.128.0:10000".parse().expect("an endpoint");
        let mut message = vec![11, 0, 0, 0, 0, 0, 0, 0];
        message.extend([
            0x45, 0xb8, 0, 31, 0, 0, 0, 0, 1, 17, 0, 0, 10, 0, 0, 1, 168, 86, 128, 0,
        ]);
        message.extend([0x9c, 0x40, 0x27, 0x10, 0, 11, 0, 0]);
        let read = |message: &[u8], port| quoted(Family::V4, message, (port, to));
        assert_eq!(read(&message, 40_000), Some((3, Dscp::EF)));
        assert_eq!(read(&message, 40_001), None);
        for end in 0..message.len() - 2 {
            assert_eq!(read(&message[..end], 40_000), None, "{end}");
        }
        message[0] = 8;
        assert_eq!(read(&message, 40_000), None);
    }
}
