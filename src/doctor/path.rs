//! The hop at which EF is lost, found like traceroute finds a path.
//!
//! # Theory of operation
//!
//! The check sends eight datagrams with EF to an address of the policy, with hop limits 1 to 8, from a socket of the
//! relay. The router at which a hop limit ends quotes the received header, including its DSCP (RFC 792, RFC 4443
//! section 3.3). The first hop that quotes another DSCP follows the router that changed it. The length of a datagram is
//! its hop limit, which identifies it in the reply.
//!
//! A raw ICMP socket reads the quoted header and needs root. The error queue of the UDP socket (`IP_RECVERR`) has the
//! quoted payload only.
//!
//! The datagrams go to the vendor, so they are sent on request only.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::dscp::class;
use super::{Finding, SystemFacts, firewall};
use crate::net::{Dscp, Egress, Endpoint, Family, Inside, Treatment};
use crate::relay::SocketFactory;

/// The largest hop limit. Further hops belong to the vendor.
const HOPS: u8 = 8;

/// The time to wait for replies.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The router that replied, and the DSCP of the datagram that it received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RouterReply {
    router: IpAddr,
    dscp: Dscp,
}

/// The replies by hop limit.
type Replies = BTreeMap<u8, RouterReply>;

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    if !facts.options.path {
        return vec![Finding::unknown(
            "Not measured: whether the network keeps EF. The measurement sends 8 datagrams to the vendor.",
            "Run: sudo voicelane doctor --path",
        )];
    }
    if !(facts.may_administer && facts.may_capture) {
        return vec![Finding::needs_root(
            "Not measured: the replies of routers need root.",
        )];
    }
    if facts.uplink_name().is_none() {
        return vec![Finding::no_uplink()];
    }
    let found = Family::BOTH.into_iter().filter_map(|family| {
        let sockets = SocketFactory {
            device: facts.uplink(family)?.name.clone(),
            mark: facts.routing_ids.mark,
            tunnel_mark: facts.routing_ids.tunnel_mark(),
        };
        let to = firewall::target(&facts.policy, family)?;
        Some(match trace(&sockets, to) {
            Ok(replies) => assess(family, &replies),
            Err(error) => Finding::unknown(
                format!("Not measured: cannot send to {to}: {error}."),
                "See the checks of the uplink and of firewalls.",
            ),
        })
    });
    found.collect()
}

fn assess(family: Family, replies: &Replies) -> Finding {
    let Some((last, reply)) = replies.last_key_value() else {
        return Finding::unknown(
            format!("Not measured: no router within {HOPS} hops replies ({family})."),
            "Try from another network. Some routers never reply.",
        );
    };
    let Some((at, changed)) = replies.iter().find(|(_, reply)| reply.dscp != Dscp::EF) else {
        return Finding::ok(format!(
            "The network keeps EF up to hop {last}, {} ({family}).",
            reply.router
        ));
    };
    let change = match changed.dscp.value() {
        0 => "is bleached to 0".to_owned(),
        6 => "has lost its upper three bits (6), as by routers that use TOS precedence".to_owned(),
        value => format!("is changed to {} ({value})", changed.dscp),
    };
    let before = replies.range(..at).next_back();
    let remedy = match before {
        None if *at == 1 => {
            "This machine changes it. Look for a DSCP rule in `nft list ruleset`, or a queueing discipline (tc)."
        }
        None => {
            "An earlier router changes it. Configure the home router to keep or set DSCP (`voicelane policy export`)."
        }
        Some((1, _)) => {
            "The home router changes it. Configure it to keep or set DSCP (`voicelane policy export openwrt`, `mikrotik`, ...)."
        }
        Some(_) => {
            "The network of a provider changes it. Ask the provider. Up to there, EF still helps."
        }
    };
    let before = before.map_or_else(
        || "no earlier hop replies".to_owned(),
        |(hop, reply)| format!("hop {hop}, {}, still received EF", reply.router),
    );
    Finding::warning(
        format!(
            "EF (46) {change} before hop {at}, {}; {before} ({family}).",
            changed.router
        ),
        remedy,
    )
}

