//! STUN checks: requests that calls send all the time and that the peer answers (RFC 8445, RFC 7675).
//!
//! A TURN channel data message may contain a check, and then also its response (RFC 8656 section 12.4).

use crate::call::DatagramKind;
use crate::call::stun::{StunClass, StunMessage, TransactionId};
use crate::net::Endpoint;

/// The methods of connectivity and consent checks: `Binding` (RFC 8489) and Chrome's `GOOG_PING` (IANA's registry of STUN
/// methods).
const CHECK_METHODS: [u16; 2] = [0x001, 0x080];

/// The largest check that is kept, in bytes (RFC 8489 section 6.1).
const MAX_CHECK_LEN: usize = 548;

/// The kind of a datagram of a call, as evidence about its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum StunKind {
    /// A STUN request.
    Request {
        transaction: TransactionId,
        /// Whether the request is a check, which the engine may send again: the peer answers every copy alike.
        is_check: bool,
    },
    /// A STUN response.
    Response(TransactionId),
    /// Neither.
    Other,
}

impl StunKind {
    /// Reads a datagram's first bytes.
    pub(in crate::engine) fn of(payload: &[u8]) -> Self {
        let message = match DatagramKind::of(payload) {
            Some(DatagramKind::Stun) => payload,
            Some(DatagramKind::TurnChannel) => match channel_data(payload) {
                Some(data) if DatagramKind::of(data) == Some(DatagramKind::Stun) => data,
                _ => return Self::Other,
            },
            _ => return Self::Other,
        };
        let Some(StunMessage {
            class,
            method,
            transaction,
            ..
        }) = StunMessage::parse(message)
        else {
            return Self::Other;
        };
        match class {
            StunClass::Request => Self::Request {
                transaction,
                is_check: CHECK_METHODS.contains(&method) && payload.len() <= MAX_CHECK_LEN,
            },
            StunClass::Success | StunClass::Error => Self::Response(transaction),
            StunClass::Indication => Self::Other,
        }
    }
}

fn channel_data(payload: &[u8]) -> Option<&[u8]> {
    let (&[_, _, l0, l1], rest) = payload.split_first_chunk::<4>()?;
    rest.get(..usize::from(u16::from_be_bytes([l0, l1])))
}

/// A check that an application sent, kept byte for byte.
#[derive(Clone, Debug)]
pub(in crate::engine) struct StunCheck {
    pub(in crate::engine) to: Endpoint,
    pub(in crate::engine) transaction: TransactionId,
    pub(in crate::engine) payload: Vec<u8>,
}

/// Requests without a response that are remembered: an application tests several candidates at once.
const OUTSTANDING: usize = 8;

/// The requests of one mapping: the outstanding ones, the latest check, and the latest check that was answered.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct StunChecks {
    /// Boxed apart from the path, which every media packet reads.
    latest: Option<Box<StunCheck>>,
    answered: Option<Box<StunCheck>>,
    outstanding: Vec<TransactionId>,
}

