//! The internet checksum (RFC 1071), with and without the pseudo-header of the transports.

use etherparse::IpNumber;
use etherparse::checksum::Sum16BitWords;

use super::addresses::Addresses;

/// Returns the sum over bytes without a pseudo-header: an IPv4 header or an `ICMPv4` message.
pub(super) fn plain(bytes: &[u8]) -> Sum16BitWords {
    Sum16BitWords::new().add_slice(bytes)
}

/// Returns the sum over a TCP, UDP or `ICMPv6` segment and its pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
///
/// The pseudo-headers of both families hold the same words in another order with other zeros: their sums are equal.
pub(super) fn transport(addresses: Addresses, protocol: IpNumber, segment: &[u8]) -> Sum16BitWords {
    let len = u16::try_from(segment.len()).expect("a segment is part of an IP packet");
    let mut sum = Sum16BitWords::new();
    let addresses = match addresses {
        Addresses::V4 {
            source,
            destination,
        } => sum
            .add_4bytes(source.octets())
            .add_4bytes(destination.octets()),
        Addresses::V6 {
            source,
            destination,
        } => sum
            .add_16bytes(source.octets())
            .add_16bytes(destination.octets()),
    };
    addresses
        .add_2bytes([0, protocol.0])
        .add_2bytes(len.to_be_bytes())
        .add_slice(segment)
}

/// Whether a sum that includes the checksum field is valid.
pub(super) fn is_valid(sum: &Sum16BitWords) -> bool {
    sum.ones_complement() == 0
}

/// Returns the checksum field of a sum in which that field is zero.
pub(super) fn field(sum: &Sum16BitWords) -> [u8; 2] {
    sum.ones_complement().to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// RFC 1071 section 1, word by word.
    fn reference(bytes: &[u8]) -> [u8; 2] {
        let mut sum = bytes.chunks(2).fold(0u32, |sum, word| {
            sum + u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]))
        });
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!u16::try_from(sum).expect("folded")).to_be_bytes()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        // Section 3: the words 0001 f203 f4f5 f6f7 sum to ddf2.
        let sum = plain(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(field(&sum), (!0xddf2u16).to_be_bytes());
    }

    proptest! {
        #[test]
        fn equals_the_reference(mut bytes in prop::collection::vec(any::<u8>(), 2..200)) {
            prop_assert_eq!(field(&plain(&bytes)), reference(&bytes));
            bytes[..2].fill(0);
            let field = field(&plain(&bytes));
            bytes[..2].copy_from_slice(&field);
            prop_assert!(is_valid(&plain(&bytes)));
        }

        #[test]
        fn pseudo_headers_are_those_of_the_standards(
            v4: [[u8; 4]; 2],
            v6: [[u8; 16]; 2],
            protocol: u8,
            segment in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let len = u32::try_from(segment.len()).expect("short");
            let number = IpNumber(protocol);

            let low = &len.to_be_bytes()[2..];
            let written = [v4[0].as_slice(), &v4[1], &[0, protocol], low, &segment].concat();
            let addresses = Addresses::V4 { source: v4[0].into(), destination: v4[1].into() };
            prop_assert_eq!(field(&transport(addresses, number, &segment)), reference(&written));

            let len = len.to_be_bytes();
            let written = [v6[0].as_slice(), &v6[1], &len, &[0, 0, 0, protocol], &segment].concat();
            let addresses = Addresses::V6 { source: v6[0].into(), destination: v6[1].into() };
            prop_assert_eq!(field(&transport(addresses, number, &segment)), reference(&written));
        }
    }
}
