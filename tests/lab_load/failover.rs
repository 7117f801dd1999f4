//! A call whose direct way fails goes on in a real VPN, and comes back: IPv4 and IPv6 at once.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::call;
use crate::support::caller::{Family, probe, udp};
use crate::support::program::PATIENCE;
use crate::support::voicelane::{CONFIG, Home, Voicelane};
use crate::support::vpn::{Vpn, VpnKind};
use crate::support::{Lab, PathTaken};
use voicelane::call::stun::{TransactionId, binding_request};

/// Where the media gateway answers checks, and sends media to whom it heard from last.
const GATEWAY_PORT: u16 = 20_002;

/// Between two datagrams of media.
const PACE: Duration = Duration::from_millis(20);

/// Between two checks: no application waits longer (RFC 7675).
const SELDOM: Duration = Duration::from_secs(5);

/// And a browser that doubts a way asks more often.
const OFTEN: Duration = Duration::from_secs(1);

/// Serves checks and media of both families.
fn serve(lab: &Lab) {
    for family in Family::BOTH {
        call::serve_checks(&lab.internet, at::MEDIA.at(family, GATEWAY_PORT));
    }
}

/// One half of a call: media and checks on one socket, and the longest time without an answer.
struct Caller {
    socket: UdpSocket,
    to: SocketAddr,
    next_check: Instant,
    between_checks: Duration,
    checks: u8,
    heard: Instant,
    longest_gap: Duration,
}

impl Caller {
    fn new(lab: &Lab, family: Family) -> Self {
        let socket = udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0));
        socket.set_nonblocking(true).expect("it is a socket");
        let now = Instant::now();
        Self {
            socket,
            to: at::MEDIA.at(family, GATEWAY_PORT),
            next_check: now,
            between_checks: SELDOM,
            checks: 0,
            heard: now,
            longest_gap: Duration::ZERO,
        }
    }

    fn turn(&mut self, payload: &[u8]) {
        let now = Instant::now();
        if self.next_check <= now {
            self.next_check = now + self.between_checks;
            self.checks += 1;
            self.send(&binding_request(TransactionId([self.checks; 12])));
        }
        self.send(payload);
        let mut buffer = [0; 2_048];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok(_) => self.heard = Instant::now(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the application was told of {error}"),
            }
        }
        self.longest_gap = self.longest_gap.max(self.heard.elapsed());
    }

    fn send(&self, payload: &[u8]) {
        self.socket
            .send_to(payload, self.to)
            .expect("there is a route into the TUN");
    }
}

/// A call of both families.
struct Call {
    lab: Lab,
    voicelane: Voicelane,
    vpn: Vpn,
    callers: [Caller; 2],
}

impl Call {
    fn start(kind: VpnKind) -> Self {
        let lab = Lab::new();
        serve(&lab);
        let vpn = lab.start_vpn(kind);
        let config = format!("{CONFIG}\n[failover]\nretry_seconds = 2\n");
        let voicelane = Home::new(&lab.laptop, &config).start();
        let callers = Family::BOTH.map(|family| Caller::new(&lab, family));
        let mut call = Self {
            lab,
            voicelane,
            vpn,
            callers,
        };
        call.talk(Duration::from_secs(1));
        call.assert_way(PathTaken::Direct);
        call
    }

    /// Talks for a while, and answers the longest time in which a caller heard nothing.
    fn talk(&mut self, duration: Duration) -> Duration {
        let end = Instant::now() + duration;
        for caller in &mut self.callers {
            caller.longest_gap = Duration::ZERO;
        }
        while Instant::now() < end {
            for caller in &mut self.callers {
                caller.turn(&[0x80, 0, 1, 2]);
            }
            thread::sleep(PACE);
        }
        let gaps = self.callers.iter().map(|caller| caller.longest_gap);
        gaps.max().unwrap_or_default()
    }

