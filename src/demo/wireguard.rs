//! The VPN: a WireGuard tunnel (boringtun's protocol engine) with a delay to its gateway.
//!
//! # Theory of operation
//!
//! Each end has three threads: one reads the TUN, one reads the UDP socket, and one owns the tunnel and handles their
//! packets in turn. The gateway delays packets in both directions, as the path to a distant data centre does. Packets
//! keep their order.

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

use crate::lab::Namespace;
use crate::net::Fwmark;

/// The tunnel's interface, on both hosts.
pub(super) const INTERFACE: &str = "wg0";
/// The gateway's UDP port.
pub(super) const PORT: u16 = 51_820;
/// The one-way delay that the demo sets.
pub(super) const DELAY: Duration = Duration::from_millis(45);
/// The largest addition to the delay.
pub(super) const DELAY_VARIATION: Duration = Duration::from_millis(6);

/// The interval between checks of the tunnel's timers.
const TICK: Duration = Duration::from_millis(250);
/// Room for the largest datagram.
const BUFFER: usize = 65_536;

/// Makes the tunnel between `client` and `server`, which listens on `endpoint`. The caller sets addresses and routes.
/// The client's datagrams carry `mark`.
///
/// # Errors
/// The kernel refuses the TUN device, a socket or random bytes.
pub(super) fn connect(
    client: &Namespace,
    server: &Namespace,
    endpoint: SocketAddr,
    mark: Fwmark,
) -> anyhow::Result<()> {
    let (client_key, server_key) = (private_key()?, private_key()?);
    let client_tunnel = tunnel(&client_key, &server_key, 1);
    let server_tunnel = tunnel(&server_key, &client_key, 2);
    server.enter(move || -> anyhow::Result<()> {
        let udp = UdpSocket::bind(endpoint)?;
        let line = || DelayLine::new(DELAY, DELAY_VARIATION);
        TunnelEnd::new(server_tunnel, udp, None, [line(), line()])?.start();
        Ok(())
    })?;
    client.enter(move || {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        setsockopt(&udp, sockopt::Mark, &mark.0)?;
        let line = || DelayLine::new(Duration::ZERO, Duration::ZERO);
        TunnelEnd::new(client_tunnel, udp, Some(endpoint), [line(), line()])?.start();
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

/// A packet for the owner of the tunnel.
enum TunnelInput {
    Packet(Vec<u8>),
    Datagram(Vec<u8>, SocketAddr),
}

/// One end of the tunnel.
struct TunnelEnd {
    tunnel: Tunn,
    tun: Arc<Iface>,
    udp: UdpSocket,
    /// The latest source of a valid datagram.
    peer: Option<SocketAddr>,
    /// Packets that enter the tunnel.
    outward: DelayLine,
    /// Packets that leave the tunnel.
    inward: DelayLine,
    buffer: Vec<u8>,
}

impl TunnelEnd {
    fn new(
        tunnel: Tunn,
        udp: UdpSocket,
        peer: Option<SocketAddr>,
        [outward, inward]: [DelayLine; 2],
    ) -> anyhow::Result<Self> {
        let tun = Iface::without_packet_info(INTERFACE, Mode::Tun)
            .context("cannot create the VPN's TUN device")?;
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
                    .send(TunnelInput::Packet(buffer[..len].to_vec()))
                    .is_err()
                {
                    return;
                }
            }
        });
        let udp = self.udp.try_clone().expect("a file descriptor is left");
        thread::spawn(move || {
            let mut buffer = vec![0; BUFFER];
            // An error reports an ICMP message about an earlier datagram. The tunnel's timers handle that.
            loop {
                if let Ok((len, from)) = udp.recv_from(&mut buffer)
                    && from_udp
                        .send(TunnelInput::Datagram(buffer[..len].to_vec(), from))
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
                    Ok(TunnelInput::Packet(packet)) => self.outward.push(packet, Instant::now()),
                    Ok(TunnelInput::Datagram(datagram, from)) => self.decapsulate(&datagram, from),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                let now = Instant::now();
                while let Some(packet) = self.outward.pop(now) {
                    let result = self.tunnel.encapsulate(&packet, &mut self.buffer);
                    transmit(&self.udp, self.peer, &result);
                }
                while let Some(packet) = self.inward.pop(now) {
                    // Only a TUN that goes down refuses a packet; then the demo ends.
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
                    // The handshake is complete: each further call returns a datagram that waited for it.
                    rest = &[];
                }
                TunnResult::Done | TunnResult::Err(_) => return,
            }
        }
    }
}

fn transmit(udp: &UdpSocket, peer: Option<SocketAddr>, result: &TunnResult<'_>) {
    if let (TunnResult::WriteToNetwork(datagram), Some(peer)) = (result, peer) {
        // Networks may lose datagrams.
        let _ = udp.send_to(datagram, peer);
    }
}

/// The delay of one direction. Packets keep their order.
struct DelayLine {
    delay: Duration,
    variation: Duration,
    /// The share of the variation that the latest packet got, 0 to 1.
    phase: f64,
    queue: VecDeque<(Instant, Vec<u8>)>,
}

impl DelayLine {
    fn new(delay: Duration, variation: Duration) -> Self {
        Self {
            delay,
            variation,
            phase: 0.0,
            queue: VecDeque::new(),
        }
    }

    fn push(&mut self, packet: Vec<u8>, now: Instant) {
        // Multiples of the golden ratio spread evenly and never repeat.
        self.phase = (self.phase + 0.618_033_988_75).fract();
        let due = now + self.delay + self.variation.mul_f64(self.phase);
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
    fn a_delay_line_keeps_the_order() {
        let start = Instant::now();
        let mut line = DelayLine::new(DELAY, DELAY_VARIATION);
        for n in 0..100 {
            line.push(vec![n], start + Duration::from_millis(n.into()));
        }
        assert_eq!(line.pop(start + DELAY), None, "no packet is early");
        let mut out = Vec::new();
        while let Some(packet) =
            line.pop(start + Duration::from_millis(99) + DELAY + DELAY_VARIATION)
        {
            out.extend(packet);
        }
        assert!(out.into_iter().eq(0..100));
    }
}
