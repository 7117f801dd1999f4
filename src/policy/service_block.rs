//! What is left to compare once the address is known, and what follows.

use std::hint;

use super::{Action, Verdict};
use crate::net::{Dscp, PortRange, Protocol, Treatment};

/// The services of a class of addresses, in order, with their verdicts; further ones are in the next service_block.
///
/// All are compared, and the first that matches is selected: a branch on what the packet holds would be mispredicted,
/// and cost more than the compares.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceBlock {
    services: [ServiceRange; ServiceBlock::LEN],
    /// Of each service, and of none.
    verdicts: [Verdict; ServiceBlock::LEN + 1],
    /// The place that leads to the next service_block: that of none, or none at all in the last service_block of a class. (One compare that
    /// nearly always has the same result. A flag beside the place would be a branch on the place.)
    onward: usize,
}

/// What happens to a packet that the policy does not name.
const TUNNEL: Verdict = Verdict {
    action: Action::Tunnel,
    rule: None,
    prefix: None,
    treatment: Treatment::of(Dscp::DF),
};

impl ServiceBlock {
    /// The number of services in a service_block; most classes have fewer.
    const LEN: usize = 4;

    /// The service_block of the addresses that no rule names.
    pub(super) const NOTHING: Self = Self {
        services: [ServiceRange::NONE; Self::LEN],
        verdicts: [TUNNEL; Self::LEN + 1],
        onward: usize::MAX,
    };

    /// The rows of a class with at least one entry; what matches none has the action `otherwise`.
    pub(super) fn of_class(entries: &[(ServiceRange, Verdict)], otherwise: Action) -> Vec<Self> {
        let mut nothing = Self::NOTHING;
        nothing.verdicts[Self::LEN].action = otherwise;
        let mut rows = vec![nothing; entries.len().div_ceil(Self::LEN)];
        for (service_block, entries) in rows.iter_mut().zip(entries.chunks(Self::LEN)) {
            service_block.onward = Self::LEN;
            for (at, (services, verdict)) in entries.iter().enumerate() {
                service_block.services[at] = *services;
                service_block.verdicts[at] = *verdict;
            }
        }
        rows.last_mut().expect("a class has an entry").onward = usize::MAX;
        rows
    }

    /// The place of the verdict for a service.
    #[inline]
    fn find(&self, service: u32) -> usize {
        let mut found = Self::LEN;
        for (at, services) in self.services.iter().enumerate().rev() {
            found = hint::select_unpredictable(services.contains(service), at, found);
        }
        found
    }
}

/// The verdict of the class whose rows come first.
#[inline]
pub(super) fn verdict(rows: &[ServiceBlock], protocol: Protocol, port: u16) -> Verdict {
    let service = number(protocol, port);
    let mut rows = rows.iter();
    loop {
        let service_block = rows
            .next()
            .expect("the last service_block of a class leads no further");
        let found = service_block.find(service);
        if found != service_block.onward {
            return service_block.verdicts[found];
        }
    }
}

/// A protocol's ports as one range of numbers, in which one compare finds a packet's.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceRange {
    first: u32,
    width: u32,
}

impl ServiceRange {
    /// None at all.
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

/// The number of a service, from its protocol and port.
#[inline]
fn number(protocol: Protocol, port: u16) -> u32 {
    u32::from(protocol.number()) << 16 | u32::from(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::RuleId;

    #[test]
    fn the_first_service_that_matches_decides_in_any_row() {
        let verdict_of = |id: u16| Verdict {
            action: Action::Relay,
            rule: Some(RuleId(id)),
            ..TUNNEL
        };
        for count in 1..=9u16 {
            // Each overlaps with the ones before it at port 1000, and has a port of its own.
            let entry = |id| {
                let ports = PortRange::new(1000 - id, 1000).expect("a range");
                (ServiceRange::new(Protocol::Udp, ports), verdict_of(id))
            };
            let mut rows =
                ServiceBlock::of_class(&(0..count).map(entry).collect::<Vec<_>>(), Action::Return);
            rows.extend(ServiceBlock::of_class(&[entry(100)], Action::Tunnel));
            let otherwise = Verdict {
                action: Action::Return,
                ..TUNNEL
            };
            for id in 0..count {
                assert_eq!(verdict(&rows, Protocol::Udp, 1000 - id), verdict_of(id));
            }
            for port in [0, 999 - count, 1001, u16::MAX] {
                assert_eq!(verdict(&rows, Protocol::Udp, port), otherwise, "{port}");
            }
            assert_eq!(verdict(&rows, Protocol::Tcp, 1000), otherwise);
        }
        assert_eq!(
            verdict(&[ServiceBlock::NOTHING], Protocol::Udp, u16::MAX),
            TUNNEL
        );
    }
}
