//! A laptop with a VPN, voicelane and a browser, and the calls of the browser.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use voicelane::control::EventKind;
use voicelane::lab::{Frame, FrameDirection, FrameTransport, unique_number};
use voicelane_browser::chromium::{Chromium, Tab};
use voicelane_browser::peer::{Arrival, Ice, Peer, rtp_sequence};

use crate::support::addresses as at;
use crate::support::caller::Family;
use crate::support::namespace::require;
use crate::support::program::PATIENCE;
use crate::support::voicelane::{TUN, Voicelane};
use crate::support::vpn::{Vpn, VpnKind};
use crate::support::{CABLE, Lab, UPLINK};

/// EF (RFC 3246).
const EF: u8 = 46;

/// The first port of the peers, inside the media range.
const PORTS: u16 = 30_000;

/// The longest time for which the browser waits for candidates before it makes an offer.
const GATHERING: Duration = Duration::from_millis(500);

/// Everything for calls. The parts end in the order of the fields.
pub struct Stage {
    /// The service.
    pub voicelane: Voicelane,
    /// The browser.
    pub chromium: Chromium,
    /// The VPN, which runs.
    _vpn: Vpn,
    /// The network.
    pub lab: Lab,
}

impl Stage {
    /// Starts the VPN, then voicelane, then the browser.
    pub fn new(kind: VpnKind) -> Self {
        require(&[("chromium", "chromium")]);
        let lab = Lab::new();
        let vpn = lab.start_vpn(kind);
        Self {
            voicelane: Voicelane::start(&lab.laptop),
            chromium: Chromium::start(lab.laptop.name()),
            _vpn: vpn,
            lab,
        }
    }

    /// Starts another browser in place of the one that was killed.
    pub fn start_browser(&mut self) {
        self.chromium = Chromium::start(self.lab.laptop.name());
    }

    /// Calls a new peer of the media range. Returns when the browser has the answer.
    pub fn call(&self, family: Family, ice: Ice) -> Call<'_> {
        let peer = Peer::start(&self.lab.internet, endpoint(family), ice);
        self.call_with(&json!({}), peer)
    }

    /// Calls a peer from a tab of its own, with a configuration of RTCPeerConnection.
    pub fn call_with(&self, configuration: &Value, peer: Peer) -> Call<'_> {
        let tab = self.chromium.open();
        let limit = GATHERING.as_millis();
        let start = format!("offer(1, {configuration}, {limit})");
        let offer = self.chromium.evaluate(&tab, &start);
        let call = Call {
            stage: self,
            tab,
            peer,
        };
        call.answer(&offer);
        call
    }

    /// Panics if anything but the calls, the VPN and the link's own traffic left the laptop by a physical interface.
    pub fn assert_only_calls_leave(&self) {
        let others = self.lab.on_laptop.frames(|frame| {
            let Frame { headers, .. } = frame;
            let to = headers.to;
            let is_call = [at::MEDIA.v4.into(), at::MEDIA.v6.into()].contains(&to)
                && matches!(headers.transport, FrameTransport::Udp(_, PORTS..=60_000));
            leaves(frame) && !is_call && to != IpAddr::from(at::VPN_SERVER.v4) && !is_on_link(to)
        });
        assert!(
            others.is_empty(),
            "also left beside the VPN: {:#?}",
            others.iter().take(20).collect::<Vec<_>>()
        );
    }

    /// The number of the newest event.
    pub fn last_event(&self) -> u64 {
        self.voicelane.last_event()
    }

    /// Panics if an event after this one tells of a failure.
    pub fn assert_no_failure(&self, after: u64) {
        let failures = self.failures(after);
        assert!(failures.is_empty(), "{failures:#?}");
    }

    /// Returns the events of failures after this one.
    pub fn failures(&self, after: u64) -> Vec<String> {
        let is_failure = |kind: EventKind| {
            kind.is_alarming() || matches!(kind, EventKind::CallMovedToVpn | EventKind::UplinkLost)
        };
        let events = self.voicelane.events().into_iter();
        events
            .filter(|event| event.sequence > after && is_failure(event.kind))
            .map(|event| event.to_string())
            .collect()
    }
}

