//! The simplest model of the engine's UDP half: no slots, generations, timer queue, arena or headers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use voicelane::engine::{NatSettings, UNANSWERED_LIFETIME};
use voicelane::net::{Endpoint, Family, Filtering, MappingId};
use voicelane::wire::IcmpError;

/// Two endpoints of a media server, one of a second server, one outside the policy; per family. Only the wide policy has
/// the second server.
pub(crate) const REMOTES: [[&str; 4]; 2] = [
    [
        "168.86.128.1:20000",
        "168.86.128.1:20002",
        "168.86.191.9:20000",
        "198.51.100.1:20000",
    ],
    [
        "[2001:db8:86::1]:20000",
        "[2001:db8:86::1]:20002",
        "[2001:db8:87::9]:20000",
        "[2001:db8:99::1]:20000",
    ],
];

/// A visible effect of a step; the order is not compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    Opened(Endpoint),
    Closed(MappingId),
    Ended(Endpoint),
    /// To the internet: the mapping's inside endpoint stands for the mapping.
    Sent {
        by: Endpoint,
        to: Endpoint,
        dont_fragment: bool,
        payload: Vec<u8>,
    },
    /// To the application.
    Delivered {
        from: Endpoint,
        to: Endpoint,
        payload: Vec<u8>,
    },
    /// An ICMP error to the application, about its datagram to a remote.
    IcmpError {
        to: Endpoint,
        about: Endpoint,
        kind: (u8, u8),
    },
}

/// A mapping as RFC 4787 has it.
#[derive(Clone, Debug)]
pub(crate) struct Mapping {
    pub(crate) id: MappingId,
    pub(crate) outside: Endpoint,
    pub(crate) refreshed: Instant,
    /// The order in which mappings are created.
    pub(crate) number: u64,
    pub(crate) is_answered: bool,
    pub(crate) permitted_remotes: BTreeSet<(IpAddr, u16)>,
}

/// Fifty at once, a hundred in a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    pub(crate) credit: Duration,
    pub(crate) seen: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        self.credit = Duration::from_millis(500).min(self.credit + (now - self.seen));
        self.seen = now;
        let left = self.credit.checked_sub(Duration::from_millis(10));
        self.credit = left.unwrap_or(self.credit);
        left.is_some()
    }
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) settings: NatSettings,
    pub(crate) policy: usize,
    pub(crate) mappings: BTreeMap<Endpoint, Mapping>,
    /// Number of mappings so far.
    pub(crate) created: u64,
    pub(crate) rejections: Bucket,
    pub(crate) returned_errors: Bucket,
}

/// A datagram of an application.
#[derive(Clone, Debug)]
pub(crate) struct OutboundDatagram {
    pub(crate) from: Endpoint,
    pub(crate) to: Endpoint,
    pub(crate) payload: Vec<u8>,
    pub(crate) hop_limit: u8,
    pub(crate) dont_fragment: bool,
    /// The outside endpoint of a new socket. `None` if it cannot open.
    pub(crate) outside: Option<Endpoint>,
}

impl Model {
    fn remote_key(&self, remote: Endpoint) -> (IpAddr, u16) {
        match self.settings.filtering {
            Filtering::AddressAndPortDependent => (remote.addr, remote.port),
            _ => (remote.addr, 0),
        }
    }

    fn relays(&self, to: Endpoint) -> bool {
        let [narrow, wide] = [0, 2].map(|first| {
            let remotes = REMOTES.map(|of_family| of_family[first]);
            remotes.iter().any(|text| endpoint(text).addr == to.addr)
        });
        narrow || (wide && self.policy == 0)
    }

    fn reject(
        &mut self,
        datagram: &OutboundDatagram,
        error: IcmpError,
        now: Instant,
    ) -> Vec<Effect> {
        let effect = icmp_error(error, datagram.from, datagram.to);
        Vec::from_iter(self.rejections.take(now).then_some(effect))
    }

