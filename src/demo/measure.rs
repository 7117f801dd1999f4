//! What a call was like: read from the packets on the wires and from what its ends heard.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::capture::{Captures, Content, Place, Sighting};
use super::media::{Leg, Recording};
use super::wireguard;
use super::world::{GATEWAY, HOME, LAPTOP, TUNNEL};
use crate::net::{Dscp, Family};

/// How the laptop's traffic goes to the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Setting {
    /// Through the VPN, all of it.
    VpnOnly,
    /// Through the VPN, but what voicelane takes out.
    WithVoicelane,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::VpnOnly => "VPN only",
            Self::WithVoicelane => "with voicelane",
        })
    }
}

/// A value for each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct BothWays<T> {
    /// From the caller to the cloud.
    pub(super) up: T,
    /// From the cloud to the caller.
    pub(super) down: T,
}

impl<T> BothWays<T> {
    fn map<U>(self, f: impl Fn(T) -> U) -> BothWays<U> {
        BothWays {
            up: f(self.up),
            down: f(self.down),
        }
    }
}

/// The middle and the far end of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// One call in one setting.
#[derive(Debug, Serialize)]
pub(super) struct Measure {
    pub(super) setting: Setting,
    #[serde(serialize_with = "as_text")]
    pub(super) family: Family,
    /// The hosts passed on the way up: `⇒` leads to a host inside WireGuard, `→` in the clear.
    pub(super) path: String,
    /// RTP packets of the call that could be read on the home link.
    pub(super) in_clear: BothWays<usize>,
    /// RTP packets of the call that the gateway passed on.
    pub(super) at_gateway: BothWays<usize>,
    /// WireGuard datagrams on the home link, of all calls together.
    pub(super) wireguard: usize,
    /// What the home router read in the packets that carry the call.
    pub(super) dscp: Vec<u8>,
    /// The caller's address as the cloud's STUN answers tell it.
    pub(super) seen_from: Option<IpAddr>,
    /// Median and 99th percentile; absent when nothing came back.
    pub(super) round_trip_ms: Option<Quantiles>,
    /// Interarrival jitter, RFC 3550.
    pub(super) jitter_ms: BothWays<f64>,
    pub(super) sent: BothWays<u64>,
    pub(super) received: BothWays<u64>,
    pub(super) consent_asked: u64,
    pub(super) consent_answered: u64,
    /// Packets of the call on the cloud's link: as many as its ends sent and heard, or the captures are not to be
    /// believed.
    pub(super) on_cloud_link: BothWays<usize>,
}

impl Measure {
    /// Reads what the captures hold of a call that has ended.
    pub(super) fn of(call: &Recording, setting: Setting, captures: &Captures) -> Self {
        let seen = captures.since(call.started, |_| true);
        let carries = |ssrc| move |s: &&Sighting| s.packet.content == Content::Rtp { ssrc };
        let ssrcs = BothWays {
            up: call.ssrcs.up,
            down: call.ssrcs.down,
        };
        let count = |place: Place, interface: &str| {
            ssrcs.map(|ssrc| {
                let there = |s: &&Sighting| s.place == place && *s.interface == *interface;
                // A router has each packet once in and once out, on different interfaces.
                seen.iter().filter(carries(ssrc)).filter(there).count()
            })
        };
        let on_home_link = |s: &&Sighting| s.place == Place::Home && *s.interface == *"lan";
        let in_clear = count(Place::Home, "lan");
        let wireguard: Vec<_> = seen
            .iter()
            .filter(on_home_link)
            .filter(|s| s.packet.content == Content::WireGuard)
            .collect();
        let from_laptop: BTreeSet<Dscp> = if in_clear.up > 0 {
            let media = seen.iter().filter(on_home_link).filter(carries(ssrcs.up));
            media.map(|s| s.packet.dscp).collect()
        } else {
            let up = wireguard.iter().filter(|s| !s.outgoing);
            up.map(|s| s.packet.dscp).collect()
        };
        let legs = BothWays {
            up: &call.server,
            down: &call.caller,
        };
        let arrived = |leg: &Leg| {
            leg.heard
                .as_ref()
                .map_or(0, crate::call::RtpStream::received)
        };
        let round_trips = &call.caller.round_trips;
        let quantile = |q| millis(Duration::from_micros(round_trips.value_at_quantile(q)));
        Self {
            setting,
            family: call.family,
            path: path(&seen, ssrcs.up),
            in_clear,
            at_gateway: count(Place::Gateway, "eth0"),
            wireguard: wireguard.len(),
            dscp: from_laptop.into_iter().map(Dscp::value).collect(),
            seen_from: call.caller.mapped.map(|mapped| mapped.addr),
            round_trip_ms: (!round_trips.is_empty()).then(|| Quantiles {
                p50: quantile(0.5),
                p99: quantile(0.99),
            }),
            jitter_ms: legs.map(|leg| {
                leg.heard
                    .as_ref()
                    .map_or(0.0, |stream| millis(stream.jitter()))
            }),
            sent: BothWays {
                up: call.caller.sent,
                down: call.server.sent,
            },
            received: legs.map(arrived),
            consent_asked: call.caller.asked,
            consent_answered: call.caller.answered,
            on_cloud_link: count(Place::Cloud, "eth0"),
        }
    }

    /// Whose address it is that the cloud sees.
    pub(super) fn seen_from_whom(&self) -> &'static str {
        let whose = [
            (GATEWAY, "VPN gateway"),
            (TUNNEL, "in the VPN"),
            (HOME, "home router"),
            (LAPTOP, "at home"),
        ];
        let found = whose
            .iter()
            .find(|(host, _)| Some(host.of(self.family)) == self.seen_from);
        found.map_or("unknown", |(_, name)| name)
    }

    /// The packets that did not arrive.
    pub(super) fn lost(&self) -> BothWays<u64> {
        BothWays {
            up: self.sent.up.saturating_sub(self.received.up),
            down: self.sent.down.saturating_sub(self.received.down),
        }
    }
}

/// Milliseconds, to the microsecond.
pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The interface by which the stream leaves the caller, and the hosts that it reaches, in the order of their places.
fn path(seen: &[Sighting], ssrc: u32) -> String {
    let media = |s: &Sighting| s.packet.content == Content::Rtp { ssrc };
    let tunnel = |s: &Sighting| s.packet.content == Content::WireGuard;
    let Some(first) = seen.iter().find(|s| s.place == Place::Laptop && media(s)) else {
        return "nowhere".to_owned();
    };
    let by_gateway = seen.iter().any(|s| s.place == Place::Gateway && media(s));
    let mut path = first.interface.to_string();
    for (place, name) in [
        (Place::Home, "home"),
        (Place::Gateway, "gateway"),
        (Place::Cloud, "cloud"),
    ] {
        let reaches = |what: &dyn Fn(&Sighting) -> bool| {
            let arrives = |s: &Sighting| !s.outgoing && *s.interface != *wireguard::INTERFACE;
            seen.iter()
                .any(|s| s.place == place && arrives(s) && what(s))
        };
        let arrow = match () {
            () if reaches(&media) => "→",
            () if by_gateway && reaches(&tunnel) => "⇒",
            () => continue,
        };
        path.extend([" ", arrow, " ", name]);
    }
    path
}

/// Writes a family as "IPv4" or "IPv6".
#[expect(clippy::trivially_copy_pass_by_ref, reason = "so serde calls it")]
pub(super) fn as_text<S: Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(family)
}