/// Starts four calls, one of each family to each kind of peer.
pub fn at_once(stage: &Stage) -> Vec<Call<'_>> {
    let kinds = Family::BOTH.map(|family| [Ice::Lite, Ice::Full].map(|ice| (family, ice)));
    let kinds = kinds.as_flattened().iter();
    kinds
        .map(|&(family, ice)| stage.call(family, ice))
        .collect()
}

/// An endpoint of the media range that no other peer has.
pub fn endpoint(family: Family) -> SocketAddr {
    let port = PORTS + u16::try_from(unique_number() % 20_000).expect("it is below 20,000");
    at::MEDIA.at(family, port)
}

/// A call in its tab.
pub struct Call<'a> {
    stage: &'a Stage,
    tab: Tab,
    /// The media server.
    pub peer: Peer,
}

impl Call<'_> {
    fn evaluate(&self, expression: &str) -> Value {
        self.stage.chromium.evaluate(&self.tab, expression)
    }

    fn answer(&self, offer: &Value) {
        let answer = self
            .peer
            .accept(offer.as_str().expect("an offer is a text"));
        self.evaluate(&format!("accept(1, {})", Value::from(answer)));
    }

    /// Panics unless the browser had all candidates within [`GATHERING`], none of them with the TUN's address.
    pub fn assert_gathered(&self) {
        let gathering = self.evaluate("gathering(1)");
        let sdp = gathering["sdp"].as_str().expect("a description");
        assert_eq!(gathering["state"], "complete", "{}: {sdp}", self.name());
        assert!(sdp.contains("a=candidate"), "{sdp}");
        let tun = ["192.0.0.8", "127.118.0.8"];
        assert!(!tun.iter().any(|address| sdp.contains(address)), "{sdp}");
    }

    /// Restarts ICE.
    pub fn restart_ice(&self) {
        let limit = GATHERING.as_millis();
        let offer = self.evaluate(&format!("restart(1, {limit})"));
        self.answer(&offer);
    }

    /// Ends the call by the page's script.
    pub fn hang_up(&self) {
        self.evaluate("hangUp(1)");
    }

    /// Closes the tab.
    pub fn close_tab(&self) {
        self.stage.chromium.close(&self.tab);
    }

    /// The number of frames that the browser received.
    fn received(&self) -> usize {
        let number = self.evaluate("received(1)").as_u64();
        usize::try_from(number.expect("a number")).expect("a short call")
    }

    /// Waits until both ends have received this number of further packets.
    pub fn exchange(&self, number: usize) {
        let received = || [self.peer.arrivals().len(), self.received()];
        let before = received();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = received();
            if (0..2).all(|end| now[end] >= before[end] + number) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{}: at peer and browser {before:?} packets, then {now:?}, not {number} more; ICE: {}",
                self.name(),
                self.evaluate("states(1)")
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Names the call in a message.
    pub fn name(&self) -> String {
        format!("{} {}", self.peer.kind(), self.peer.endpoint())
    }

    /// Panics unless the browser's statistics tell of voice both ways without loss (W3C webrtc-stats).
    pub fn assert_statistics(&self) {
        let statistics = self.evaluate("statistics(1)");
        let statistics = statistics.as_array().expect("a list");
        let number = |kind: &str, key: &str| {
            let entry = statistics.iter().find(|entry| entry["type"] == kind);
            let value = entry.and_then(|entry| entry[key].as_i64());
            value.unwrap_or_else(|| panic!("{}: no {kind}.{key}: {statistics:#?}", self.name()))
        };
        let sent = number("outbound-rtp", "packetsSent");
        let received = number("inbound-rtp", "packetsReceived");
        let lost = number("inbound-rtp", "packetsLost");
        assert!(
            sent >= 100 && received >= 100 && lost == 0,
            "{}: {sent} packets sent, {received} received, {lost} lost",
            self.name()
        );
    }

    /// Panics unless every packet took the direct path, marked and without loss, since the first one.
    pub fn assert_direct(&self) {
        let (name, endpoint) = (self.name(), self.peer.endpoint());
        let family = Family::of(endpoint.ip());
        let home = at::HOME_PUBLIC.of(family);
        let arrivals = self.peer.arrivals();
        let elsewhere = arrivals.iter().position(|it| it.from.ip() != home);
        assert!(
            !arrivals.is_empty() && elsewhere.is_none(),
            "{name}: of {} packets, packet {elsewhere:?} came another way: {:#?}",
            arrivals.len(),
            sources(&arrivals)
        );
        let wire = self.stage.lab.on_laptop.frames(|frame| {
            [UPLINK, CABLE].contains(&frame.interface.as_str()) && is_voice(frame, endpoint)
        });
        let out = wire
            .iter()
            .filter(|frame| frame.direction == FrameDirection::Out);
        let (marked, unmarked): (Vec<_>, Vec<_>) =
            out.partition(|frame| frame.headers.dscp() == EF);
        assert!(
            unmarked.is_empty() && marked.len() >= arrivals.len(),
            "{name}: {} marked packets, unmarked: {unmarked:#?}",
            marked.len()
        );
        let tunnel = self
            .stage
            .lab
            .on_gateway
            .frames(|frame| is_voice(frame, endpoint));
        assert!(
            tunnel.is_empty(),
            "{name}: {} packets in the VPN, the first: {:?}",
            tunnel.len(),
            tunnel[0]
        );
        let rejected = self.peer.rejected();
        let arrived = arrivals.iter().chain(&rejected);
        let arrived: BTreeSet<_> = arrived.map(|it| it.sequence).collect();
        let entered = self.stage.lab.on_laptop.frames(|frame| {
            frame.interface == TUN
                && frame.direction == FrameDirection::Out
                && frame.goes_to(endpoint)
        });
        let entered: BTreeSet<_> = entered
            .iter()
            .filter_map(|frame| rtp_sequence(frame.udp_payload()))
            .collect();
        let last = arrivals[arrivals.len() - 1].sequence;
        // What was sent while the peer ended is not lost.
        let lost = entered.difference(&arrived);
        let lost: Vec<_> = lost
            .filter(|number| last.wrapping_sub(**number) < 0x8000)
            .collect();
        if lost.is_empty() {
            return;
        }
        let is_lost = |frame: &&Frame| {
            rtp_sequence(frame.udp_payload()).is_some_and(|number| lost.contains(&&number))
        };
        let left: Vec<_> = wire.iter().filter(is_lost).collect();
        let drops = &self.stage.voicelane.status()["status"]["outbound"]["drops"];
        panic!(
            "{name}: {} of {} packets were lost, {} of them past the uplink; dropped by voicelane: {drops}; {:#?}",
            lost.len(),
            entered.len(),
            left.len(),
            left.iter().take(3).collect::<Vec<_>>()
        );
    }
}