/// Sends the datagrams and collects the replies.
fn trace(sockets: &SocketFactory, to: SocketAddr) -> io::Result<Replies> {
    let family = Family::of(to.ip());
    let any = Inside(Endpoint::new(family.unspecified(), 0));
    let bound = sockets.open_udp(Egress::Direct, any, None, Treatment::of(Dscp::EF), true);
    let (socket, outside) = bound.map_err(|error| error.source)?;
    let kind = Type::RAW.cloexec();
    let mut icmp = match family {
        Family::V4 => Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4)),
        Family::V6 => Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6)),
    }?;
    for limit in 1..=HOPS {
        match family {
            Family::V4 => socket.set_ttl_v4(limit.into())?,
            Family::V6 => socket.set_unicast_hops_v6(limit.into())?,
        }
        // The first attempt may return the ICMP error of an earlier datagram.
        let payload = vec![0; limit.into()];
        socket
            .send_to(&payload, &to.into())
            .or_else(|_| socket.send_to(&payload, &to.into()))?;
    }
    let (mut replies, end) = (Replies::new(), Instant::now() + REPLY_TIMEOUT);
    let mut buffer = [0; 1500];
    while replies.len() < HOPS.into() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        icmp.set_read_timeout(Some(left))?;
        let (length, from) = match receive(&mut icmp, family, &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            received => received?,
        };
        let quote = quoted(family, &buffer[..length], (outside.0.port, to));
        if let Some((limit, dscp)) = quote {
            replies
                .entry(limit)
                .or_insert(RouterReply { router: from, dscp });
        }
    }
    // The destination replies to every datagram that reaches it. Its hop is the first of them.
    let arrived = replies.iter().find(|(_, reply)| reply.router == to.ip());
    if let Some((&limit, _)) = arrived {
        replies.retain(|it, _| *it <= limit);
    }
    Ok(replies)
}

/// Reads an ICMP message without its IP header. Returns its length and its source address.
fn receive(icmp: &mut Socket, family: Family, buffer: &mut [u8]) -> io::Result<(usize, IpAddr)> {
    match family {
        // A raw IPv4 socket returns the IP header too.
        Family::V4 => {
            let length = icmp.read(buffer)?;
            let header = usize::from(buffer[0] & 0x0f) * 4;
            let source: [u8; 4] = buffer[12..16].try_into().expect("four bytes");
            buffer.copy_within(header.min(length)..length, 0);
            Ok((length.saturating_sub(header), source.into()))
        }
        Family::V6 => {
            let (length, from) = nix::sys::socket::recvfrom::<nix::sys::socket::SockaddrIn6>(
                std::os::fd::AsRawFd::as_raw_fd(icmp),
                buffer,
            )?;
            let from = from.map_or(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), |it| {
                it.ip().into()
            });
            Ok((length, from))
        }
    }
}

/// Returns hop limit and DSCP of the datagram that an ICMP error quotes, if it is one of this check.
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

    fn replies(marks: &[(u8, u8)]) -> Replies {
        let reply = |&(limit, dscp): &(u8, u8)| {
            let router = IpAddr::from([192, 0, 2, limit]);
            let dscp = Dscp::new(dscp).expect("six bits");
            (limit, RouterReply { router, dscp })
        };
        marks.iter().map(reply).collect()
    }

    #[test]
    fn the_router_that_changes_the_dscp_is_narrowed_down() {
        let text = |marks| {
            let finding = assess(Family::V4, &replies(marks));
            format!("{} | {}", finding.found, finding.remedy.unwrap_or_default())
        };
        assert!(
            text(&[(1, 46), (3, 46)]).starts_with("The network keeps EF up to hop 3, 192.0.2.3")
        );
        assert!(text(&[(1, 46), (2, 0), (3, 0)]).contains("bleached to 0 before hop 2"));
        assert!(text(&[(1, 46), (2, 0)]).contains("The home router changes it"));
        assert!(text(&[(1, 46), (2, 46), (5, 6)]).contains("Ask the provider"));
        assert!(text(&[(1, 0)]).contains("This machine changes it"));
        assert!(text(&[(2, 10)]).contains("AF11 (10)"));
        assert!(text(&[]).contains("no router"));
    }

    #[test]
    fn only_quotes_of_this_checks_datagrams_count() {
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