impl StunChecks {
    /// Records a request that passes through, so that its response is known.
    pub(in crate::engine) fn on_request(&mut self, transaction: TransactionId) {
        if self.outstanding.contains(&transaction) {
            return;
        }
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.remove(0);
        } else {
            self.outstanding
                .reserve_exact(OUTSTANDING - self.outstanding.len());
        }
        self.outstanding.push(transaction);
    }

    /// Keeps a check as the latest.
    pub(in crate::engine) fn record(
        &mut self,
        to: Endpoint,
        transaction: TransactionId,
        payload: &[u8],
    ) {
        match &mut self.latest {
            Some(latest) => {
                latest.to = to;
                latest.transaction = transaction;
                latest.payload.clear();
                latest.payload.extend_from_slice(payload);
            }
            None => {
                self.latest = Some(Box::new(StunCheck {
                    to,
                    transaction,
                    payload: payload.into(),
                }));
            }
        }
    }

    /// Records a response. Returns whether a request of this mapping has its id.
    pub(in crate::engine) fn on_response(&mut self, transaction: TransactionId) -> bool {
        let place = self.outstanding.iter().position(|it| *it == transaction);
        if let Some(place) = place {
            self.outstanding.remove(place);
        }
        let is = |check: &Option<Box<StunCheck>>| {
            check
                .as_ref()
                .is_some_and(|it| it.transaction == transaction)
        };
        if is(&self.latest) {
            // The next check reuses the buffer of the formerly answered one.
            std::mem::swap(&mut self.latest, &mut self.answered);
        }
        // Copies of the answered check are answered too.
        place.is_some() || is(&self.answered)
    }

    /// Returns the latest check that the peer answered; it will answer a copy too.
    pub(in crate::engine) fn answered(&self) -> Option<&StunCheck> {
        self.answered.as_deref()
    }

    /// Returns the check that announces a new path to the peer: the answered one, otherwise the latest.
    pub(in crate::engine) fn announcement(&self) -> Option<&StunCheck> {
        self.answered().or(self.latest.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::stun::{binding_request, binding_success};

    const ID: TransactionId = TransactionId([7; 12]);

    fn remote() -> Endpoint {
        Endpoint::new([192, 0, 2, 1].into(), 20_000)
    }

    fn in_channel(message: &[u8]) -> Vec<u8> {
        let length = u16::try_from(message.len()).expect("short");
        [&[0x40, 0][..], &length.to_be_bytes(), message].concat()
    }

    #[test]
    fn requests_and_responses_are_recognised_in_clear_and_in_a_channel() {
        let request_kind = StunKind::Request {
            transaction: ID,
            is_check: true,
        };
        let (request, response) = (binding_request(ID), binding_success(ID, remote()));
        for (datagram, kind) in [
            (&request, request_kind),
            (&response, StunKind::Response(ID)),
        ] {
            assert_eq!(StunKind::of(datagram), kind);
            assert_eq!(StunKind::of(&in_channel(datagram)), kind);
        }
        let mut cut = in_channel(&request);
        cut.pop();
        let rtp = [0x80, 111, 0, 1];
        let mut indication = request.clone();
        indication[1] |= 0x10;
        for other in [&cut[..], &rtp, &indication, &[], &[0x40]] {
            assert_eq!(StunKind::of(other), StunKind::Other);
        }
    }

    #[test]
    fn only_checks_may_be_repeated() {
        let allocate = [&[0, 3], &binding_request(ID)[2..]].concat();
        let expected = StunKind::Request {
            transaction: ID,
            is_check: false,
        };
        assert_eq!(StunKind::of(&allocate), expected);
        let chrome = [&[2, 0], &binding_request(ID)[2..]].concat();
        let expected = StunKind::Request {
            transaction: ID,
            is_check: true,
        };
        assert_eq!(StunKind::of(&chrome), expected, "GOOG_PING");
    }

    #[test]
    fn the_latest_answered_check_is_kept() {
        let mut checks = StunChecks::default();
        let ids = [1, 2, 3].map(|byte| TransactionId([byte; 12]));
        checks.record(remote(), ids[0], b"one");
        assert!(checks.answered().is_none());
        assert_eq!(checks.announcement().map(|it| it.transaction), Some(ids[0]));
        checks.on_response(ids[1]);
        assert!(checks.answered().is_none(), "no such check was sent");
        checks.on_response(ids[0]);
        checks.record(remote(), ids[1], b"two");
        checks.record(remote(), ids[2], b"three");
        checks.on_response(ids[1]);
        let answered = checks.answered().expect("the first");
        assert_eq!(
            (answered.transaction, &answered.payload[..]),
            (ids[0], &b"one"[..])
        );
        checks.on_response(ids[2]);
        assert_eq!(checks.answered().map(|it| it.transaction), Some(ids[2]));
    }
}
