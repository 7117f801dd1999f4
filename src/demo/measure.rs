//! Measurements of a call, from the captures and from the records of both ends.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::capture::{CapturePoint, Captures, PacketKind, Sighting};
use super::media::{CallLeg, CallRecording};
use super::network::{GATEWAY, HOME, LAPTOP, TUNNEL};
use super::wireguard;
use crate::net::{Dscp, Family};

/// The setting of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CallSetting {
    /// All traffic of the laptop uses the VPN.
    VpnOnly,
    /// voicelane sends media past the VPN.
    WithVoicelane,
}

impl fmt::Display for CallSetting {
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

/// Two quantiles of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// The measurements of one call.
#[derive(Debug, Serialize)]
pub(super) struct CallMeasurement {
    pub(super) setting: CallSetting,
    #[serde(serialize_with = "as_text")]
    pub(super) family: Family,
    /// The hosts on the path upwards: `⇒` leads to a host inside WireGuard, `→` in clear.
    pub(super) path: String,
    /// RTP packets of the call in clear on the home link.
    pub(super) in_clear: BothWays<usize>,
    /// RTP packets of the call that the gateway forwarded.
    pub(super) at_gateway: BothWays<usize>,
    /// WireGuard datagrams on the home link, for all calls together.
    pub(super) wireguard: usize,
    /// The DSCPs at the home router of the packets that carry the call.
    pub(super) dscp: Vec<u8>,
    /// The caller's address in the cloud's STUN answers.
    pub(super) seen_from: Option<IpAddr>,
    /// Median and 99th percentile; absent without an answer.
    pub(super) round_trip_ms: Option<Quantiles>,
    /// Interarrival jitter, RFC 3550.
    pub(super) jitter_ms: BothWays<f64>,
    pub(super) sent: BothWays<u64>,
    pub(super) received: BothWays<u64>,
    pub(super) consent_asked: u64,
    pub(super) consent_answered: u64,
    /// Packets of the call on the cloud's link. They equal what its ends sent and received, or a capture is incomplete.
    pub(super) on_cloud_link: BothWays<usize>,
}

impl CallMeasurement {
    /// Measures a call that has ended.
    pub(super) fn of(call: &CallRecording, setting: CallSetting, captures: &Captures) -> Self {
        let seen = captures.since(call.started, |_| true);
        let carries = |ssrc| move |s: &&Sighting| s.kind == PacketKind::Rtp { ssrc };
        let ssrcs = BothWays {
            up: call.ssrcs.up,
            down: call.ssrcs.down,
        };
        let count = |point: CapturePoint, interface: &str| {
            ssrcs.map(|ssrc| {
                let there = |s: &&Sighting| s.is_on(point, interface);
                // A router receives and sends each packet, on different interfaces.
                seen.iter().filter(carries(ssrc)).filter(there).count()
            })
        };
        let on_home_link = |s: &&Sighting| s.is_on(CapturePoint::Home, "lan");
        let in_clear = count(CapturePoint::Home, "lan");
        let wireguard: Vec<_> = seen
            .iter()
            .filter(on_home_link)
            .filter(|s| s.kind == PacketKind::WireGuard)
            .collect();
        let from_laptop: BTreeSet<Dscp> = if in_clear.up > 0 {
            let media = seen.iter().filter(on_home_link).filter(carries(ssrcs.up));
            media.map(Sighting::dscp).collect()
        } else {
            let up = wireguard.iter().filter(|s| !s.is_outgoing());
            up.map(|s| s.dscp()).collect()
        };
        let legs = BothWays {
            up: &call.server,
            down: &call.caller,
        };
        let arrived = |leg: &CallLeg| {
            leg.stream
                .as_ref()
                .map_or(0, |stream| stream.counts().received)
        };
        let round_trips = &call.caller.round_trips;
        let quantile = |q| millis(Duration::from_micros(round_trips.value_at_quantile(q)));
        Self {
            setting,
            family: call.family,
            path: path(&seen, ssrcs.up),
            in_clear,
            at_gateway: count(CapturePoint::Gateway, "eth0"),
            wireguard: wireguard.len(),
            dscp: from_laptop.into_iter().map(Dscp::value).collect(),
            seen_from: call.caller.mapped.map(|mapped| mapped.addr),
            round_trip_ms: (!round_trips.is_empty()).then(|| Quantiles {
                p50: quantile(0.5),
                p99: quantile(0.99),
            }),
            jitter_ms: legs.map(|leg| {
                leg.stream
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
            on_cloud_link: count(CapturePoint::Cloud, "eth0"),
        }
    }

    /// Returns the owner of the address that the cloud sees.
    pub(super) fn owner_of_source(&self) -> &'static str {
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

    /// Returns the number of packets that did not arrive.
    pub(super) fn lost(&self) -> BothWays<u64> {
        BothWays {
            up: self.sent.up.saturating_sub(self.received.up),
            down: self.sent.down.saturating_sub(self.received.down),
        }
    }
}

/// Converts to milliseconds, rounded to microseconds.
pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Returns the interface on which the stream leaves the caller, and the hosts on its path in order.
fn path(seen: &[Sighting], ssrc: u32) -> String {
    let media = |s: &Sighting| s.kind == PacketKind::Rtp { ssrc };
    let tunnel = |s: &Sighting| s.kind == PacketKind::WireGuard;
    let Some(first) = seen
        .iter()
        .find(|s| s.point == CapturePoint::Laptop && media(s))
    else {
        return "nowhere".to_owned();
    };
    let by_gateway = seen
        .iter()
        .any(|s| s.point == CapturePoint::Gateway && media(s));
    let mut path = first.frame.interface.clone();
    for (point, name) in [
        (CapturePoint::Home, "home"),
        (CapturePoint::Gateway, "gateway"),
        (CapturePoint::Cloud, "cloud"),
    ] {
        let reaches = |what: &dyn Fn(&Sighting) -> bool| {
            let arrives =
                |s: &Sighting| !s.is_outgoing() && s.frame.interface != wireguard::INTERFACE;
            seen.iter()
                .any(|s| s.point == point && arrives(s) && what(s))
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

/// Serializes a family as "IPv4" or "IPv6".
#[expect(clippy::trivially_copy_pass_by_ref, reason = "so serde calls it")]
pub(super) fn as_text<S: Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(family)
}
