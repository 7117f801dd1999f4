//! STUN headers, the mapped address, and the matching of responses to requests (RFC 8489).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::net::Endpoint;

/// The fixed value in every header (RFC 8489 section 5).
const MAGIC_COOKIE: u32 = 0x2112_a442;
const HEADER_LEN: usize = 20;
const BINDING: u16 = 1;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// The longest time from a request to its response: first transmission to last timeout (RFC 8489 section 6.2.1).
const TRANSACTION_LIFETIME: Duration = Duration::from_millis(39_500);
/// Requests kept at most; the oldest is dropped.
const OPEN_REQUESTS: usize = 32;

/// Matches a response to its request: 96 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 12]);

/// The class of a message (RFC 8489 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StunClass {
    /// A request, which expects a response.
    Request,
    /// An indication, which expects none.
    Indication,
    /// A success response.
    Success,
    /// An error response.
    Error,
}

/// A STUN message with a valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StunMessage<'a> {
    /// The class.
    pub class: StunClass,
    /// The method, 12 bits: Binding is 1.
    pub method: u16,
    /// The transaction.
    pub transaction: TransactionId,
    attributes: &'a [u8],
}

impl<'a> StunMessage<'a> {
    /// Parses a datagram with exactly one message (RFC 8489 section 6.3).
    #[must_use]
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, attributes) = datagram.split_first_chunk::<HEADER_LEN>()?;
        let [t0, t1, l0, l1, c0, c1, c2, c3, transaction @ ..] = *header;
        let kind = u16::from_be_bytes([t0, t1]);
        let sound = kind >> 14 == 0
            && usize::from(u16::from_be_bytes([l0, l1])) == attributes.len()
            && attributes.len().is_multiple_of(4)
            && u32::from_be_bytes([c0, c1, c2, c3]) == MAGIC_COOKIE;
        sound.then_some(Self {
            class: match (kind >> 8 & 1, kind >> 4 & 1) {
                (0, 0) => StunClass::Request,
                (0, _) => StunClass::Indication,
                (_, 0) => StunClass::Success,
                _ => StunClass::Error,
            },
            method: kind & 0x000f | (kind & 0x00e0) >> 1 | (kind & 0x3e00) >> 2,
            transaction: TransactionId(transaction),
            attributes,
        })
    }

    /// Returns the request's source endpoint as the server received it (RFC 8489 section 14.2).
    #[must_use]
    pub fn mapped_endpoint(&self) -> Option<Endpoint> {
        let mut rest = self.attributes;
        while let Some((&[k0, k1, l0, l1], after)) = rest.split_first_chunk::<4>() {
            let len = usize::from(u16::from_be_bytes([l0, l1]));
            let value = after.get(..len)?;
            if u16::from_be_bytes([k0, k1]) == XOR_MAPPED_ADDRESS {
                return Some(masked(endpoint(value)?, self.transaction));
            }
            rest = after.get(len.next_multiple_of(4)..)?;
        }
        None
    }
}

/// Returns a Binding request without attributes.
#[must_use]
pub fn binding_request(transaction: TransactionId) -> Vec<u8> {
    message(BINDING, transaction, &[])
}

/// Returns the success response to a Binding request from `mapped`.
#[must_use]
pub fn binding_success(transaction: TransactionId, mapped: Endpoint) -> Vec<u8> {
    let masked = masked(mapped, transaction);
    let (family, address) = match masked.addr {
        IpAddr::V4(v4) => ([0, 1], v4.octets().to_vec()),
        IpAddr::V6(v6) => ([0, 2], v6.octets().to_vec()),
    };
    let value = [&family, &masked.port.to_be_bytes()[..], &address].concat();
    let len = if mapped.addr.is_ipv4() { 8 } else { 20_u16 };
    let attribute = [
        &XOR_MAPPED_ADDRESS.to_be_bytes(),
        &len.to_be_bytes()[..],
        &value,
    ]
    .concat();
    message(BINDING | 0x0100, transaction, &attribute)
}

fn message(kind: u16, transaction: TransactionId, attributes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(attributes.len()).expect("one address is far below 64 KiB");
    let mut bytes = Vec::with_capacity(HEADER_LEN + attributes.len());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend(MAGIC_COOKIE.to_be_bytes());
    bytes.extend(transaction.0);
    bytes.extend(attributes);
    bytes
}

/// XORs an endpoint with the cookie and the transaction; applied twice, it returns the endpoint.
fn masked(endpoint: Endpoint, transaction: TransactionId) -> Endpoint {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&transaction.0);
    Endpoint::new(
        match endpoint.addr {
            IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) ^ MAGIC_COOKIE).into()),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) ^ u128::from_be_bytes(mask)).into()),
        },
        endpoint.port ^ u16::from_be_bytes([mask[0], mask[1]]),
    )
}

