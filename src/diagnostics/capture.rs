//! Packet captures for Wireshark: both directions, by default headers only.

use std::fs::OpenOptions;
use std::io::{self, BufWriter};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::packet_socket::PacketSocket;
use super::pcap::PcapWriter;
use crate::call::{DatagramKind, RtpHeader};

/// The largest IP packet, in bytes.
const LARGEST_PACKET: usize = 65_535;

/// The longest time until a signal is noticed.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// The length of a STUN header in bytes (RFC 8489 section 5).
const STUN_HEADER: usize = 20;

/// The limits of a capture. It ends at the first one that is reached.
#[derive(Clone, Copy, Debug)]
pub struct CaptureLimits {
    /// The longest duration.
    pub time: Duration,
    /// The largest number of packets.
    pub packets: u64,
}

/// The reason why a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The time limit was reached.
    Time,
    /// The packet limit was reached.
    Packets,
    /// SIGINT or SIGTERM arrived.
    Signal,
    /// The TUN was removed: the service stopped.
    Link,
}

/// The result of a capture.
#[derive(Clone, Copy, Debug)]
pub struct CaptureSummary {
    /// The number of packets in the file.
    pub packets: u64,
    /// The reason why the capture ended.
    pub stop: StopReason,
}

/// Captures the packets of a link with wanted sources and destinations into a new file that only its owner can read. SIGINT and SIGTERM end the capture. They
/// stay blocked for the calling thread.
///
/// # Errors
/// If the link does not exist, the capability is missing, or the file exists or cannot be written.
pub fn capture(
    link: &str,
    file: &Path,
    payload: bool,
    limits: CaptureLimits,
    is_wanted: impl Fn(IpAddr, IpAddr) -> bool,
) -> io::Result<CaptureSummary> {
    let socket = PacketSocket::open(link)?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    // Refuses an existing name, for example a symbolic link of another user.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    let longest = u32::try_from(LARGEST_PACKET).expect("an IP length has 16 bits");
    let mut pcap = PcapWriter::new(BufWriter::new(file), longest)?;
    let end = Instant::now() + limits.time;
    let (mut packets, mut buffer) = (0, vec![0; LARGEST_PACKET]);
    let stop = loop {
        if packets >= limits.packets {
            break StopReason::Packets;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break StopReason::Time;
        }
        if signals.read_signal()?.is_some() {
            break StopReason::Signal;
        }
        match socket.next(left.min(SIGNAL_INTERVAL), &mut buffer) {
            Ok(Some(packet)) => {
                let whole = &buffer[..packet.kept];
                if !addresses(whole).is_some_and(|(from, to)| is_wanted(from, to)) {
                    continue;
                }
                let kept = if payload { whole } else { headers(whole) };
                pcap.add(packet.received_at, kept, packet.length)?;
                packets += 1;
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_gone(&error) => break StopReason::Link,
            Err(error) => return Err(error),
        }
    };
    pcap.finish()?;
    Ok(CaptureSummary { packets, stop })
}

/// Returns the source and destination of an IP packet.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match SlicedPacket::from_ip(packet).ok()?.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            Some((from.into(), to.into()))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            Some((from.into(), to.into()))
        }
        NetSlice::Arp(_) => None,
    }
}

fn is_gone(error: &io::Error) -> bool {
    [nix::libc::ENETDOWN, nix::libc::ENODEV]
        .into_iter()
        .any(|gone| error.raw_os_error() == Some(gone))
}

/// Returns the headers of a packet: IP, transport, and the fixed header of RTP or STUN. Stops at the first header that
/// cannot be parsed.
fn headers(packet: &[u8]) -> &[u8] {
    let Ok(sliced) = SlicedPacket::from_ip(packet) else {
        return &[];
    };
    let Some(net) = sliced.ip_payload() else {
        return &[];
    };
    let before = offset(packet, net.payload);
    let transport = match &sliced.transport {
        Some(TransportSlice::Udp(udp)) => {
            let payload = udp.payload();
            let call = match DatagramKind::of(payload) {
                Some(DatagramKind::Stun) => STUN_HEADER.min(payload.len()),
                Some(DatagramKind::Rtp) if RtpHeader::parse(payload).is_some() => RtpHeader::LEN,
                _ => 0,
            };
            udp.slice().len() - payload.len() + call
        }
        Some(TransportSlice::Tcp(tcp)) => tcp.slice().len() - tcp.payload().len(),
        // The ICMP header. The quoted packet is payload.
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => 8,
        Some(TransportSlice::Igmp(_)) | None => 0,
    };
    &packet[..(before + transport).min(packet.len())]
}

/// Returns the offset of a part of a packet.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const SECRET: &[u8] = b"what was said on the phone";

    fn udp(v6: bool, start: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let payload = [start, SECRET].concat();
        let builder = if v6 {
            PacketBuilder::ipv6([1; 16], [2; 16], 64)
        } else {
            PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        };
        let builder = builder.udp(40_000, 20_000);
        builder.write(&mut packet, &payload).expect("room");
        packet
    }

    #[test]
    fn headers_are_kept_and_payload_is_not() {
        let rtp = [&[0x80, 111][..], &[0; 10]].concat();
        let stun = [&[0, 1, 0, 0][..], &[0x42; 16]].concat();
        for (v6, ip) in [(false, 20), (true, 40)] {
            for (start, call) in [(&rtp[..], 12), (&stun, 20), (b"\x16dtls", 0), (b"\xff", 0)] {
                assert_eq!(headers(&udp(v6, start)).len(), ip + 8 + call, "{start:?}");
            }
        }
        let mut tcp = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
            .tcp(1, 2, 3, 4)
            .write(&mut tcp, SECRET)
            .expect("room");
        assert_eq!(headers(&tcp).len(), 40);
    }

    #[test]
    fn packets_are_selected_by_their_addresses() {
        let v4 = |last| IpAddr::from([192, 0, 2, last]);
        assert_eq!(addresses(&udp(false, b"")), Some((v4(1), v4(2))));
        let v6 = |octet| IpAddr::from([octet; 16]);
        assert_eq!(addresses(&udp(true, b"")), Some((v6(1), v6(2))));
        assert_eq!(addresses(SECRET), None);
    }

    #[test]
    fn unparsed_headers_are_not_kept() {
        let packet = udp(false, &[]);
        let mut fragment = packet.clone();
        // An offset of 8 bytes: the bytes in the place of a transport header are payload.
        fragment[7] = 1;
        assert_eq!(headers(&fragment).len(), 20);
        assert_eq!(headers(SECRET), b"");
        assert_eq!(headers(b""), b"");
        for end in 0..packet.len() {
            assert!(headers(&packet[..end]).len() <= 28, "{end}");
        }
    }
}
