//! The simplest reassembly: it searches a list of pieces from the start for each fragment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use voicelane::engine::reassembly::{FragmentError, Reassembly, ReassemblyLimits};
use voicelane::wire::{Packet, Transport};

const LIMITS: ReassemblyLimits = ReassemblyLimits {
    held: 16_384,
    held_of_source: 8_192,
    lifetime: Duration::from_secs(15),
};

/// An incomplete datagram.
#[derive(Debug)]
struct Partial {
    due: Instant,
    pieces: Vec<Piece>,
    is_spoilt: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    range: Range<usize>,
    more: bool,
    payload: Vec<u8>,
}

impl Partial {
    /// Returns the payload if it is complete.
    fn whole(&self) -> Option<Vec<u8>> {
        let last = self.pieces.iter().find(|piece| !piece.more)?;
        let mut pieces = self.pieces.clone();
        pieces.sort_by_key(|piece| piece.range.start);
        let payload: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.payload).collect();
        (payload.len() == last.range.end).then_some(payload)
    }
}

/// Runs steps of five bytes: the kind of packet, two for datagram and offset, the length, and the time.
///
/// # Panics
/// If the reassembly differs from the model, or exceeds its limits.
pub(crate) fn run(steps: &[u8]) {
    let mut reassembly = Reassembly::new(LIMITS);
    let mut model = BTreeMap::<(bool, u8), Partial>::new();
    let mut now = Instant::now();
    for step in steps.as_chunks::<5>().0 {
        let &[kind, place, length, content, wait] = step;
        if wait > 192 {
            now += Duration::from_millis(u64::from(wait - 192) * 250);
            let ended = std::iter::from_fn(|| reassembly.expire(now)).count();
            let before = model.len();
            model.retain(|_, partial| partial.due > now);
            assert_eq!(ended, before - model.len());
        }
        let is_v6 = kind & 1 == 1;
        let more = kind & 2 == 0;
        let identification = kind >> 2 & 7;
        let offset = usize::from(place) * if kind & 64 == 0 { 8 } else { 256 };
        let length = usize::from(length) * if more { 8 } else { 1 };
        let payload: Vec<u8> = (0..length)
            .map(|at| at.to_le_bytes()[0] ^ content & 1)
            .collect();
        let Some(bytes) = fragment(is_v6, identification, offset, more, &payload) else {
            continue;
        };
        let packet = Packet::parse(&bytes).expect("a fragment is a packet");
        let Transport::Fragment(part) = packet.transport() else {
            continue; // The whole of it: offset 0, and none to follow.
        };
        let held = reassembly.held();
        let taken = reassembly.insert(&packet, part, now);
        assert!(reassembly.held() <= LIMITS.held, "the limit holds");

        let most = if is_v6 { 65_535 } else { 65_515 };
        let range = offset..offset + length;
        if range.is_empty() || range.end > most {
            assert_eq!(taken, Err(FragmentError::Length));
            continue;
        }
        if taken == Err(FragmentError::NoRoom) {
            assert!(
                held + length + 1_024 > LIMITS.held_of_source,
                "there was room"
            );
            continue;
        }
        let key = (is_v6, identification);
        let partial = model.entry(key).or_insert_with(|| Partial {
            due: now + LIMITS.lifetime,
            pieces: Vec::new(),
            is_spoilt: false,
        });
        let piece = Piece {
            range,
            more,
            payload,
        };
        let contradicts = |other: &Piece| {
            let (mine, its) = (&piece.range, &other.range);
            let overlap = mine.start < its.end && its.start < mine.end;
            overlap || (!other.more && mine.end > its.end) || (!more && its.end > mine.end)
        };
        let second_end = |other: &Piece| !more && !other.more;
        if partial.is_spoilt {
            assert_eq!(taken, Err(FragmentError::Overlap));
        } else if partial.pieces.contains(&piece) {
            assert_eq!(taken, Ok(None));
        } else if partial
            .pieces
            .iter()
            .any(|it| contradicts(it) || second_end(it))
        {
            assert_eq!(taken, Err(FragmentError::Overlap));
            partial.is_spoilt = true;
        } else {
            partial.pieces.push(piece);
            let whole = partial.whole();
            let header = if is_v6 { 40 } else { 20 };
            let taken = taken.expect("it is in order");
            assert_eq!(taken.map(|packet| packet[header..].to_vec()), whole);
            if whole.is_some() {
                model.remove(&key);
            }
        }
        assert_eq!(reassembly.len(), model.len());
        assert_eq!(reassembly.is_empty(), reassembly.held() == 0);
        let first = model.values().map(|partial| partial.due).min();
        assert_eq!(reassembly.poll_timeout(), first);
    }
}

/// Returns a fragment from the TUN, with a protocol without checksum. `None` if the fields do not fit.
fn fragment(
    is_v6: bool,
    identification: u8,
    offset: usize,
    more: bool,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let place = u16::try_from(offset).ok()?;
    let mut packet;
    if is_v6 {
        let length = u16::try_from(payload.len() + 8).ok()?;
        packet = vec![0x60, 0, 0, 0, 0, 0, 44, 64];
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        for text in ["fd00:8::2", "2001:db8:86::1"] {
            let IpAddr::V6(addr) = text.parse().expect("an address") else {
                unreachable!("it is written so")
            };
            packet.extend_from_slice(&addr.octets());
        }
        packet.extend_from_slice(&[253, 0]);
        packet.extend_from_slice(&(place | u16::from(more)).to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, identification]);
    } else {
        let length = u16::try_from(payload.len() + 20).ok()?;
        packet = vec![0x45, 0, 0, 0, 0, identification, 0, 0, 64, 253, 0, 0];
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        let place = (place / 8) | (u16::from(more) << 13);
        packet[6..8].copy_from_slice(&place.to_be_bytes());
        packet.extend_from_slice(&[10, 8, 0, 2, 168, 86, 128, 1]);
        let sum = packet.chunks(2).fold(0u32, |sum, word| {
            let sum = sum + u32::from(u16::from_be_bytes([word[0], word[1]]));
            (sum >> 16) + (sum & 0xffff)
        });
        let field = !u16::try_from(sum).expect("folded");
        packet[10..12].copy_from_slice(&field.to_be_bytes());
    }
    packet.extend_from_slice(payload);
    Some(packet)
}
