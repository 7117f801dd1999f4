//! The VPN: a real WireGuard tunnel (the protocol of the boringtun crate), with a long way to its gateway.
//!
//! # Theory of operation
//!
//! Each end is three threads: one reads the TUN, one reads the UDP socket, and one owns the tunnel and takes what
//! they read in turn. Packets wait at the gateway, on their way in and out of its TUN, for as long as a distant data
//! centre would keep them; they never overtake each other.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use nix::sys::socket::{setsockopt, sockopt};
use tun_tap::{Iface, Mode};

use super::namespace::Node;
use crate::net::Fwmark;

/// The tunnel's interface, on both hosts.
pub(super) const INTERFACE: &str = "wg0";
/// The gateway's UDP port.
pub(super) const PORT: u16 = 51_820;
/// How long the way to the gateway is, one way.
pub(super) const DISTANCE: Duration = Duration::from_millis(45);
/// By how much the way gets longer at times.
pub(super) const JITTER: Duration = Duration::from_millis(6);

/// How often the tunnel's own timers are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Room for the largest datagram.
const BUFFER: usize = 65_536;

/// Makes the tunnel between `client` and `server`, which listens on `endpoint`; addresses and routes are left to the
/// caller. The client's datagrams carry `mark`.
///
/// # Errors
/// No TUN device, no socket, no randomness.
pub(super) fn connect(
    client: &Node,
    server: &Node,
    endpoint: SocketAddr,
    mark: Fwmark,
) -> anyhow::Result<()> {
    let (client_key, server_key) = (private_key()?, private_key()?);
    let client_tunnel = tunnel(&client_key, &server_key, 1);
    let server_tunnel = tunnel(&server_key, &client_key, 2);
    server.enter(move || -> anyhow::Result<()> {
        let udp = UdpSocket::bind(endpoint)?;
        let way = || Way::new(DISTANCE, JITTER);
        End::new(server_tunnel, udp, None, [way(), way()])?.start();
        Ok(())
    })?;
    client.enter(move || {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        setsockopt(&udp, sockopt::Mark, &mark.0)?;
        let way = || Way::new(Duration::ZERO, Duration::ZERO);
        End::new(client_tunnel, udp, Some(endpoint), [way(), way()])?.start();
        Ok(())
    })
}

fn private_key() -> io::Result<StaticSecret> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.into())
}

fn tunnel(own: &StaticSecret, peer: &StaticSecret, index: u32) -> Tunn {
    let peer = PublicKey::from(peer);
    Tunn::new(own.clone(), peer, None, None, index, None)
}

/// What the owner of the tunnel is told by its two readers.
enum Arrival {
    Packet(Vec<u8>),
    Datagram(Vec<u8>, SocketAddr),
}

/// One end of the tunnel.
struct End {
    tunnel: Tunn,
    tun: Arc<Iface>,
    udp: UdpSocket,
    /// Where the other end was heard last.
    peer: Option<SocketAddr>,
    /// Packets on their way into the tunnel.
    outward: Way,
    /// Packets on their way out of the tunnel.
    inward: Way,
    buffer: Vec<u8>,
}

impl End {
    fn new(
        tunnel: Tunn,
        udp: UdpSocket,
        peer: Option<SocketAddr>,
        [outward, inward]: [Way; 2],
    ) -> anyhow::Result<Self> {
        let tun = Iface::without_packet_info(INTERFACE, Mode::Tun)
            .context("cannot make the VPN's TUN device")?;
        Ok(Self {
            tunnel,
            tun: Arc::new(tun),
            udp,
            peer,
            outward,
            inward,
            buffer: vec![0; BUFFER],
        })
    }

