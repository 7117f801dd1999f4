//! Newtypes for numbers of the kernel's routing and for internal ids.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A firewall mark (`SO_MARK`, `FRA_FWMARK`).
    Fwmark(u32)
);
number!(
    /// A routing table's number (`RTA_TABLE`, `FRA_TABLE`).
    RouteTable(u32)
);
number!(
    /// A routing rule's priority (`FRA_PRIORITY`): lower is looked up first.
    RulePriority(u32)
);
number!(
    /// The origin of a route or rule (`rtm_protocol`, `FRA_PROTOCOL`).
    RouteProtocol(u8)
);
number!(
    /// A network interface's index, never 0.
    IfIndex(u32)
);
number!(
    /// A rule's index in its policy, in the order of the file.
    RuleId(u16)
);

macro_rules! slot_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// An id of a removed object stays invalid, even if its slot is used again.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            /// The slot in the table.
            pub slot: u32,
            /// How often the slot was used before.
            pub generation: u32,
        }

        impl $name {
            /// Packs the id into the 64 bits of a readiness token.
            #[must_use]
            pub const fn token(self) -> u64 {
                (self.generation as u64) << 32 | self.slot as u64
            }

            /// Unpacks a readiness token.
            #[must_use]
            #[expect(
                clippy::cast_possible_truncation,
                reason = "each half is 32 bits by construction"
            )]
            pub const fn from_token(token: u64) -> Self {
                Self {
                    slot: token as u32,
                    generation: (token >> 32) as u32,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{}", self.slot, self.generation)
            }
        }
    };
}

slot_id!(
    /// A mapping's slot and the number of times the slot was used before: also the token of its socket's readiness.
    MappingId
);
slot_id!(
    /// A TCP connection's slot and the number of times the slot was used before: also the token of its socket's
    /// readiness.
    ConnectionId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_keep_slot_and_generation_apart() {
        let id = MappingId {
            slot: u32::MAX,
            generation: 7,
        };
        assert_eq!(MappingId::from_token(id.token()), id);
        assert_ne!(
            id.token(),
            MappingId {
                slot: 7,
                generation: u32::MAX
            }
            .token()
        );
    }
}
