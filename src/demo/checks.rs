//! Checks of everything but calls: other traffic stays in the VPN, unsolicited packets are dropped, a crash is harmless.

use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::capture::{CapturePoint, Captures, PacketKind, Sighting};
use super::measure::{as_text, millis};
use super::media::{self, CallRecording, DemoCall};
use super::network::{DemoNetwork, LAPTOP, MEDIA, OTHER, STRANGER, TEST_HOST};
use crate::call::stun;
use crate::lab::FrameTransport;
use crate::net::{Endpoint, Family};

/// The longest wait for the answer to a probe.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// The longest interruption of a call by a crash.
const FAILOVER_LIMIT: Duration = Duration::from_secs(1);
/// The time for which a call continues after the crash.
pub(super) const AFTER_KILL: Duration = Duration::from_millis(2500);

/// The result of a check, with the expected result.
#[derive(Debug, Serialize)]
pub(super) struct DemoCheck {
    /// The name of the check.
    pub(super) name: &'static str,
    #[serde(serialize_with = "as_text")]
    pub(super) family: Family,
    pub(super) passed: bool,
    pub(super) expected: &'static str,
    pub(super) measured: String,
}

/// The protocol of a probe.
#[derive(Clone, Copy)]
enum ProbeProtocol {
    Udp,
    Stun,
    Tcp,
    Echo,
}

/// The expected path of a probe.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ProbePath {
    Tunnel,
    Direct,
}

/// A request from the laptop that a server answers.
#[derive(Clone, Copy)]
struct Probe {
    name: &'static str,
    family: Family,
    protocol: ProbeProtocol,
    target: Endpoint,
    path: ProbePath,
}

/// The ports of the servers.
const DNS: u16 = 53;
const HTTPS: u16 = 443;
const STUN: u16 = 3478;
/// A media port at a host outside every policy.
const MEDIA_PORT: u16 = 20_000;
/// The port below the policy's range.
const PORT_BELOW: u16 = 9_999;

fn probes(family: Family) -> Vec<Probe> {
    let (media, other) = (MEDIA.of(family), OTHER.of(family));
    let tunnel = |name, protocol, addr, port| Probe {
        name,
        family,
        protocol,
        target: Endpoint::new(addr, port),
        path: ProbePath::Tunnel,
    };
    let mut probes = vec![
        tunnel(
            "DNS: UDP 53 to another host",
            ProbeProtocol::Udp,
            other,
            DNS,
        ),
        tunnel(
            "TCP 443 to the media range",
            ProbeProtocol::Tcp,
            media,
            HTTPS,
        ),
        tunnel(
            "ICMP echo to the media range",
            ProbeProtocol::Echo,
            media,
            0,
        ),
        tunnel(
            "UDP 20000 to another host",
            ProbeProtocol::Udp,
            other,
            MEDIA_PORT,
        ),
        tunnel(
            "UDP 9999 to the media range",
            ProbeProtocol::Udp,
            media,
            PORT_BELOW,
        ),
    ];
    if family == Family::V4 {
        probes.push(Probe {
            name: "STUN to a network-test host",
            family,
            protocol: ProbeProtocol::Stun,
            target: Endpoint::new(TEST_HOST.into(), STUN),
            path: ProbePath::Direct,
        });
    }
    probes
}