    /// The way of one datagram of each family, when it is the same.
    fn path(&mut self) -> Option<PathTaken> {
        let payloads = self.callers.each_mut().map(|caller| {
            let payload = probe();
            caller.turn(payload.as_bytes());
            payload
        });
        let [v4, v6] = payloads.map(|payload| self.lab.settled_path(&payload));
        (v4 == v6).then_some(v4)
    }

    /// In the VPN a datagram has the address of the VPN, and its marks all the same.
    fn assert_way(&mut self, path: PathTaken) {
        assert_eq!(self.path(), Some(path), "{}", self.voicelane.status());
        if path == PathTaken::Tunnel {
            let interface = &self.vpn.gateway_interface;
            for family in Family::BOTH {
                let to = at::MEDIA.at(family, GATEWAY_PORT);
                let frames = self
                    .lab
                    .on_gateway
                    .frames(|frame| frame.interface == *interface && frame.goes_to(to));
                let frame = frames.last().expect("it was just seen");
                assert_eq!(frame.headers.from, at::VPN_LAPTOP.of(family), "{frame:?}");
                assert_eq!(frame.headers.dscp(), 46, "{frame:?}");
            }
        }
    }

    fn await_way(&mut self, path: PathTaken) {
        let deadline = Instant::now() + PATIENCE * 2;
        while self.path() != Some(path) {
            assert!(Instant::now() < deadline, "{}", self.voicelane.status());
            self.talk(Duration::from_millis(200));
        }
    }

    /// How often calls fell, or came back, for a reason.
    fn count(&self, which: &str, reason: &str) -> u64 {
        let status = self.voicelane.status();
        status["status"]["failover"][which][reason]
            .as_u64()
            .unwrap_or(0)
    }
}

/// Drops media at a hook of a namespace, silently for who is not on it.
fn forbid(namespace: &crate::support::namespace::Namespace, hook: &str, interface: &str) {
    namespace.nft(&format!(
        "add table inet forbids
         add chain inet forbids media {{ type filter hook {hook} priority 0; }}
         add rule inet forbids media {interface} udp dport {GATEWAY_PORT} drop"
    ));
}

fn allow(namespace: &crate::support::namespace::Namespace) {
    namespace.nft("delete table inet forbids");
}

/// The home router drops media without a word, and later carries it again.
fn silence_costs_less_than_three_seconds(kind: VpnKind) {
    let mut call = Call::start(kind);
    forbid(&call.lab.home, "forward", "iifname lan0");
    let gap = call.talk(Duration::from_secs(4));
    assert!(
        gap < Duration::from_secs(3),
        "the call was silent for {gap:?}"
    );
    call.assert_way(PathTaken::Tunnel);
    assert_eq!(
        call.count("failovers", "no_traffic"),
        2,
        "once in each family"
    );
    // Trials bring nobody back as long as nobody answers them.
    for caller in &mut call.callers {
        (caller.between_checks, caller.next_check) = (OFTEN, Instant::now());
    }
    let gap = call.talk(Duration::from_secs(4));
    assert!(gap < Duration::from_millis(500), "{gap:?}");
    call.assert_way(PathTaken::Tunnel);
    assert_eq!(call.count("failbacks", "probes_answered"), 0);

    allow(&call.lab.home);
    call.await_way(PathTaken::Direct);
    let gap = call.talk(Duration::from_secs(3));
    assert!(gap < Duration::from_millis(500), "coming back cost {gap:?}");
    call.assert_way(PathTaken::Direct);
    assert_eq!(call.count("failbacks", "probes_answered"), 2);
    assert_eq!(call.count("failovers", "no_traffic"), 2, "no flapping");
    call.voicelane.stop();
}

#[test]
fn a_dead_path_costs_less_than_three_seconds_with_wg_quick() {
    silence_costs_less_than_three_seconds(VpnKind::WgQuick);
}

#[test]
fn a_dead_path_costs_less_than_three_seconds_with_openvpn() {
    silence_costs_less_than_three_seconds(VpnKind::OpenVpnReplaced);
}