    pub(crate) fn outbound(&mut self, datagram: &OutboundDatagram, now: Instant) -> Vec<Effect> {
        let &OutboundDatagram { from, to, .. } = datagram;
        // A socket on every address has no endpoint for hairpinning.
        let neighbour = self
            .mappings
            .iter()
            .find(|(_, it)| it.outside == to && !to.addr.is_unspecified());
        let neighbour = neighbour.map(|(inside, _)| *inside);
        if !self.relays(to) && neighbour.is_none() {
            return self.reject(datagram, IcmpError::AdminProhibited, now);
        }
        if datagram.hop_limit <= 1 {
            return self.reject(datagram, IcmpError::HopLimitExceeded, now);
        }
        let (remote_key, limits) = (self.remote_key(to), self.settings.limits);
        let of_address = self.mappings.iter().filter(|(it, _)| it.addr == from.addr);
        let mut effects = Vec::new();
        let is_full = match self.mappings.get(&from) {
            Some(mapping) => {
                mapping.permitted_remotes.len() >= limits.permitted_remotes
                    && !mapping.permitted_remotes.contains(&remote_key)
            }
            None => {
                self.mappings.len() >= limits.mappings
                    || of_address.clone().count() >= limits.mappings_of_address
            }
        };
        if is_full {
            // The oldest unanswered mapping is evicted.
            let unanswered = of_address.filter(|(_, it)| !it.is_answered);
            let oldest = unanswered.min_by_key(|(_, it)| it.number);
            let oldest = oldest.filter(|_| !self.mappings.contains_key(&from));
            let Some((inside, id)) = oldest.map(|(inside, it)| (*inside, it.id)) else {
                return self.reject(datagram, IcmpError::AdminProhibited, now);
            };
            self.mappings.remove(&inside);
            effects.extend([Effect::Closed(id), Effect::Ended(inside)]);
        }
        let source = self.mappings.get(&from).map(|mapping| mapping.outside);
        match (self.mappings.get_mut(&from), datagram.outside) {
            (Some(mapping), _) => {
                mapping.refreshed = now;
                mapping.permitted_remotes.insert(remote_key);
            }
            (None, Some(outside)) => {
                effects.push(Effect::Opened(from));
                let mapping = Mapping {
                    id: MappingId::from_token(0),
                    outside,
                    refreshed: now,
                    number: self.created,
                    is_answered: false,
                    permitted_remotes: BTreeSet::from([remote_key]),
                };
                self.created += 1;
                self.mappings.insert(from, mapping);
            }
            (None, None) => {
                effects.push(Effect::Opened(from));
                // A hairpinned datagram does not wait for the socket.
                if neighbour.is_none() && self.returned_errors.take(now) {
                    effects.push(icmp_error(IcmpError::AdminProhibited, from, to));
                }
                return effects;
            }
        }
        match neighbour {
            None => effects.push(Effect::Sent {
                by: from,
                to,
                dont_fragment: datagram.dont_fragment,
                payload: datagram.payload.clone(),
            }),
            Some(neighbour) => {
                // The first datagram has no source endpoint yet.
                if let Some(source) = source.filter(|source| !source.addr.is_unspecified()) {
                    effects.extend(self.inbound(neighbour, source, &datagram.payload, now));
                }
            }
        }
        effects
    }

    pub(crate) fn inbound(
        &mut self,
        inside: Endpoint,
        from: Endpoint,
        payload: &[u8],
        now: Instant,
    ) -> Option<Effect> {
        let remote_key = self.remote_key(from);
        let mapping = self.mappings.get_mut(&inside)?;
        let is_known = mapping.permitted_remotes.contains(&remote_key);
        if is_known && self.settings.inbound_refresh {
            mapping.refreshed = now;
        }
        let admits = is_known || self.settings.filtering == Filtering::EndpointIndependent;
        mapping.is_answered |= admits;
        admits.then(|| Effect::Delivered {
            from,
            to: inside,
            payload: payload.to_vec(),
        })
    }

    pub(crate) fn error(
        &mut self,
        inside: Endpoint,
        about: Endpoint,
        error: IcmpError,
        now: Instant,
    ) -> Option<Effect> {
        let remote_key = self.remote_key(about);
        let mapping = self.mappings.get(&inside)?;
        let is_reported =
            mapping.permitted_remotes.contains(&remote_key) && self.returned_errors.take(now);
        is_reported.then(|| icmp_error(error, inside, about))
    }

    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Effect> {
        let lifetime = |mapping: &Mapping| {
            if mapping.is_answered {
                self.settings.lifetime
            } else {
                UNANSWERED_LIFETIME
            }
        };
        let mappings = self.mappings.clone();
        let over = mappings
            .iter()
            .filter(|(_, mapping)| mapping.refreshed + lifetime(mapping) <= now)
            .collect::<Vec<_>>()
            .into_iter();
        over.flat_map(|(inside, mapping)| {
            self.mappings.remove(inside);
            [Effect::Closed(mapping.id), Effect::Ended(*inside)]
        })
        .collect()
    }
}

fn icmp_error(error: IcmpError, to: Endpoint, about: Endpoint) -> Effect {
    let (kind, code, _) = error.to_icmp(Family::of(to.addr));
    let kind = (kind, code);
    Effect::IcmpError { to, about, kind }
}

pub(crate) fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("an endpoint").into()
}
