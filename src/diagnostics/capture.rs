//! What passes the TUN, for Wireshark: media as applications send and get it, both directions, headers alone unless more
//! is asked for.

use std::fs::OpenOptions;
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use etherparse::{SlicedPacket, TransportSlice};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::packet_socket::PacketSocket;
use super::pcap::PcapWriter;
use crate::call::{DatagramKind, RtpHeader};

/// The largest packet of a TUN.
const LARGEST: usize = 65_535;

/// How often a signal is looked for.
const TICK: Duration = Duration::from_millis(100);

/// The length of a STUN header (RFC 8489 section 5).
const STUN_HEADER: usize = 20;

/// When a capture ends, whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct CaptureLimits {
    /// After this time.
    pub time: Duration,
    /// After so many packets.
    pub packets: u64,
}

/// Why a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The time is over.
    Time,
    /// The packets are there.
    Packets,
    /// Somebody interrupted it.
    Signal,
    /// The TUN went: the service has ended.
    Link,
}

/// What a capture came to.
#[derive(Clone, Copy, Debug)]
pub struct CaptureSummary {
    /// How many packets are in the file.
    pub packets: u64,
    /// Why there are no more.
    pub stop: StopReason,
}

/// Captures what passes a link into a new file, which nobody but its owner can read. SIGINT and SIGTERM end it, and are
/// blocked for the calling thread from then on.
///
/// # Errors
/// When there is no such link, no permission to listen, or the file is there already or cannot be written.
pub fn capture(
    link: &str,
    file: &Path,
    payload: bool,
    limits: CaptureLimits,
) -> io::Result<CaptureSummary> {
    let packet_socket = PacketSocket::open(link)?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    // A name that somebody else has put there, a link to elsewhere perhaps, is refused.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    let most = u32::try_from(LARGEST).expect("it is a number of IP");
    let mut pcap = PcapWriter::new(BufWriter::new(file), most)?;
    let end = Instant::now() + limits.time;
    let (mut packets, mut buffer) = (0, vec![0; LARGEST]);
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
        match packet_socket.next(left.min(TICK), &mut buffer) {
            Ok(Some(heard)) => {
                let whole = &buffer[..heard.kept];
                let kept = if payload { whole } else { headers(whole) };
                pcap.add(heard.at, kept, heard.length)?;
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

fn is_gone(error: &io::Error) -> bool {
    [nix::libc::ENETDOWN, nix::libc::ENODEV]
        .into_iter()
        .any(|gone| error.raw_os_error() == Some(gone))
}

/// The part of a packet that says nothing of what is said: IP, the transport, and of a call the fixed header of RTP or
/// STUN. Of what cannot be read, nothing is kept but what could be.
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
        // An ICMP error quotes the headers of a packet, and of IPv4 no more than these.
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => 8,
        Some(TransportSlice::Igmp(_)) | None => 0,
    };
    &packet[..(before + transport).min(packet.len())]
}

/// Where a part of a packet begins.
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
    fn no_word_is_kept_and_every_header_is() {
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
    fn what_cannot_be_read_is_not_kept() {
        let packet = udp(false, &[]);
        let mut fragment = packet.clone();
        // An offset of 8 bytes: what would be a transport header is payload.
        fragment[7] = 1;
        assert_eq!(headers(&fragment).len(), 20);
        assert_eq!(headers(SECRET), b"");
        assert_eq!(headers(b""), b"");
        for end in 0..packet.len() {
            assert!(headers(&packet[..end]).len() <= 28, "{end}");
        }
    }
}
