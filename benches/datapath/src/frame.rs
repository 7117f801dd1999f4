//! The frames of the calls: RTP over UDP over IPv4 over Ethernet, written and read without a socket.

use std::net::Ipv4Addr;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// An RTP packet of 20 ms G.711: 12 bytes of header, 160 of payload.
pub const PAYLOAD: usize = 172;

/// The length of a call's frame.
pub const LENGTH: usize = IP + 20 + 8 + PAYLOAD;

/// Expedited forwarding (RFC 3246) as the whole byte of the IP header.
pub const EF: u8 = 46 << 2;

const IP: usize = 14;
const UDP: usize = IP + 20;
const RTP: usize = UDP + 8;
const STAMP: usize = RTP + 12;

/// One end of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
}

/// What the generator writes behind the RTP header, to know the packet when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The number of the run: answers to earlier ones do not count.
    pub run: u32,
    /// Whose packet it is.
    pub flow: u32,
    /// When the packet should have been sent, in nanoseconds of the generator's clock: how late it was sent counts.
    pub due: u64,
}

/// Writes the frame of a flow, all but its sequence number and stamp.
pub fn write(frame: &mut [u8; LENGTH], macs: (Mac, Mac), from: End, to: End, ssrc: u32) {
    let (source, destination) = macs;
    frame.fill(0x5a);
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..IP].copy_from_slice(&[8, 0]);
    // Version and header length, TOS, total length, identification, DF, TTL, UDP, checksum, addresses.
    let total = ((LENGTH - IP) as u16).to_be_bytes();
    let head = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
    frame[IP..IP + 12].copy_from_slice(&head);
    frame[IP + 12..IP + 16].copy_from_slice(&from.address.octets());
    frame[IP + 16..UDP].copy_from_slice(&to.address.octets());
    let sum = fold(sum(&frame[IP..UDP]));
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
    frame[UDP..UDP + 2].copy_from_slice(&from.port.to_be_bytes());
    frame[UDP + 2..UDP + 4].copy_from_slice(&to.port.to_be_bytes());
    frame[UDP + 4..UDP + 6].copy_from_slice(&((8 + PAYLOAD) as u16).to_be_bytes());
    frame[RTP..RTP + 2].copy_from_slice(&[0x80, 0]);
    frame[RTP + 8..STAMP].copy_from_slice(&ssrc.to_be_bytes());
}

/// Makes the frame the flow's packet of this number.
pub fn stamp(frame: &mut [u8; LENGTH], sequence: u32, stamp: Stamp) {
    frame[RTP + 2..RTP + 4].copy_from_slice(&(sequence as u16).to_be_bytes());
    frame[RTP + 4..RTP + 8].copy_from_slice(&sequence.wrapping_mul(160).to_be_bytes());
    frame[STAMP..STAMP + 4].copy_from_slice(&stamp.run.to_be_bytes());
    frame[STAMP + 4..STAMP + 8].copy_from_slice(&stamp.flow.to_be_bytes());
    frame[STAMP + 8..STAMP + 16].copy_from_slice(&stamp.due.to_be_bytes());
    seal(frame);
}

/// The stamp and both ends of a call's frame, and its TOS byte; nothing of a frame of other kinds.
pub fn read(frame: &[u8]) -> Option<(Stamp, [End; 2], u8)> {
    if frame.len() != LENGTH || frame[IP] != 0x45 || frame[IP + 9] != 17 {
        return None;
    }
    let word =
        |at: usize| u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let end = |address, port| End {
        address: Ipv4Addr::from(word(address)),
        port: u16::from_be_bytes([frame[port], frame[port + 1]]),
    };
    let stamp = Stamp {
        run: word(STAMP),
        flow: word(STAMP + 4),
        due: u64::from(word(STAMP + 8)) << 32 | u64::from(word(STAMP + 12)),
    };
    let ends = [end(IP + 12, UDP), end(IP + 16, UDP + 2)];
    Some((stamp, ends, frame[IP + 1]))
}

/// Turns a frame round: what an echo answers.
pub fn reflect(frame: &mut [u8; LENGTH]) {
    for (one, other, length) in [(0, 6, 6), (IP + 12, IP + 16, 4), (UDP, UDP + 2, 2)] {
        let (left, right) = frame.split_at_mut(other);
        left[one..one + length].swap_with_slice(&mut right[..length]);
    }
    // A socket's packet that crossed no wire has its checksum unfinished.
    seal(frame);
}

/// Writes the UDP checksum.
fn seal(frame: &mut [u8; LENGTH]) {
    frame[UDP + 6..RTP].fill(0);
    let pseudo = 17 + (8 + PAYLOAD) as u64;
    let sum = fold(pseudo + sum(&frame[IP + 12..]));
    // RFC 768: a sum of zero is written as all ones.
    let sum = if sum == 0 { 0xffff } else { sum };
    frame[UDP + 6..RTP].copy_from_slice(&sum.to_be_bytes());
}

/// The sum of 16-bit words, not folded (RFC 1071); the length is even.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    words
        .map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])))
        .sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
