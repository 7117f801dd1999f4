//! Everything else: that it stayed in the VPN, that nobody unasked came in, and that a crash is safe.

use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::IpNumber;
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::capture::{Captures, Content, Place, Sighting};
use super::measure::{as_text, millis};
use super::media::{self, Call, Recording};
use super::world::{LAPTOP, MEDIA, OTHER, STRANGER, TEST_HOST, World};
use crate::call::stun;
use crate::net::{Endpoint, Family};

/// How long a probe waits for its answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most that a crash may interrupt a call for.
const FALLBACK: Duration = Duration::from_secs(1);
/// How long a call is watched after the crash.
pub(super) const AFTERMATH: Duration = Duration::from_millis(2500);

/// A finding, with what it should have been.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// What was tried.
    pub(super) name: &'static str,
    #[serde(serialize_with = "as_text")]
    pub(super) family: Family,
    pub(super) passed: bool,
    pub(super) expected: &'static str,
    pub(super) measured: String,
}

/// How a probe speaks.
#[derive(Clone, Copy)]
enum Speech {
    Udp,
    Stun,
    Tcp,
    Echo,
}

/// Which way a probe should go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Tunnel,
    Direct,
}

/// A packet or a few from the laptop, which a server of the world answers.
#[derive(Clone, Copy)]
struct Probe {
    name: &'static str,
    family: Family,
    speech: Speech,
    target: Endpoint,
    way: Way,
}

/// The ports at which the world's servers answer.
const DNS: u16 = 53;
const HTTPS: u16 = 443;
const STUN: u16 = 3478;
/// A media port, but at a host that no policy names.
const MEDIA_LIKE: u16 = 20_000;
/// The port below the policy's range.
const OUTSIDE: u16 = 9_999;

fn probes(family: Family) -> Vec<Probe> {
    let (media, other) = (MEDIA.of(family), OTHER.of(family));
    let tunnel = |name, speech, addr, port| Probe {
        name,
        family,
        speech,
        target: Endpoint::new(addr, port),
        way: Way::Tunnel,
    };
    let mut probes = vec![
        tunnel("DNS: UDP 53 to another host", Speech::Udp, other, DNS),
        tunnel("TCP 443 to the media range", Speech::Tcp, media, HTTPS),
        tunnel("ICMP echo to the media range", Speech::Echo, media, 0),
        tunnel("UDP 20000 to another host", Speech::Udp, other, MEDIA_LIKE),
        tunnel("UDP 9999 to the media range", Speech::Udp, media, OUTSIDE),
    ];
    if family == Family::V4 {
        probes.push(Probe {
            name: "STUN to a network-test host",
            family,
            speech: Speech::Stun,
            target: Endpoint::new(TEST_HOST.into(), STUN),
            way: Way::Direct,
        });
    }
    probes
}

/// Starts the servers that answer the probes.
///
/// # Errors
/// A port cannot be had.
pub(super) fn serve(world: &World) -> anyhow::Result<()> {
    for family in world.families {
        for probe in probes(*family) {
            let host = if OTHER.of(*family) == probe.target.addr {
                &world.other
            } else {
                &world.cloud
            };
            let at = SocketAddr::from(probe.target);
            host.enter(move || -> io::Result<()> {
                match probe.speech {
                    Speech::Udp | Speech::Stun => answer_udp(UdpSocket::bind(at)?),
                    Speech::Tcp => answer_tcp(TcpListener::bind(at)?),
                    Speech::Echo => {}
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn answer_udp(socket: UdpSocket) {
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let answer = match stun::StunMessage::parse(&buffer[..len]) {
                Some(request) => stun::binding_success(request.transaction, from.into()),
                None => buffer[..len].to_vec(),
            };
            let _ = socket.send_to(&answer, from);
        }
    });
}

fn answer_tcp(listener: TcpListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"hello");
        }
    });
}

/// Sends every probe from the laptop and tells by the captures which way it went.
pub(super) fn probe(world: &World, captures: &Captures) -> Vec<Check> {
    let probes = world.families.iter().flat_map(|family| probes(*family));
    probes.map(|probe| probe.send(world, captures)).collect()
}