#[test]
fn a_local_firewall_causes_an_immediate_failover() {
    let mut call = Call::start(VpnKind::WgQuick);
    forbid(&call.lab.laptop, "output", "oifname wlan0");
    let gap = call.talk(Duration::from_secs(1));
    assert!(gap < Duration::from_millis(500), "{gap:?}");
    call.assert_way(PathTaken::Tunnel);
    assert_eq!(call.count("failovers", "refused"), 2, "at once");
    assert_eq!(call.voicelane.drops("outbound", "send_failed"), 0);
    assert!(call.voicelane.warnings().contains("EPERM"));
    // Strict filters of the way back keep no answer from the VPN out.
    call.lab.laptop.set("ipv4/conf/all/rp_filter", "1");
    let gap = call.talk(Duration::from_secs(1));
    assert!(gap < Duration::from_millis(500), "{gap:?}");
    call.voicelane.stop();
}

#[test]
fn a_router_that_rejects_causes_a_failover() {
    let mut call = Call::start(VpnKind::WgQuick);
    // A router that says no each time: Linux says it once a second.
    call.lab.home.set("ipv4/icmp_ratelimit", "0");
    call.lab.home.set("ipv6/icmp/ratelimit", "0");
    call.lab.home.nft(&format!(
        "add table inet forbids
         add chain inet forbids media {{ type filter hook forward priority 0; }}
         add rule inet forbids media iifname lan0 udp dport {GATEWAY_PORT} reject with icmpx admin-prohibited"
    ));
    let gap = call.talk(Duration::from_secs(2));
    assert!(gap < Duration::from_millis(1_500), "{gap:?}");
    call.assert_way(PathTaken::Tunnel);
    assert_eq!(call.count("failovers", "unreachable"), 2);
    call.voicelane.stop();
}

/// The peer hears nothing, though its own media arrives. The application's next check is more than 2 s away.
fn one_way_failure_costs_less_than_three_seconds(verdict: &str) {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = Voicelane::start(&lab.laptop);
    lab.home.set("ipv4/icmp_ratelimit", "0");
    lab.home.set("ipv6/icmp/ratelimit", "0");
    let calls = Family::BOTH
        .map(|family| call::Call::with_checks(&lab, SocketAddr::new(family.unspecified(), 0)));
    let begun = Instant::now();
    for call in &calls {
        call.resumes_after(begun, PATIENCE, "the start");
        call.await_check();
    }
    let begun = Instant::now();
    lab.home.nft(&format!(
        "add table inet forbids
         add chain inet forbids media {{ type filter hook forward priority 0; }}
         add rule inet forbids media iifname lan0 udp dport {} {verdict}",
        call::PORT
    ));
    thread::sleep(Duration::from_secs(4));
    for (call, family) in calls.iter().zip(Family::BOTH) {
        let [out, back] = call.gaps_since(begun);
        println!("{family}, {verdict}: silent for {out:?} outward, {back:?} back");
        assert!(out < Duration::from_secs(3), "{family}: {out:?}");
        assert!(back < Duration::from_millis(500), "{family}: {back:?}");
    }
    voicelane.stop();
}

#[test]
fn upward_loss_costs_less_than_three_seconds_while_media_arrives() {
    one_way_failure_costs_less_than_three_seconds("drop");
}

#[test]
fn a_router_that_rejects_upward_media_costs_less_than_three_seconds() {
    one_way_failure_costs_less_than_three_seconds("reject with icmpx admin-prohibited");
}

#[test]
fn without_failover_a_call_stays_direct() {
    let lab = Lab::new();
    serve(&lab);
    let vpn = lab.start_vpn(VpnKind::WgQuick);
    let config = format!("{CONFIG}\n[failover]\nto = \"none\"\n");
    let voicelane = Home::new(&lab.laptop, &config).start();
    let callers = Family::BOTH.map(|family| Caller::new(&lab, family));
    let mut call = Call {
        lab,
        voicelane,
        vpn,
        callers,
    };
    call.talk(Duration::from_millis(500));
    forbid(&call.lab.home, "forward", "iifname lan0");
    call.talk(Duration::from_secs(4));
    call.assert_way(PathTaken::Direct);
    call.voicelane.stop();
}