    /// Starts the threads, which end with the process.
    fn start(mut self) {
        let (from_tun, arrivals) = mpsc::channel();
        let from_udp = from_tun.clone();
        let tun = Arc::clone(&self.tun);
        thread::spawn(move || {
            let mut buffer = vec![0; BUFFER];
            while let Ok(len) = tun.recv(&mut buffer) {
                if from_tun
                    .send(Arrival::Packet(buffer[..len].to_vec()))
                    .is_err()
                {
                    return;
                }
            }
        });
        let udp = self.udp.try_clone().expect("a file descriptor is left");
        thread::spawn(move || {
            let mut buffer = vec![0; BUFFER];
            // An error is an ICMP answer to an earlier datagram: the tunnel's own timers deal with that.
            loop {
                if let Ok((len, from)) = udp.recv_from(&mut buffer)
                    && from_udp
                        .send(Arrival::Datagram(buffer[..len].to_vec(), from))
                        .is_err()
                {
                    return;
                }
            }
        });
        thread::spawn(move || {
            let mut next_tick = Instant::now();
            loop {
                let wake = [self.outward.next(), self.inward.next()]
                    .into_iter()
                    .flatten()
                    .fold(next_tick, Instant::min);
                match arrivals.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                    Ok(Arrival::Packet(packet)) => self.outward.push(packet, Instant::now()),
                    Ok(Arrival::Datagram(datagram, from)) => self.decapsulate(&datagram, from),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                let now = Instant::now();
                while let Some(packet) = self.outward.pop(now) {
                    let result = self.tunnel.encapsulate(&packet, &mut self.buffer);
                    transmit(&self.udp, self.peer, &result);
                }
                while let Some(packet) = self.inward.pop(now) {
                    // A TUN that refuses a packet is going down, and the world with it.
                    let _ = self.tun.send(&packet);
                }
                if now >= next_tick {
                    next_tick = now + TICK;
                    let result = self.tunnel.update_timers(&mut self.buffer);
                    transmit(&self.udp, self.peer, &result);
                }
            }
        });
    }

    fn decapsulate(&mut self, datagram: &[u8], from: SocketAddr) {
        let mut rest = datagram;
        loop {
            match self
                .tunnel
                .decapsulate(Some(from.ip()), rest, &mut self.buffer)
            {
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    self.peer = Some(from);
                    return self.inward.push(packet.to_vec(), Instant::now());
                }
                result @ TunnResult::WriteToNetwork(_) => {
                    self.peer = Some(from);
                    transmit(&self.udp, self.peer, &result);
                    // The handshake is through: what waited for it follows, one datagram a call.
                    rest = &[];
                }
                TunnResult::Done | TunnResult::Err(_) => return,
            }
        }
    }
}

fn transmit(udp: &UdpSocket, peer: Option<SocketAddr>, result: &TunnResult<'_>) {
    if let (TunnResult::WriteToNetwork(datagram), Some(peer)) = (result, peer) {
        // A lost datagram is what a network is allowed to do.
        let _ = udp.send_to(datagram, peer);
    }
}

/// A long way in one direction: packets come out of it late, and in order.
struct Way {
    distance: Duration,
    jitter: Duration,
    /// Where in the jitter the next packet falls, 0 to 1.
    phase: f64,
    queue: VecDeque<(Instant, Vec<u8>)>,
}

impl Way {
    fn new(distance: Duration, jitter: Duration) -> Self {
        Self {
            distance,
            jitter,
            phase: 0.0,
            queue: VecDeque::new(),
        }
    }

    fn push(&mut self, packet: Vec<u8>, now: Instant) {
        // Steps of the golden ratio spread evenly and never repeat.
        self.phase = (self.phase + 0.618_033_988_75).fract();
        let due = now + self.distance + self.jitter.mul_f64(self.phase);
        let due = self.queue.back().map_or(due, |(last, _)| due.max(*last));
        self.queue.push_back((due, packet));
    }

    fn next(&self) -> Option<Instant> {
        self.queue.front().map(|(due, _)| *due)
    }

    fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.next().filter(|due| *due <= now)?;
        self.queue.pop_front().map(|(_, packet)| packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_delays_and_keeps_the_order() {
        let start = Instant::now();
        let mut way = Way::new(DISTANCE, JITTER);
        for n in 0..100 {
            way.push(vec![n], start + Duration::from_millis(n.into()));
        }
        assert_eq!(way.pop(start + DISTANCE), None, "nothing is early");
        let mut out = Vec::new();
        while let Some(packet) = way.pop(start + Duration::from_millis(99) + DISTANCE + JITTER) {
            out.extend(packet);
        }
        assert!(out.into_iter().eq(0..100));
    }
}
