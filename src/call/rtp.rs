//! The RTP header (RFC 3550 section 5.1).

/// The fields of an RTP header's fixed part that quality is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpHeader {
    /// Whether the packet ends with padding. Browsers probe the bandwidth with packets of nothing else.
    pub padding: bool,
    /// Whether the marker bit is set: for audio, the first packet after a silence (RFC 3551 section 4.1).
    pub marker: bool,
    /// The payload type, 0 to 127; Opus is often 111.
    pub payload_type: u8,
    /// The sequence number: increases by one with every packet, from a random start.
    pub sequence: u16,
    /// The sampling instant, in units of the payload's clock.
    pub timestamp: u32,
    /// The synchronisation source (SSRC).
    pub ssrc: u32,
}

impl RtpHeader {
    /// The length in bytes of a header without contributing sources and extension.
    pub const LEN: usize = 12;

    /// Parses the header of `datagram`; `None` if it is not RTP version 2 or the header is truncated.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (header, rest) = datagram.split_first_chunk::<{ Self::LEN }>()?;
        let [first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *header;
        if first >> 6 != 2 {
            return None;
        }
        let after_sources = rest.get(usize::from(first & 0x0f) * 4..)?;
        if first & 0x10 != 0 {
            let (&[_, _, high, low], words) = after_sources.split_first_chunk::<4>()?;
            words.get(usize::from(u16::from_be_bytes([high, low])) * 4..)?;
        }
        Some(Self {
            padding: first & 0x20 != 0,
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
        })
    }

    /// Writes the header, without contributing sources and extension.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = 0x80 | u8::from(self.padding) << 5;
        bytes[1] = u8::from(self.marker) << 7 | self.payload_type & 0x7f;
        bytes[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        bytes[8..].copy_from_slice(&self.ssrc.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: RtpHeader = RtpHeader {
        padding: false,
        marker: true,
        payload_type: 111,
        sequence: 0xfffe,
        timestamp: 0x0102_0304,
        ssrc: 0xdead_beef,
    };

    #[test]
    fn headers_match_rfc_3550() {
        let bytes = [
            0x80, 0xef, 0xff, 0xfe, 1, 2, 3, 4, 0xde, 0xad, 0xbe, 0xef, 0x55,
        ];
        assert_eq!(RtpHeader::parse(&bytes), Some(HEADER));
        assert_eq!(HEADER.to_bytes(), bytes[..12]);
        let padded = RtpHeader {
            padding: true,
            ..HEADER
        };
        assert_eq!(padded.to_bytes()[0], 0xa0);
        assert_eq!(RtpHeader::parse(&padded.to_bytes()), Some(padded));
    }

    #[test]
    fn sources_and_extension_must_fit() {
        let mut bytes = HEADER.to_bytes().to_vec();
        bytes[0] = 0x92;
        bytes.extend([0; 8]);
        bytes.extend([0xbe, 0xde, 0, 1]);
        assert_eq!(RtpHeader::parse(&bytes), None, "the extension is cut off");
        bytes.extend([0; 4]);
        assert_eq!(RtpHeader::parse(&bytes), Some(HEADER));
        bytes[0] = 0x9f;
        assert_eq!(RtpHeader::parse(&bytes), None, "15 sources do not fit");
    }

    proptest! {
        #[test]
        fn random_bytes_cause_no_panic_and_only_version_2_parses(bytes: Vec<u8>) {
            if RtpHeader::parse(&bytes).is_some() {
                prop_assert_eq!(bytes[0] >> 6, 2);
            }
        }
    }
}