/// Where packets came from, with the number of packets in a row.
fn sources(arrivals: &[Arrival]) -> Vec<(SocketAddr, usize)> {
    let runs = arrivals.chunk_by(|a, b| a.from == b.from);
    runs.map(|run| (run[0].from, run.len())).collect()
}

/// Whether a packet carries RTP or RTCP from or to the endpoint (RFC 7983 section 7).
fn is_voice(frame: &Frame, endpoint: SocketAddr) -> bool {
    let (from, to) = frame.headers.ports().unwrap_or_default();
    let ends = [(frame.headers.from, from), (frame.headers.to, to)];
    ends.contains(&(endpoint.ip(), endpoint.port()))
        && matches!(frame.udp_payload().first(), Some(128..=191))
}

/// Whether the laptop sent a packet by a physical interface.
pub fn leaves(frame: &Frame) -> bool {
    frame.direction == FrameDirection::Out && [UPLINK, CABLE].contains(&frame.interface.as_str())
}

/// Whether an address is that of a neighbour: the router, or a group on the link.
fn is_on_link(to: IpAddr) -> bool {
    let router = [at::HOME, at::HOME_CABLE].iter();
    let router = router
        .flat_map(|home| [home.v4.into(), home.v6.into()])
        .any(|home: IpAddr| home == to);
    router || to.is_multicast() || matches!(to, IpAddr::V6(to) if to.is_unicast_link_local())
}