impl Probe {
    fn send(self, world: &World, captures: &Captures) -> Check {
        let started = Instant::now();
        let answered = world.laptop.enter(move || self.ask());
        let took = millis(started.elapsed());
        let sent = captures.since(started, |s| {
            s.packet.destination == self.target && s.packet.protocol == self.protocol()
        });
        let in_clear = |s: &Sighting| s.place == Place::Home && !s.outgoing;
        let by_gateway = |s: &Sighting| s.place == Place::Gateway && *s.interface == *"eth0";
        let went = match (sent.iter().any(in_clear), sent.iter().any(by_gateway)) {
            (false, false) => "nowhere",
            (false, true) => "in the VPN",
            (true, false) => "direct",
            (true, true) => "BOTH ways",
        };
        let (way, expected) = match self.way {
            Way::Tunnel => ("in the VPN", "in the VPN, answered"),
            Way::Direct => ("direct", "direct, answered"),
        };
        Check {
            name: self.name,
            family: self.family,
            passed: went == way && answered.is_ok(),
            expected,
            measured: match answered {
                Ok(()) => format!("{went}, {took:.1} ms"),
                Err(error) => format!("{went}, no answer: {error}"),
            },
        }
    }

    fn protocol(&self) -> IpNumber {
        match (self.speech, self.family) {
            (Speech::Udp | Speech::Stun, _) => IpNumber::UDP,
            (Speech::Tcp, _) => IpNumber::TCP,
            (Speech::Echo, Family::V4) => IpNumber::ICMP,
            (Speech::Echo, Family::V6) => IpNumber::IPV6_ICMP,
        }
    }

    /// Asks and waits for the answer.
    fn ask(&self) -> io::Result<()> {
        let target = SocketAddr::from(self.target);
        match self.speech {
            Speech::Udp => ask_udp(target, b"anyone there?"),
            Speech::Stun => ask_udp(target, &stun::binding_request(stun::TransactionId([7; 12]))),
            Speech::Tcp => ask_tcp(target),
            Speech::Echo => ask_echo(target),
        }
    }
}

fn ask_tcp(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0; 5])
}

fn ask_udp(target: SocketAddr, question: &[u8]) -> io::Result<()> {
    let socket = match target {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(question, target)?;
    let (_, from) = socket.recv_from(&mut [0; 2048])?;
    if from == target {
        Ok(())
    } else {
        Err(io::Error::other(format!("answered by {from}")))
    }
}

/// An echo request from an unprivileged ping socket: identifier and checksum are the kernel's.
fn ask_echo(target: SocketAddr) -> io::Result<()> {
    let (protocol, request) = match target {
        SocketAddr::V4(_) => (socket2::Protocol::ICMPV4, 8),
        SocketAddr::V6(_) => (socket2::Protocol::ICMPV6, 128),
    };
    let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(protocol))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(&[request, 0, 0, 0, 0, 0, 0, 1], &target.into())?;
    socket.recv(&mut [MaybeUninit::uninit(); 64])?;
    Ok(())
}

/// Looks for anything in the clear on the home link, since `start`, that neither the calls nor the probes explain.
pub(super) fn strays(family: Family, start: Instant, captures: &Captures) -> Check {
    let direct = [
        Endpoint::new(MEDIA.of(family), media::PORT),
        Endpoint::new(TEST_HOST.into(), STUN),
    ];
    let stray = |s: &Sighting| {
        let remote = if s.outgoing {
            s.packet.source
        } else {
            s.packet.destination
        };
        s.place == Place::Home
            && *s.interface == *"lan"
            && s.packet.content != Content::WireGuard
            && Family::of(remote.addr) == family
            && !at_home(remote.addr)
            && !(s.packet.protocol == IpNumber::UDP && direct.contains(&remote))
    };
    let strays = captures.since(start, stray);
    Check {
        name: "Anything else in clear at home",
        family,
        passed: strays.is_empty(),
        expected: "none",
        measured: match strays.first() {
            None => "none".to_owned(),
            Some(Sighting { packet, .. }) => {
                let (count, from, to) = (strays.len(), packet.source, packet.destination);
                format!("{count}, the first from {from} to {to}")
            }
        },
    }
}

/// Whether an address is on the home link: the router's, a link-local one, a group.
fn at_home(addr: IpAddr) -> bool {
    let subnet = |v6: Ipv6Addr| v6.to_bits() >> 64;
    match (addr, LAPTOP.of(Family::of(addr))) {
        (IpAddr::V4(v4), IpAddr::V4(laptop)) => {
            v4.octets()[..3] == laptop.octets()[..3] || v4.is_multicast() || v4.is_broadcast()
        }
        (IpAddr::V6(v6), IpAddr::V6(laptop)) => {
            subnet(v6) == subnet(laptop) || v6.is_unicast_link_local() || v6.is_multicast()
        }
        _ => false,
    }
}

/// Datagrams that a stranger in the cloud has sent to a call's endpoint on the laptop.
pub(super) struct Intrusion {
    family: Family,
    sent: usize,
    arrived: usize,
    /// Of these, seen on an interface of the laptop behind the uplink.
    passed_on: usize,
}

