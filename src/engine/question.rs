//! Datagrams that want an answer: the requests of STUN, as calls send them all the time (RFC 8445, RFC 7675).
//!
//! A request may lie in a TURN channel's data message (RFC 8656 section 12.4), where the peer's answer will lie too.

use crate::call::DatagramKind;
use crate::call::stun::{StunClass, StunMessage, TransactionId};
use crate::net::Endpoint;

/// `Binding` (RFC 8489) and Chrome's shorter form of it, `GOOG_PING` (IANA's registry of STUN methods).
const CHECKS: [u16; 2] = [0x001, 0x080];

/// The largest request that is kept, in bytes: RFC 8489 section 6.1 has none go beyond.
const LARGEST: usize = 548;

/// What a datagram of a call is, as far as its path is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StunKind {
    /// It wants an answer.
    Check {
        transaction: TransactionId,
        /// Whether it may be sent again: a check changes nothing at the peer, who answers every copy alike.
        repeatable: bool,
    },
    /// It is one.
    Answer(TransactionId),
    /// Neither.
    Other,
}

impl StunKind {
    /// Reads a datagram's first bytes.
    pub(super) fn of(payload: &[u8]) -> Self {
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
            StunClass::Request => Self::Check {
                transaction,
                repeatable: CHECKS.contains(&method) && payload.len() <= LARGEST,
            },
            StunClass::Success | StunClass::Error => Self::Answer(transaction),
            StunClass::Indication => Self::Other,
        }
    }
}

fn channel_data(payload: &[u8]) -> Option<&[u8]> {
    let (&[_, _, l0, l1], rest) = payload.split_first_chunk::<4>()?;
    rest.get(..usize::from(u16::from_be_bytes([l0, l1])))
}

/// A check that an application sent, kept word for word.
#[derive(Clone, Debug)]
pub(super) struct StunCheck {
    pub(super) to: Endpoint,
    pub(super) transaction: TransactionId,
    pub(super) payload: Vec<u8>,
}

/// The checks of one mapping: the latest, and the latest that was answered.
#[derive(Clone, Debug, Default)]
pub(super) struct StunChecks {
    /// Both apart from the path: media goes by without a look at them.
    latest: Option<Box<StunCheck>>,
    answered: Option<Box<StunCheck>>,
}

impl StunChecks {
    /// Keeps a check.
    pub(super) fn keep(&mut self, to: Endpoint, transaction: TransactionId, payload: &[u8]) {
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

    /// Takes note of an answer.
    pub(super) fn answer(&mut self, transaction: TransactionId) {
        if self
            .latest
            .as_ref()
            .is_some_and(|it| it.transaction == transaction)
        {
            // What was answered before has served its time, and its buffer serves the next one.
            std::mem::swap(&mut self.latest, &mut self.answered);
        }
    }

    /// A check that the peer has answered before, and will answer again.
    pub(super) fn answered(&self) -> Option<&StunCheck> {
        self.answered.as_deref()
    }

    /// The check by which the peer is to learn of another way: the answered one, else the latest.
    pub(super) fn introduction(&self) -> Option<&StunCheck> {
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
    fn questions_and_answers_are_known_in_clear_and_in_a_channel() {
        let question = StunKind::Check {
            transaction: ID,
            repeatable: true,
        };
        let (request, answer) = (binding_request(ID), binding_success(ID, remote()));
        for (datagram, sign) in [(&request, question), (&answer, StunKind::Answer(ID))] {
            assert_eq!(StunKind::of(datagram), sign);
            assert_eq!(StunKind::of(&in_channel(datagram)), sign);
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
    fn what_changes_something_at_the_server_is_never_repeated() {
        let allocate = [&[0, 3], &binding_request(ID)[2..]].concat();
        let expected = StunKind::Check {
            transaction: ID,
            repeatable: false,
        };
        assert_eq!(StunKind::of(&allocate), expected);
        let chrome = [&[2, 0], &binding_request(ID)[2..]].concat();
        let expected = StunKind::Check {
            transaction: ID,
            repeatable: true,
        };
        assert_eq!(StunKind::of(&chrome), expected, "GOOG_PING");
    }

    #[test]
    fn the_latest_answered_check_is_kept() {
        let mut questions = StunChecks::default();
        let ids = [1, 2, 3].map(|byte| TransactionId([byte; 12]));
        questions.keep(remote(), ids[0], b"one");
        assert!(questions.answered().is_none());
        assert_eq!(
            questions.introduction().map(|it| it.transaction),
            Some(ids[0])
        );
        questions.answer(ids[1]);
        assert!(questions.answered().is_none(), "nobody asked that");
        questions.answer(ids[0]);
        questions.keep(remote(), ids[1], b"two");
        questions.keep(remote(), ids[2], b"three");
        questions.answer(ids[1]);
        let answered = questions.answered().expect("the first");
        assert_eq!(
            (answered.transaction, &answered.payload[..]),
            (ids[0], &b"one"[..])
        );
        questions.answer(ids[2]);
        assert_eq!(questions.answered().map(|it| it.transaction), Some(ids[2]));
    }
}
