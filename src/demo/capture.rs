//! What passes on the wires: one packet socket on every host that a call can touch.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use etherparse::{IpDscp, IpNumber, NetSlice, SlicedPacket, TransportSlice};
use nix::libc::PACKET_OUTGOING;
use nix::net::if_::if_indextoname;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};

use super::namespace::Node;
use super::wireguard;
use crate::call::{DatagramKind, RtpHeader};
use crate::net::{Dscp, Endpoint};

/// A host that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Laptop,
    Home,
    Gateway,
    Cloud,
}

/// What can be read of a packet from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A WireGuard message, to or from the gateway's port.
    WireGuard,
    /// RTP in the clear.
    Rtp { ssrc: u32 },
    /// Anything else.
    Other,
}

/// The part of a packet that its headers tell.
#[derive(Clone, Debug)]
pub(super) struct Headers {
    pub(super) protocol: IpNumber,
    /// With port 0 where the protocol has none.
    pub(super) source: Endpoint,
    pub(super) destination: Endpoint,
    pub(super) dscp: Dscp,
    pub(super) content: Content,
}

/// One packet on one interface.
#[derive(Clone, Debug)]
pub(super) struct Sighting {
    pub(super) at: Instant,
    pub(super) place: Place,
    pub(super) interface: Arc<str>,
    /// Whether the host sent it there; false where it came in.
    pub(super) outgoing: bool,
    pub(super) packet: Headers,
}

/// All that was seen, in the order of arrival at each place.
#[derive(Clone, Default)]
pub(super) struct Captures(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    sightings: Vec<Sighting>,
    /// Whatever came to a place before this moment is among them.
    complete_until: BTreeMap<Place, Instant>,
}

/// How long what passes on the wires may take to be read.
const PATIENCE: Duration = Duration::from_secs(2);

impl Captures {
    /// Begins to watch all interfaces of `node`, those included that appear later.
    ///
    /// # Errors
    /// No packet socket.
    pub(super) fn watch(&self, node: &Node, place: Place) -> anyhow::Result<()> {
        let log = self.clone();
        node.enter(move || -> anyhow::Result<()> {
            // A datagram socket, so that every packet begins with its IP header whatever the link.
            let tap = socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
            .context("no packet socket to watch the wires with")?;
            // More is granted than refused: the kernel caps it at net.core.rmem_max.
            let _ = setsockopt(&tap, sockopt::RcvBuf, &(4 << 20));
            log.log().complete_until.insert(place, Instant::now());
            thread::spawn(move || log.read(&tap, place));
            Ok(())
        })
    }

    /// What was seen since `start` and answers to `wanted`.
    ///
    /// Waits a moment for what is on the wires, and until that has been read.
    pub(super) fn since(
        &self,
        start: Instant,
        wanted: impl Fn(&Sighting) -> bool,
    ) -> Vec<Sighting> {
        thread::sleep(Duration::from_millis(50));
        let now = Instant::now();
        while now.elapsed() < PATIENCE && !self.log().is_complete_until(now) {
            thread::sleep(Duration::from_millis(2));
        }
        self.log()
            .sightings
            .iter()
            .filter(|sighting| sighting.at >= start && wanted(sighting))
            .cloned()
            .collect()
    }

    fn read(&self, tap: &OwnedFd, place: Place) {
        let mut names = HashMap::new();
        let mut buffer = vec![0; 65_536];
        loop {
            let before = Instant::now();
            let Ok((len, Some(from))) = recvfrom::<LinkAddr>(tap.as_raw_fd(), &mut buffer) else {
                self.log().complete_until.insert(place, before);
                let mut tap = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
                // Looks again soon in any case: that it is empty must be known.
                let _ = poll(&mut tap, 10_u8);
                continue;
            };
            let at = Instant::now();
            let interface = names.entry(from.ifindex()).or_insert_with(|| name(&from));
            if let Some(packet) = Headers::read(&buffer[..len]) {
                let sighting = Sighting {
                    at,
                    place,
                    interface: Arc::clone(interface),
                    outgoing: from.pkttype() == PACKET_OUTGOING,
                    packet,
                };
                self.log().sightings.push(sighting);
            }
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn is_complete_until(&self, moment: Instant) -> bool {
        self.complete_until.values().all(|until| *until >= moment)
    }
}

fn name(from: &LinkAddr) -> Arc<str> {
    let index = u32::try_from(from.ifindex()).unwrap_or_default();
    if_indextoname(index).map_or_else(|_| "?".into(), |name| name.to_string_lossy().into())
}

impl Headers {
    /// Reads an IP packet; `None` for what is none.
    fn read(packet: &[u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ip(packet).ok()?;
        let (source, destination, dscp): (IpAddr, IpAddr, IpDscp) = match sliced.net.as_ref()? {
            NetSlice::Ipv4(v4) => {
                let header = v4.header();
                let (source, destination) = (header.source_addr(), header.destination_addr());
                (source.into(), destination.into(), header.dcp())
            }
            NetSlice::Ipv6(v6) => {
                let header = v6.header();
                let (source, destination) = (header.source_addr(), header.destination_addr());
                (source.into(), destination.into(), header.dscp())
            }
            NetSlice::Arp(_) => return None,
        };
        let (from, to, payload) = match &sliced.transport {
            Some(TransportSlice::Udp(udp)) => {
                (udp.source_port(), udp.destination_port(), udp.payload())
            }
            Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port(), &[][..]),
            _ => (0, 0, &[][..]),
        };
        Some(Self {
            protocol: sliced.ip_payload()?.ip_number,
            source: Endpoint::new(source, from),
            destination: Endpoint::new(destination, to),
            dscp: Dscp::new(dscp.value()).ok()?,
            content: content([from, to], payload),
        })
    }
}

fn content(ports: [u16; 2], payload: &[u8]) -> Content {
    // A message type of 1 to 4 and three reserved zeros (WireGuard paper, section 5.4).
    if ports.contains(&wireguard::PORT) && matches!(payload, [1..=4, 0, 0, 0, ..]) {
        return Content::WireGuard;
    }
    match RtpHeader::parse(payload).filter(|_| DatagramKind::of(payload) == Some(DatagramKind::Rtp))
    {
        Some(header) => Content::Rtp { ssrc: header.ssrc },
        None => Content::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn read(to: u16, payload: &[u8]) -> Headers {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
            .udp(40_000, to)
            .write(&mut packet, payload)
            .expect("room");
        packet[1] = 0xb8;
        Headers::read(&packet).expect("a packet")
    }

    #[test]
    fn rtp_wireguard_and_the_rest_are_told_apart() {
        let rtp = RtpHeader {
            marker: false,
            payload_type: 111,
            sequence: 1,
            timestamp: 0,
            ssrc: 7,
        };
        let media = read(24_680, &rtp.to_bytes());
        assert_eq!(media.content, Content::Rtp { ssrc: 7 });
        assert_eq!((media.dscp, media.destination.port), (Dscp::EF, 24_680));
        let tunnelled = read(wireguard::PORT, &[4, 0, 0, 0, 9, 9]);
        assert_eq!(tunnelled.content, Content::WireGuard);
        assert_eq!(read(53, b"who?").content, Content::Other);
    }
}