/// Has a server that the caller never spoke to send datagrams to the endpoint that the call has on the uplink.
///
/// # Errors
/// The stranger has no socket.
pub(super) fn intrude(
    world: &World,
    call: &Call,
    captures: &Captures,
) -> anyhow::Result<Intrusion> {
    const SHOTS: usize = 3;
    let content = Content::Rtp {
        ssrc: call.ssrcs.up,
    };
    let on_uplink = captures.since(call.started, |s| {
        s.place == Place::Laptop && *s.interface == *"eth0" && s.packet.content == content
    });
    let family = call.family;
    let stranger = Endpoint::new(STRANGER.of(family), MEDIA_LIKE);
    let Some(outside) = on_uplink.last().map(|s| s.packet.source) else {
        return Ok(Intrusion {
            family,
            sent: 0,
            arrived: 0,
            passed_on: 0,
        });
    };
    let started = Instant::now();
    world.cloud.enter(move || -> io::Result<()> {
        let socket = UdpSocket::bind(SocketAddr::from(stranger))?;
        for _ in 0..SHOTS {
            socket.send_to(b"let me in", SocketAddr::from(outside))?;
        }
        Ok(())
    })?;
    let seen = captures.since(started, |s| {
        s.place == Place::Laptop && s.packet.source == stranger
    });
    let arrived = seen.iter().filter(|s| *s.interface == *"eth0").count();
    Ok(Intrusion {
        family,
        sent: SHOTS,
        arrived,
        passed_on: seen.len() - arrived,
    })
}

impl Intrusion {
    /// Tells what became of the datagrams, once the call has ended that they were sent into.
    pub(super) fn outcome(&self, call: &Recording) -> Check {
        let heard = call.caller.strangers;
        let refused =
            self.sent > 0 && self.arrived == self.sent && self.passed_on == 0 && heard == 0;
        let measured = match self {
            Self { sent: 0, .. } => "the call is not on the uplink".to_owned(),
            Self { sent, arrived, .. } if refused => {
                format!("{arrived} of {sent} reached eth0, 0 got in")
            }
            Self {
                sent,
                arrived,
                passed_on,
                ..
            } => {
                format!("{arrived} of {sent} reached eth0, {passed_on} passed on, {heard} heard")
            }
        };
        Check {
            name: "Unsolicited UDP from the cloud",
            family: self.family,
            passed: refused,
            expected: "all reach the uplink, none the application",
            measured,
        }
    }
}

/// Tells how long the crash interrupted a call, and that it then went through the VPN.
pub(super) fn fallback(call: &Recording, killed: Instant, captures: &Captures) -> Check {
    let gap =
        [&call.server, &call.caller].map(|leg| longest_gap(&leg.arrivals, killed, call.ended));
    let content = Content::Rtp {
        ssrc: call.ssrcs.up,
    };
    let later = captures.since(killed + FALLBACK, |s| s.packet.content == content);
    let in_clear = later.iter().filter(|s| s.place == Place::Home).count();
    let in_vpn = later
        .iter()
        .filter(|s| s.place == Place::Gateway && *s.interface == *"eth0")
        .count();
    let passed = gap.iter().all(|gap| *gap < FALLBACK) && in_clear == 0 && in_vpn > 0;
    let [up, down] = gap.map(|gap| gap.as_millis());
    let measured = if in_clear == 0 && in_vpn > 0 {
        format!("in the VPN, gap {up}/{down} ms")
    } else {
        format!("{in_clear} in clear, {in_vpn} in the VPN, gap {up}/{down} ms")
    };
    Check {
        name: "voicelane killed (SIGKILL)",
        family: call.family,
        passed,
        expected: "in the VPN after a gap of less than 1 s",
        measured,
    }
}

/// The longest silence, counted from the last packet before `from`.
fn longest_gap(arrivals: &[Instant], from: Instant, until: Instant) -> Duration {
    let (before, after) = arrivals.split_at(arrivals.partition_point(|at| *at <= from));
    let mut last = before.last().copied().unwrap_or(from);
    let mut longest = Duration::ZERO;
    for at in after
        .iter()
        .copied()
        .filter(|at| *at < until)
        .chain([until])
    {
        longest = longest.max(at.saturating_duration_since(last));
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_silence_after_the_crash() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let arrivals = [0, 500, 520, 540, 700, 720].map(at);
        let gap = |from, until| longest_gap(&arrivals, at(from), at(until)).as_millis();
        assert_eq!(
            gap(530, 740),
            160,
            "silence before the crash does not count"
        );
        assert_eq!(
            gap(530, 1900),
            1180,
            "a call that never comes back is silent to the end"
        );
        assert_eq!(longest_gap(&[], at(0), at(50)), Duration::from_millis(50));
    }
}
