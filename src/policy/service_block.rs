//! Matches protocol and port after the address lookup.

use std::hint;

use super::{Action, Verdict};
use crate::net::{Dscp, PortRange, Protocol, Treatment};

/// Up to four service ranges of a prefix, in order, with their verdicts. The next block has further ones.
///
/// All are compared, and the first match is selected. A branch on the packet would be mispredicted, which costs more
/// than the comparisons.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceBlock {
    services: [ServiceRange; ServiceBlock::LEN],
    /// The verdicts of the ranges, then the verdict of a packet without a match.
    verdicts: [Verdict; ServiceBlock::LEN + 1],
    /// The match index that continues with the next block: that of no match, or `usize::MAX` in the last block. So this is
    /// one comparison with a predictable result.
    continue_at: usize,
}

/// The verdict of a packet that no rule matches.
const TUNNEL: Verdict = Verdict {
    action: Action::Tunnel,
    rule: None,
    prefix: None,
    treatment: Treatment::of(Dscp::DF),
};

impl ServiceBlock {
    /// The number of ranges in a block. Most prefixes have fewer.
    const LEN: usize = 4;

    /// The block of the addresses without a rule.
    pub(super) const NOTHING: Self = Self {
        services: [ServiceRange::NONE; Self::LEN],
        verdicts: [TUNNEL; Self::LEN + 1],
        continue_at: usize::MAX,
    };

    /// Builds the blocks of a prefix with at least one entry. Packets without a match get the action `otherwise`.
    pub(super) fn chain(entries: &[(ServiceRange, Verdict)], otherwise: Action) -> Vec<Self> {
        let mut nothing = Self::NOTHING;
        nothing.verdicts[Self::LEN].action = otherwise;
        let mut blocks = vec![nothing; entries.len().div_ceil(Self::LEN)];
        for (block, entries) in blocks.iter_mut().zip(entries.chunks(Self::LEN)) {
            block.continue_at = Self::LEN;
            for (at, (services, verdict)) in entries.iter().enumerate() {
                block.services[at] = *services;
                block.verdicts[at] = *verdict;
            }
        }
        blocks
            .last_mut()
            .expect("a prefix has an entry")
            .continue_at = usize::MAX;
        blocks
    }

    /// Returns the index of the verdict for a service.
    #[inline]
    fn find(&self, service: u32) -> usize {
        let mut found = Self::LEN;
        for (at, services) in self.services.iter().enumerate().rev() {
            found = hint::select_unpredictable(services.contains(service), at, found);
        }
        found
    }
}

/// Returns the verdict of the first blocks, which belong to one prefix.
#[inline]
pub(super) fn verdict(blocks: &[ServiceBlock], protocol: Protocol, port: u16) -> Verdict {
    let service = number(protocol, port);
    let mut blocks = blocks.iter();
    loop {
        let block = blocks.next().expect("the last block returns");
        let found = block.find(service);
        if found != block.continue_at {
            return block.verdicts[found];
        }
    }
}

/// The ports of a protocol as one range of numbers, so that one comparison matches both.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceRange {
    first: u32,
    width: u32,
}

impl ServiceRange {
    /// An empty range.
    const NONE: Self = Self {
        first: u32::MAX,
        width: 0,
    };

    pub(super) fn new(protocol: Protocol, ports: PortRange) -> Self {
        Self {
            first: number(protocol, ports.first()),
            width: u32::from(ports.last() - ports.first()),
        }
    }

    #[inline]
    fn contains(self, service: u32) -> bool {
        service.wrapping_sub(self.first) <= self.width
    }
}

/// Returns protocol and port as one number.
#[inline]
fn number(protocol: Protocol, port: u16) -> u32 {
    u32::from(protocol.number()) << 16 | u32::from(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::RuleId;

    #[test]
    fn the_first_match_decides_in_any_block() {
        let verdict_of = |id: u16| Verdict {
            action: Action::Relay,
            rule: Some(RuleId(id)),
            ..TUNNEL
        };
        for count in 1..=9u16 {
            // All ranges contain port 1000, and each has a port of its own.
            let entry = |id| {
                let ports = PortRange::new(1000 - id, 1000).expect("a range");
                (ServiceRange::new(Protocol::Udp, ports), verdict_of(id))
            };
            let mut blocks =
                ServiceBlock::chain(&(0..count).map(entry).collect::<Vec<_>>(), Action::Return);
            blocks.extend(ServiceBlock::chain(&[entry(100)], Action::Tunnel));
            let otherwise = Verdict {
                action: Action::Return,
                ..TUNNEL
            };
            for id in 0..count {
                assert_eq!(verdict(&blocks, Protocol::Udp, 1000 - id), verdict_of(id));
            }
            for port in [0, 999 - count, 1001, u16::MAX] {
                assert_eq!(verdict(&blocks, Protocol::Udp, port), otherwise, "{port}");
            }
            assert_eq!(verdict(&blocks, Protocol::Tcp, 1000), otherwise);
        }
        assert_eq!(
            verdict(&[ServiceBlock::NOTHING], Protocol::Udp, u16::MAX),
            TUNNEL
        );
    }
}
