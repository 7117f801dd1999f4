//! Observation of calls: RTP streams (RFC 3550) and STUN transactions (RFC 8489).
//!
//! Only headers are read, which SRTP leaves in clear (RFC 3711 section 3.1). Time is an argument.

mod loss;
mod rtp;
mod sequence;
mod stream;
pub mod stun;

pub use loss::LossPattern;
pub use rtp::RtpHeader;
pub use sequence::PacketCounts;
pub use stream::RtpStream;

/// The protocol of a datagram on a media port, by its first bytes (RFC 7983 section 7, RFC 5761 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatagramKind {
    /// STUN: connectivity and consent checks.
    Stun,
    /// DTLS: the key exchange of DTLS-SRTP, data channels.
    Dtls,
    /// A TURN channel's data message.
    TurnChannel,
    /// An RTP or SRTP packet.
    Rtp,
    /// An RTCP or SRTCP packet.
    Rtcp,
}

impl DatagramKind {
    /// Returns the protocol of `datagram`; `None` if it is empty or of no protocol of a call.
    #[must_use]
    pub fn of(datagram: &[u8]) -> Option<Self> {
        match *datagram {
            [0..=3, ..] => Some(Self::Stun),
            [20..=63, ..] => Some(Self::Dtls),
            [64..=79, ..] => Some(Self::TurnChannel),
            [128..=191, 192..=223, ..] => Some(Self::Rtcp),
            [128..=191, ..] => Some(Self::Rtp),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_has_its_protocol() {
        let kinds = |range: std::ops::RangeInclusive<u8>| {
            let mut kinds: Vec<_> = range.map(|first| DatagramKind::of(&[first, 111])).collect();
            kinds.dedup();
            kinds
        };
        assert_eq!(kinds(0..=3), [Some(DatagramKind::Stun)]);
        assert_eq!(kinds(4..=19), [None]);
        assert_eq!(kinds(20..=63), [Some(DatagramKind::Dtls)]);
        assert_eq!(kinds(64..=79), [Some(DatagramKind::TurnChannel)]);
        assert_eq!(kinds(80..=127), [None]);
        assert_eq!(kinds(128..=191), [Some(DatagramKind::Rtp)]);
        assert_eq!(kinds(192..=255), [None]);
        assert_eq!(DatagramKind::of(&[]), None);
    }

    #[test]
    fn the_second_byte_tells_rtcp_from_rtp() {
        assert_eq!(
            DatagramKind::of(&[0x80, 200]),
            Some(DatagramKind::Rtcp),
            "a sender report"
        );
        assert_eq!(
            DatagramKind::of(&[0x80, 0xef]),
            Some(DatagramKind::Rtp),
            "payload type 111 with the marker"
        );
        assert_eq!(DatagramKind::of(&[0x80]), Some(DatagramKind::Rtp));
    }
}