fn endpoint(value: &[u8]) -> Option<Endpoint> {
    let (&[_, family, p0, p1], address) = value.split_first_chunk::<4>()?;
    let addr = match family {
        1 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        2 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    Some(Endpoint::new(addr, u16::from_be_bytes([p0, p1])))
}

/// The unanswered requests of one flow; each response yields a round-trip time.
#[derive(Clone, Debug, Default)]
pub struct Transactions {
    open: VecDeque<(TransactionId, Instant)>,
}

impl Transactions {
    /// Records a request or its retransmission; the time counts from the latest.
    pub fn observe_request(&mut self, transaction: TransactionId, now: Instant) {
        self.open.retain(|&(open, sent)| {
            open != transaction && now.saturating_duration_since(sent) < TRANSACTION_LIFETIME
        });
        if self.open.len() == OPEN_REQUESTS {
            self.open.pop_front();
        }
        self.open.push_back((transaction, now));
    }

    /// Records a response. Returns the round-trip time; `None` without an unanswered request.
    pub fn observe_response(
        &mut self,
        transaction: TransactionId,
        now: Instant,
    ) -> Option<Duration> {
        let at = self
            .open
            .iter()
            .position(|&(open, _)| open == transaction)?;
        let (_, sent) = self.open.remove(at)?;
        let round_trip = now.saturating_duration_since(sent);
        (round_trip < TRANSACTION_LIFETIME).then_some(round_trip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The transaction of all three vectors of RFC 5769.
    const ID: TransactionId = TransactionId([
        0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
    ]);
    /// RFC 5769 section 2.1.
    const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae\
        802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36\
        000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2\
        80280004e57a3bcf";
    /// RFC 5769 section 2.2.
    const ANSWER_V4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae\
        8022000b7465737420766563746f7220002000080001a147e112a643\
        000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
    /// RFC 5769 section 2.3.
    const ANSWER_V6: &str = "010100482112a442b7e7a701bc34d686fa87dfae\
        8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9\
        00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
            .collect()
    }

    #[test]
    fn the_sample_request_parses() {
        let bytes = bytes(REQUEST);
        let message = StunMessage::parse(&bytes).expect("a request");
        assert_eq!(message.class, StunClass::Request);
        assert_eq!((message.method, message.transaction), (BINDING, ID));
        assert_eq!(message.mapped_endpoint(), None);
    }

    #[test]
    fn the_sample_answers_give_the_mapped_endpoint() {
        for (hex, addr) in [
            (ANSWER_V4, "192.0.2.1"),
            (ANSWER_V6, "2001:db8:1234:5678:11:2233:4455:6677"),
        ] {
            let bytes = bytes(hex);
            let message = StunMessage::parse(&bytes).expect("an answer");
            assert_eq!(
                (message.class, message.transaction),
                (StunClass::Success, ID)
            );
            let mapped = Endpoint::new(addr.parse().expect("an address"), 32_853);
            assert_eq!(message.mapped_endpoint(), Some(mapped));
        }
    }

    #[test]
    fn a_wrong_header_is_rejected() {
        let good = bytes(REQUEST);
        let mut longer = good.clone();
        longer.extend([0; 4]);
        let mut cookie = good.clone();
        cookie[4] ^= 1;
        let mut rtp = good.clone();
        rtp[0] |= 0x80;
        for bad in [&good[..19], &good[..104], &longer, &cookie, &rtp] {
            assert_eq!(StunMessage::parse(bad), None);
        }
    }

    #[test]
    fn classes_and_methods_are_unfolded() {
        for (kind, class, method) in [
            (0x0011, StunClass::Indication, BINDING),
            (0x0111, StunClass::Error, BINDING),
            (0x3eef, StunClass::Request, 0xfff),
        ] {
            let bytes = message(kind, ID, &[]);
            let parsed = StunMessage::parse(&bytes).expect("a message");
            assert_eq!((parsed.class, parsed.method), (class, method));
        }
    }

    #[test]
    fn an_answer_counts_once_and_only_to_its_request() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut transactions = Transactions::default();
        transactions.observe_request(ID, start);
        assert_eq!(
            transactions.observe_response(TransactionId([0; 12]), after(5)),
            None
        );
        assert_eq!(
            transactions.observe_response(ID, after(30)),
            Some(Duration::from_millis(30))
        );
        assert_eq!(transactions.observe_response(ID, after(31)), None);
        transactions.observe_request(ID, start);
        assert_eq!(transactions.observe_response(ID, after(39_500)), None);
    }

    #[test]
    fn unanswered_requests_are_bounded() {
        let start = Instant::now();
        let mut transactions = Transactions::default();
        for n in 0..=u8::MAX {
            transactions.observe_request(TransactionId([n; 12]), start);
        }
        assert_eq!(transactions.open.len(), OPEN_REQUESTS);
        transactions.observe_request(ID, start + TRANSACTION_LIFETIME);
        assert_eq!(transactions.open.len(), 1);
    }

    proptest! {
        #[test]
        fn an_answer_carries_any_endpoint(addr: IpAddr, port: u16, id: [u8; 12]) {
            let mapped = Endpoint::new(addr, port);
            let bytes = binding_success(TransactionId(id), mapped);
            let message = StunMessage::parse(&bytes).expect("an answer");
            prop_assert_eq!(message.class, StunClass::Success);
            prop_assert_eq!(message.mapped_endpoint(), Some(mapped));
        }

        #[test]
        fn random_attributes_cause_no_panic(attributes in proptest::collection::vec(any::<[u8; 4]>(), 0..20)) {
            let bytes = message(BINDING, ID, attributes.as_flattened());
            let message = StunMessage::parse(&bytes).expect("a sound header");
            let _ = message.mapped_endpoint();
        }
    }
}
