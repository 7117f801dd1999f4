//! DSCP and ECN: the two fields of the IPv4 TOS octet and the IPv6 traffic class (RFC 2474, RFC 3168).

use std::fmt;
use std::str::FromStr;

/// A differentiated-services code point, 0 to 63 (RFC 2474 section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dscp(u8);

/// An invalid code point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no DSCP: expected 0 to 63, or a name such as EF, AF41, CS5, DF")]
pub struct DscpError(String);

/// The names of the registered code points (IANA "Differentiated Services Field Codepoints").
const NAMES: [(&str, u8); 24] = [
    ("DF", 0),
    ("CS0", 0),
    ("LE", 1),
    ("CS1", 8),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("CS2", 16),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("CS3", 24),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("CS4", 32),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("CS5", 40),
    ("VOICE-ADMIT", 44),
    ("EF", 46),
    ("CS6", 48),
    ("CS7", 56),
];

impl Dscp {
    /// Default forwarding: unmarked traffic (RFC 2474 section 4.1).
    pub const DF: Self = Self(0);
    /// Class selector 5, the signalling class (RFC 4594 section 4.2).
    pub const CS5: Self = Self(40);
    /// Expedited forwarding, the voice class (RFC 3246; RFC 8837 section 5 for WebRTC audio).
    pub const EF: Self = Self(46);

    /// Creates a code point from a number.
    ///
    /// # Errors
    /// [`DscpError`] if `value` exceeds 63.
    pub fn new(value: u8) -> Result<Self, DscpError> {
        if value < 64 {
            Ok(Self(value))
        } else {
            Err(DscpError(value.to_string()))
        }
    }

    /// Returns the number, 0 to 63.
    #[must_use]
    pub const fn value(self) -> u8 {
        self.0
    }
}

impl FromStr for Dscp {
    type Err = DscpError;

    fn from_str(text: &str) -> Result<Self, DscpError> {
        let named = NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        match (named, text.parse::<u8>()) {
            (Some(&(_, value)), _) => Ok(Self(value)),
            (None, Ok(value)) if value < 64 => Ok(Self(value)),
            _ => Err(DscpError(text.to_owned())),
        }
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.pad(name),
            None => f.pad(&self.0.to_string()),
        }
    }
}

/// The two ECN bits (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// 00: the transport does not support ECN.
    #[default]
    NotEct = 0,
    /// 01: ECN-capable, code point 1.
    Ect1 = 1,
    /// 10: ECN-capable, code point 0.
    Ect0 = 2,
    /// 11: a router experienced congestion.
    Ce = 3,
}

/// The treatment of a packet by a rule: DSCP on the wire and queueing priority in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Treatment {
    /// The code point set with `IP_TOS` / `IPV6_TCLASS`.
    pub dscp: Dscp,
    /// The queueing priority set with `SO_PRIORITY`: 0 to 6 need no capability.
    pub priority: u8,
}

impl Treatment {
    /// Returns the treatment of a code point. The priority is 6 (interactive voice) for EF and VOICE-ADMIT, 5 for the video
    /// classes, otherwise 0, as `pfifo_fast` and `mqprio` use `skb->priority`.
    #[must_use]
    pub const fn of(dscp: Dscp) -> Self {
        let priority = match dscp.0 {
            44 | 46 => 6,
            32..=40 => 5,
            _ => 0,
        };
        Self { dscp, priority }
    }
}

/// The whole octet: DSCP in the upper six bits, ECN in the lower two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrafficClass {
    /// The code point.
    pub dscp: Dscp,
    /// The ECN bits.
    pub ecn: Ecn,
}

impl TrafficClass {
    /// Splits the octet of an IPv4 TOS field or an IPv6 traffic class.
    #[must_use]
    pub const fn from_octet(octet: u8) -> Self {
        let ecn = match octet & 3 {
            0 => Ecn::NotEct,
            1 => Ecn::Ect1,
            2 => Ecn::Ect0,
            _ => Ecn::Ce,
        };
        Self {
            dscp: Dscp(octet >> 2),
            ecn,
        }
    }

    /// Returns the octet.
    #[must_use]
    pub const fn octet(self) -> u8 {
        self.dscp.0 << 2 | self.ecn as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_survives_a_round_trip() {
        for octet in 0..=u8::MAX {
            assert_eq!(TrafficClass::from_octet(octet).octet(), octet);
        }
    }

    #[test]
    fn ef_is_tos_b8() {
        assert_eq!(
            TrafficClass {
                dscp: Dscp::EF,
                ecn: Ecn::NotEct
            }
            .octet(),
            0xb8
        );
    }

    #[test]
    fn names_and_numbers_parse() {
        assert_eq!("ef".parse(), Ok(Dscp::EF));
        assert_eq!("46".parse(), Ok(Dscp::EF));
        assert_eq!("AF41".parse::<Dscp>().map(Dscp::value), Ok(34));
        assert_eq!(Dscp::EF.to_string(), "EF");
        assert_eq!(Dscp(3).to_string(), "3");
        for bad in ["64", "-1", "", "AF44", "0xb8"] {
            assert!(bad.parse::<Dscp>().is_err(), "{bad}");
        }
    }
}