/// Starts the servers that answer the probes.
///
/// # Errors
/// A port cannot be bound.
pub(super) fn serve(network: &DemoNetwork) -> anyhow::Result<()> {
    for family in network.families {
        for probe in probes(*family) {
            let host = if OTHER.of(*family) == probe.target.addr {
                &network.other
            } else {
                &network.cloud
            };
            let at = SocketAddr::from(probe.target);
            host.enter(move || -> io::Result<()> {
                match probe.protocol {
                    ProbeProtocol::Udp | ProbeProtocol::Stun => answer_udp(UdpSocket::bind(at)?),
                    ProbeProtocol::Tcp => answer_tcp(TcpListener::bind(at)?),
                    ProbeProtocol::Echo => {}
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

/// Sends every probe from the laptop and reads its path from the captures.
pub(super) fn probe(network: &DemoNetwork, captures: &Captures) -> Vec<DemoCheck> {
    let probes = network.families.iter().flat_map(|family| probes(*family));
    probes.map(|probe| probe.send(network, captures)).collect()
}

impl Probe {
    fn send(self, network: &DemoNetwork, captures: &Captures) -> DemoCheck {
        let started = Instant::now();
        let answer = network.laptop.enter(|| self.exchange());
        let took = millis(started.elapsed());
        let sent = captures.since(started, |s| {
            s.destination() == self.target && self.is_protocol_of(s)
        });
        let in_clear = |s: &Sighting| s.point == CapturePoint::Home && !s.is_outgoing();
        let by_gateway = |s: &Sighting| s.is_on(CapturePoint::Gateway, "eth0");
        let path = match (sent.iter().any(in_clear), sent.iter().any(by_gateway)) {
            (false, false) => "nowhere",
            (false, true) => "in the VPN",
            (true, false) => "direct",
            (true, true) => "BOTH ways",
        };
        let (expected_path, expected) = match self.path {
            ProbePath::Tunnel => ("in the VPN", "in the VPN, answered"),
            ProbePath::Direct => ("direct", "direct, answered"),
        };
        DemoCheck {
            name: self.name,
            family: self.family,
            passed: path == expected_path && answer.is_ok(),
            expected,
            measured: match answer {
                Ok(()) => format!("{path}, {took:.1} ms"),
                Err(error) => format!("{path}, no answer: {error}"),
            },
        }
    }

    fn is_protocol_of(&self, sighting: &Sighting) -> bool {
        let transport = sighting.frame.headers.transport;
        match self.protocol {
            ProbeProtocol::Udp | ProbeProtocol::Stun => {
                matches!(transport, FrameTransport::Udp(..))
            }
            ProbeProtocol::Tcp => matches!(transport, FrameTransport::Tcp(..)),
            ProbeProtocol::Echo => matches!(transport, FrameTransport::Icmp(..)),
        }
    }

    /// Sends the request and waits for the answer.
    fn exchange(&self) -> io::Result<()> {
        let target = SocketAddr::from(self.target);
        match self.protocol {
            ProbeProtocol::Udp => exchange_udp(target, b"a question"),
            ProbeProtocol::Stun => {
                exchange_udp(target, &stun::binding_request(stun::TransactionId([7; 12])))
            }
            ProbeProtocol::Tcp => exchange_tcp(target),
            ProbeProtocol::Echo => exchange_echo(target),
        }
    }
}

fn exchange_tcp(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.read_exact(&mut [0; 5])
}

fn exchange_udp(target: SocketAddr, request: &[u8]) -> io::Result<()> {
    let socket = match target {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.send_to(request, target)?;
    let (_, from) = socket.recv_from(&mut [0; 2048])?;
    if from == target {
        Ok(())
    } else {
        Err(io::Error::other(format!("answered by {from}")))
    }
}

/// Sends an echo request from an unprivileged ping socket. The kernel writes identifier and checksum.
fn exchange_echo(target: SocketAddr) -> io::Result<()> {
    let (protocol, request) = match target {
        SocketAddr::V4(_) => (socket2::Protocol::ICMPV4, 8),
        SocketAddr::V6(_) => (socket2::Protocol::ICMPV6, 128),
    };
    let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(protocol))?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.send_to(&[request, 0, 0, 0, 0, 0, 0, 1], &target.into())?;
    socket.recv(&mut [MaybeUninit::uninit(); 64])?;
    Ok(())
}

/// Finds packets in clear on the home link since `start` that belong neither to calls nor to probes.
pub(super) fn strays(family: Family, start: Instant, captures: &Captures) -> DemoCheck {
    let direct = [
        Endpoint::new(MEDIA.of(family), media::PORT),
        Endpoint::new(TEST_HOST.into(), STUN),
    ];
    let stray = |s: &Sighting| {
        let remote = if s.is_outgoing() {
            s.source()
        } else {
            s.destination()
        };
        let is_udp = matches!(s.frame.headers.transport, FrameTransport::Udp(..));
        s.is_on(CapturePoint::Home, "lan")
            && s.kind != PacketKind::WireGuard
            && Family::of(remote.addr) == family
            && !at_home(remote.addr)
            && !(is_udp && direct.contains(&remote))
    };
    let strays = captures.since(start, stray);
    DemoCheck {
        name: "Other packets in clear at home",
        family,
        passed: strays.is_empty(),
        expected: "none",
        measured: match strays.first() {
            None => "none".to_owned(),
            Some(first) => {
                let (count, from, to) = (strays.len(), first.source(), first.destination());
                format!("{count}, the first from {from} to {to}")
            }
        },
    }
}

/// Returns whether an address is on the home link: of its subnet, link-local or multicast.
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

/// Datagrams from another server of the cloud to a call's endpoint on the laptop.
pub(super) struct UnsolicitedTraffic {
    family: Family,
    sent: usize,
    arrived: usize,
    /// Those that passed the uplink into the laptop.
    forwarded: usize,
}

/// Sends datagrams to the call's endpoint on the uplink, from a server that the caller never sent to.
///
/// # Errors
/// The server's socket cannot be opened.
pub(super) fn send_unsolicited(
    network: &DemoNetwork,
    call: &DemoCall,
    captures: &Captures,
) -> anyhow::Result<UnsolicitedTraffic> {
    const DATAGRAMS: usize = 3;
    let kind = PacketKind::Rtp {
        ssrc: call.ssrcs.up,
    };
    let on_uplink = captures.since(call.started, |s| {
        s.is_on(CapturePoint::Laptop, "eth0") && s.kind == kind
    });
    let family = call.family;
    let stranger = Endpoint::new(STRANGER.of(family), MEDIA_PORT);
    let Some(outside) = on_uplink.last().map(Sighting::source) else {
        return Ok(UnsolicitedTraffic {
            family,
            sent: 0,
            arrived: 0,
            forwarded: 0,
        });
    };
    let started = Instant::now();
    network.cloud.enter(move || -> io::Result<()> {
        let socket = UdpSocket::bind(SocketAddr::from(stranger))?;
        for _ in 0..DATAGRAMS {
            socket.send_to(b"unsolicited", SocketAddr::from(outside))?;
        }
        Ok(())
    })?;
    let seen = captures.since(started, |s| {
        s.point == CapturePoint::Laptop && s.source() == stranger
    });
    let arrived = seen.iter().filter(|s| s.frame.interface == "eth0").count();
    Ok(UnsolicitedTraffic {
        family,
        sent: DATAGRAMS,
        arrived,
        forwarded: seen.len() - arrived,
    })
}

impl UnsolicitedTraffic {
    /// Returns the result, once the call has ended.
    pub(super) fn outcome(&self, call: &CallRecording) -> DemoCheck {
        let received = call.caller.unsolicited;
        let dropped =
            self.sent > 0 && self.arrived == self.sent && self.forwarded == 0 && received == 0;
        let measured = match self {
            Self { sent: 0, .. } => "the call does not use the uplink".to_owned(),
            Self { sent, arrived, .. } if dropped => {
                format!("{arrived} of {sent} at eth0, all dropped")
            }
            Self {
                sent,
                arrived,
                forwarded,
                ..
            } => {
                format!("{arrived} of {sent} at eth0, {forwarded} forwarded, {received} received")
            }
        };
        DemoCheck {
            name: "Unsolicited UDP from the cloud",
            family: self.family,
            passed: dropped,
            expected: "all reach the uplink, none reaches the application",
            measured,
        }
    }
}

/// Checks that a call failed over into the VPN, and for how long the crash interrupted it.
pub(super) fn failover(call: &CallRecording, killed: Instant, captures: &Captures) -> DemoCheck {
    let gap =
        [&call.server, &call.caller].map(|leg| longest_gap(&leg.arrivals, killed, call.ended));
    let kind = PacketKind::Rtp {
        ssrc: call.ssrcs.up,
    };
    let later = captures.since(killed + FAILOVER_LIMIT, |s| s.kind == kind);
    let in_clear = later
        .iter()
        .filter(|s| s.point == CapturePoint::Home)
        .count();
    let in_vpn = later
        .iter()
        .filter(|s| s.is_on(CapturePoint::Gateway, "eth0"))
        .count();
    let passed = gap.iter().all(|gap| *gap < FAILOVER_LIMIT) && in_clear == 0 && in_vpn > 0;
    let [up, down] = gap.map(|gap| gap.as_millis());
    let measured = if in_clear == 0 && in_vpn > 0 {
        format!("in the VPN, gap {up}/{down} ms")
    } else {
        format!("{in_clear} in clear, {in_vpn} in the VPN, gap {up}/{down} ms")
    };
    DemoCheck {
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
    fn a_gap_is_the_longest_silence_after_the_crash() {
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
            "a call that does not continue is silent to the end"
        );
        assert_eq!(longest_gap(&[], at(0), at(50)), Duration::from_millis(50));
    }
}
