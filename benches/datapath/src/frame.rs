//! The frames of the calls: RTP over UDP over IPv4 or IPv6 over Ethernet, written and read without a socket.

use std::net::IpAddr;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// An RTP packet of 20 ms G.711: 12 bytes of header, 160 of payload.
pub const PAYLOAD: usize = 172;

/// The length of the longest frame.
pub const LENGTH: usize = Family::V6.length();

/// Expedited forwarding (RFC 3246) as the whole byte of the IP header.
pub const EF: u8 = 46 << 2;

const IP: usize = 14;
/// From the UDP header on.
const RTP: usize = 8;
const STAMP: usize = RTP + 12;

/// What the calls are carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The length of a call's frame.
    pub const fn length(self) -> usize {
        self.udp() + 8 + PAYLOAD
    }

    /// Where the UDP header begins.
    const fn udp(self) -> usize {
        match self {
            Self::V4 => IP + 20,
            Self::V6 => IP + 40,
        }
    }

    /// Where the two addresses begin, and the length of each.
    const fn addresses(self) -> (usize, usize) {
        match self {
            Self::V4 => (IP + 12, 4),
            Self::V6 => (IP + 8, 16),
        }
    }

    const fn ether_type(self) -> [u8; 2] {
        match self {
            Self::V4 => [0x08, 0x00],
            Self::V6 => [0x86, 0xdd],
        }
    }

    /// That of a call's frame.
    fn of(frame: &[u8]) -> Option<Self> {
        let families = [Self::V4, Self::V6];
        let mut families = families.into_iter();
        families
            .find(|family| frame.len() == family.length() && frame[12..IP] == family.ether_type())
    }
}

/// One end of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The address.
    pub address: IpAddr,
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

/// The frame of a flow, all but its sequence number and stamp. Both ends are of one family.
pub fn new(macs: (Mac, Mac), from: End, to: End, ssrc: u32) -> Box<[u8]> {
    let family = match from.address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    };
    let (source, destination) = macs;
    let (at, udp) = (family.addresses().0, family.udp());
    let mut frame = vec![0x5a; family.length()];
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..IP].copy_from_slice(&family.ether_type());
    let datagram = 8 + PAYLOAD as u16;
    let [l0, l1] = datagram.to_be_bytes();
    let [t0, t1] = (20 + datagram).to_be_bytes();
    match family {
        // Version and header length, TOS, total length, identification, DF, TTL, UDP, checksum.
        Family::V4 => {
            frame[IP..at].copy_from_slice(&[0x45, 0, t0, t1, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        }
        // Version, traffic class and flow label, payload length, UDP, hop limit.
        Family::V6 => frame[IP..at].copy_from_slice(&[0x60, 0, 0, 0, l0, l1, 17, 64]),
    }
    let octets = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    frame[at..udp].copy_from_slice(&[octets(from.address), octets(to.address)].concat());
    if family == Family::V4 {
        let sum = fold(sum(&frame[IP..udp]));
        frame[IP + 10..at].copy_from_slice(&sum.to_be_bytes());
    }
    let segment = &mut frame[udp..];
    segment[..2].copy_from_slice(&from.port.to_be_bytes());
    segment[2..4].copy_from_slice(&to.port.to_be_bytes());
    segment[4..6].copy_from_slice(&[l0, l1]);
    segment[RTP..RTP + 2].copy_from_slice(&[0x80, 0]);
    segment[RTP + 8..STAMP].copy_from_slice(&ssrc.to_be_bytes());
    frame.into()
}

/// Makes the frame the flow's packet of this number.
///
/// # Panics
/// When it is no call's frame.
pub fn stamp(frame: &mut [u8], sequence: u32, stamp: Stamp) {
    let family = Family::of(frame).expect("a call's frame");
    let segment = &mut frame[family.udp()..];
    segment[RTP + 2..RTP + 4].copy_from_slice(&(sequence as u16).to_be_bytes());
    segment[RTP + 4..RTP + 8].copy_from_slice(&sequence.wrapping_mul(160).to_be_bytes());
    segment[STAMP..STAMP + 4].copy_from_slice(&stamp.run.to_be_bytes());
    segment[STAMP + 4..STAMP + 8].copy_from_slice(&stamp.flow.to_be_bytes());
    segment[STAMP + 8..STAMP + 16].copy_from_slice(&stamp.due.to_be_bytes());
    seal(frame, family);
}

/// The stamp and both ends of a call's frame, and its TOS byte; nothing of a frame of other kinds.
pub fn read(frame: &[u8]) -> Option<(Stamp, [End; 2], u8)> {
    let family = Family::of(frame)?;
    let (protocol, tos) = match family {
        Family::V4 if frame[IP] != 0x45 => return None,
        Family::V4 => (frame[IP + 9], frame[IP + 1]),
        Family::V6 => (frame[IP + 6], frame[IP] << 4 | frame[IP + 1] >> 4),
    };
    if protocol != 17 {
        return None;
    }
    let segment = &frame[family.udp()..];
    let word = |at: usize| {
        let bytes = segment[at..].first_chunk();
        u32::from_be_bytes(*bytes.expect("a frame of this length"))
    };
    let end = |which: usize| {
        let (at, length) = family.addresses();
        let octets = &frame[at + which * length..];
        let address = match family {
            Family::V4 => IpAddr::from(*octets.first_chunk::<4>().expect("an address")),
            Family::V6 => IpAddr::from(*octets.first_chunk::<16>().expect("an address")),
        };
        let port = u16::from_be_bytes([segment[2 * which], segment[2 * which + 1]]);
        End { address, port }
    };
    let stamp = Stamp {
        run: word(STAMP),
        flow: word(STAMP + 4),
        due: u64::from(word(STAMP + 8)) << 32 | u64::from(word(STAMP + 12)),
    };
    Some((stamp, [end(0), end(1)], tos))
}

/// Turns a frame round: what an echo answers.
///
/// # Panics
/// When it is no call's frame.
pub fn reflect(frame: &mut [u8]) {
    let family = Family::of(frame).expect("a call's frame");
    let ((at, length), udp) = (family.addresses(), family.udp());
    for (one, length) in [(0, 6), (at, length), (udp, 2)] {
        let (left, right) = frame[one..].split_at_mut(length);
        left.swap_with_slice(&mut right[..length]);
    }
    // A socket's packet that crossed no wire has its checksum unfinished.
    seal(frame, family);
}

/// Writes the UDP checksum.
fn seal(frame: &mut [u8], family: Family) {
    let (addresses, field) = (family.addresses().0, family.udp() + 6);
    frame[field..field + 2].fill(0);
    let pseudo = 17 + (8 + PAYLOAD) as u64;
    let sum = fold(pseudo + sum(&frame[addresses..]));
    // RFC 768: a sum of zero is written as all ones.
    let sum = if sum == 0 { 0xffff } else { sum };
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
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
