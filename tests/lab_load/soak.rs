//! Random network events beside two running calls: each time the calls are back within three seconds, nothing else has
//! left the VPN, and in the end nothing is left over.
//!
//! `VOICELANE_SOAK_EVENTS` says how many events there are, `VOICELANE_SOAK_SEED` which ones, and `VOICELANE_SOAK_KIND`, for
//! who looks for a fault, that all are of one kind.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use crate::support::addresses as at;
use crate::support::call::Call;
use crate::support::caller::{Family, udp};
use crate::support::program::PATIENCE;
use crate::support::voicelane::{TUN, Voicelane};
use crate::support::vpn::{Vpn, VpnKind};
use crate::support::{CABLE, Lab, MEDIA_PORT, PathTaken, UPLINK};
use jiff::Timestamp;
use tempfile::TempDir;
use voicelane::control::EventKind;
use voicelane::lab::FrameCapture;
use voicelane::lab::{FrameDirection, FrameTransport};

/// How many events there are when nobody says otherwise: what CI has time for.
const FEW: u32 = 40;

/// How long a call may be gone.
const LONGEST_LOSS: Duration = Duration::from_secs(3);

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    CarrierOfWifi,
    CarrierOfCable,
    WifiSetDown,
    BothLost,
    RulesFlushed,
    RoutesFlushed,
    ForeignRule,
    VpnRestarted,
    AddressChanged,
    LeaseRenewed,
    MetricsChanged,
}

use Happening::{
    AddressChanged, BothLost, CarrierOfCable, CarrierOfWifi, ForeignRule, LeaseRenewed,
    MetricsChanged, RoutesFlushed, RulesFlushed, VpnRestarted, WifiSetDown,
};

const ALL: [Happening; 11] = [
    CarrierOfWifi,
    CarrierOfCable,
    WifiSetDown,
    BothLost,
    RulesFlushed,
    RoutesFlushed,
    ForeignRule,
    VpnRestarted,
    AddressChanged,
    LeaseRenewed,
    MetricsChanged,
];

/// splitmix64: every seed gives a course of its own, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let below = (mixed ^ mixed >> 31) % u64::from(bound);
        u32::try_from(below).expect("it is below one")
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        let bound = u32::try_from(all.len()).expect("a short list");
        all[self.below(bound) as usize]
    }

    fn wait(&mut self, most: u32) {
        sleep(Duration::from_millis(self.below(most).into()));
    }
}

/// The laptop's world as the course has left it.
struct World {
    lab: Lab,
    vpn: Vpn,
    /// The VPN's configuration, as `wg-quick` takes it.
    config: PathBuf,
    _files: TempDir,
    /// The Wi-Fi's IPv4 address now.
    wifi: String,
    /// Whether the Wi-Fi's routes come first.
    prefers_wifi: bool,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new();
        lab.plug_in();
        let vpn = lab.start_vpn(VpnKind::WgQuick);
        let files = TempDir::new().expect("the temporary directory is writable");
        let config = files.path().join(format!("{}.conf", vpn.interface));
        let running = lab.laptop.run(&format!("wg showconf {}", vpn.interface));
        let own = at::VPN_LAPTOP;
        let addresses = format!("[Interface]\nAddress = {}/32, {}/128", own.v4, own.v6);
        // The mark is wg-quick's to set.
        let lines = running.lines().filter(|line| !line.starts_with("FwMark"));
        let lines: Vec<_> = lines.collect();
        let text = lines.join("\n").replacen("[Interface]", &addresses, 1);
        fs::write(&config, text).expect("the directory is ours");
        Self {
            lab,
            vpn,
            config,
            _files: files,
            wifi: at::LAPTOP.v4.to_string(),
            prefers_wifi: false,
        }
    }

    /// Lets it happen, to its end: what follows is for voicelane to deal with.
    fn undergo(&mut self, happening: Happening, random: &mut Random) {
        let (laptop, home) = (&self.lab.laptop, &self.lab.home);
        match happening {
            CarrierOfWifi | CarrierOfCable | BothLost => {
                let links: &[&str] = match happening {
                    CarrierOfWifi => &["lan0"],
                    CarrierOfCable => &["lan1"],
                    _ => &["lan0", "lan1"],
                };
                for link in links {
                    home.ip(&format!("link set {link} down"));
                }
                random.wait(800);
                for link in links {
                    home.ip(&format!("link set {link} up"));
                }
            }
            WifiSetDown => {
                laptop.ip("link set wlan0 down");
                random.wait(500);
                laptop.ip("link set wlan0 up");
                self.route_wifi();
            }
            RulesFlushed => {
                for family in ["-4", "-6"] {
                    laptop.run(&format!("ip {family} rule flush protocol 118"));
                }
            }
            RoutesFlushed => {
                for table in [30316, 30317, 30318] {
                    // A table without routes is no table, to IPv6.
                    let v6 = format!("ip -6 route flush table {table} || true");
                    laptop.run(&format!("ip -4 route flush table {table}"));
                    laptop.run_with("sh", &v6);
                }
            }
            ForeignRule => {
                laptop.ip("rule add to 198.18.0.0/15 lookup 77");
                random.wait(300);
                laptop.ip("rule del to 198.18.0.0/15 lookup 77");
            }
            VpnRestarted => {
                for verb in ["down", "up"] {
                    laptop.run(&format!("wg-quick {verb} {}", self.config.display()));
                }
            }
            AddressChanged => {
                let next = format!("192.168.7.{}", 20 + random.below(200));
                if next != self.wifi {
                    laptop.ip(&format!("addr del {}/24 dev {UPLINK}", self.wifi));
                    random.wait(300);
                    laptop.ip(&format!("addr add {next}/24 dev {UPLINK}"));
                    self.wifi = next;
                    self.route_wifi();
                }
            }
            LeaseRenewed => laptop.ip(&format!(
                "addr change {}/24 dev {UPLINK} valid_lft 3600 preferred_lft 3600",
                self.wifi
            )),
            MetricsChanged => {
                self.prefers_wifi = !self.prefers_wifi;
                self.route_wifi();
            }
        }
    }

    /// What a network manager does when the Wi-Fi is there: addresses that are missing, routes in their order.
    fn route_wifi(&self) {
        let (v4, v6) = (at::HOME.v4, at::HOME.v6);
        let metric = if self.prefers_wifi { 50 } else { 600 };
        let own = at::LAPTOP.v6;
        self.lab.laptop.run_with(
            "sh",
            &format!(
                "for f in -4 -6; do for m in 50 600; do
                     ip $f route del default dev {UPLINK} metric $m 2>/dev/null
                 done; done
                 ip addr replace {own}/64 dev {UPLINK} nodad
                 ip route add default via {v4} dev {UPLINK} metric {metric}
                 ip route add ::/0 via {v6} dev {UPLINK} metric {metric}"
            ),
        );
    }

    /// What a person would look at.
    fn view(&self) -> String {
        let (laptop, home) = (&self.lab.laptop, &self.lab.home);
        let mut view = String::new();
        for (namespace, lines) in [(laptop, "laptop"), (home, "home")].map(|(it, name)| {
            let lines = [
                "ip addr",
                "ip neigh",
                "ip -4 route",
                "ip -6 route",
                "ip -4 rule",
                "ip -6 rule",
            ];
            (it, lines.map(|line| (name, line)))
        }) {
            for (name, line) in lines {
                let output = namespace.run(line);
                view.extend(["--- ", name, ": ", line, "\n", &output]);
            }
        }
        // Of each interface the last frames: a call's alone would push out who asked for whom before it.
        for interface in [UPLINK, CABLE, TUN, &self.vpn.interface] {
            let frames = self
                .lab
                .on_laptop
                .frames(|frame| frame.interface == interface);
            let last = frames.len().saturating_sub(25);
            let frames = format!("--- {interface}: {:#?}\n", &frames[last..]);
            view.push_str(&frames);
        }
        let asked = self.lab.on_laptop.frames(|frame| {
            let is_icmp = matches!(frame.headers.transport, FrameTransport::Icmp(..));
            is_icmp && frame.headers.to.is_ipv6()
        });
        view + &format!("--- neighbours: {asked:#?}")
    }

    /// What a person would want to know besides.
    fn account(&self, voicelane: &Voicelane) -> String {
        let view = self.view();
        let (status, events) = (voicelane.status(), voicelane.events());
        let events = &events[events.len().saturating_sub(30)..];
        format!("{view}\n{status:#}\n{events:#?}")
    }

    /// What must be so after each event, beside the calls: media is outside the VPN again, what is no media is in it,
    /// and nothing but media to the media server is marked.
    fn assert_order(&self, what: &str, end: Instant, voicelane: &Voicelane) {
        let sockets = Family::BOTH.map(|family| {
            let any = SocketAddr::new(family.unspecified(), 0);
            (family, udp(&self.lab.laptop, any))
        });
        for (family, socket) in &sockets {
            let media = at::MEDIA.at(*family, MEDIA_PORT);
            while self.lab.path_from(socket, media) != PathTaken::Direct {
                let after = end.elapsed();
                if after > LONGEST_LOSS {
                    let now = Timestamp::now();
                    let account = self.account(voicelane);
                    panic!(
                        "{what}: media of {family:?} is in the VPN after {after:?}, {now}\n{account}"
                    );
                }
            }
        }
        // The VPN may need a moment for itself; what it does not carry yet must not be anywhere.
        for (family, socket) in &sockets {
            let other = at::OTHER.at(*family, 53);
            let path = (0..20).map(|_| self.lab.path_from(socket, other));
            let path = { path }.find(|path| *path != PathTaken::Neither);
            assert_eq!(path, Some(PathTaken::Tunnel), "{what}: {family:?}");
        }
        let leaks = self.lab.on_laptop.frames(|frame| {
            let headers = &frame.headers;
            let physical = [UPLINK, CABLE].contains(&frame.interface.as_str());
            let media = Family::BOTH.map(|family| at::MEDIA.of(family));
            physical
                && frame.direction == FrameDirection::Out
                && headers.dscp() == 46
                && !(media.contains(&headers.to)
                    && matches!(headers.transport, FrameTransport::Udp(..)))
        });
        assert!(leaks.is_empty(), "{what}: {leaks:#?}");
    }
}

fn number<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

#[test]
fn calls_survive_random_network_events() {
    let events = number("VOICELANE_SOAK_EVENTS", FEW);
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let fresh = clock.expect("after 1970").as_secs();
    let seed = number("VOICELANE_SOAK_SEED", fresh);
    println!("{events} events; VOICELANE_SOAK_SEED={seed}");
    let kind = env::var("VOICELANE_SOAK_KIND").ok();
    let mut kinds = ALL.to_vec();
    kinds.retain(|it| kind.as_ref().is_none_or(|kind| *kind == format!("{it:?}")));
    let mut random = Random(seed);

    let mut world = World::new();
    let before = world.lab.laptop.dump();
    let voicelane = Voicelane::start(&world.lab.laptop);
    let calls = Family::BOTH
        .map(|family| Call::start(&world.lab, SocketAddr::new(family.unspecified(), 0)));
    for call in &calls {
        call.resumes_after(Instant::now(), PATIENCE, "the start");
    }
    let descriptors = || {
        let open = fs::read_dir(format!("/proc/{}/fd", voicelane.pid()));
        open.expect("the service runs").count()
    };
    let (memory, files) = (voicelane.memory(), descriptors());
    let mut losses = BTreeMap::<Happening, Vec<Duration>>::new();
    for turn in 0..events {
        // A witness remembers everything: a new one for each event.
        world.lab.on_laptop = FrameCapture::start(&world.lab.laptop).expect("root may capture");
        world.lab.on_gateway = FrameCapture::start(&world.lab.gateway).expect("root may capture");
        let happening = random.pick(&kinds);
        let what = format!("event {turn} of seed {seed}, {happening:?}");
        world.undergo(happening, &mut random);
        let end = Instant::now();
        let back = calls.iter().zip(Family::BOTH).map(|(call, family)| {
            call.try_resumes_after(end, LONGEST_LOSS)
                .unwrap_or_else(|how| {
                    let now = Timestamp::now();
                    let account = world.account(&voicelane);
                    panic!("{what}: {family:?}: {how}, {now}\n{account}")
                })
        });
        let back = back.max().unwrap_or_default();
        losses.entry(happening).or_default().push(back);
        world.assert_order(&what, end, &voicelane);
        random.wait(300);
    }
    for (happening, losses) in &mut losses {
        losses.sort();
        println!(
            "{happening:?}: {} times, calls back after {:?} in the middle, {:?} at most",
            losses.len(),
            losses[losses.len() / 2],
            losses[losses.len() - 1]
        );
    }
    let grown = voicelane.memory().saturating_sub(memory) >> 10;
    println!(
        "memory {memory} + {grown} KiB, descriptors {files} then {}",
        descriptors()
    );
    assert!(grown < 16 << 10, "{grown} KiB more");
    // A mapping is a descriptor, and one lives for five minutes.
    assert!(descriptors() < files + 4 * events as usize + 16);
    println!("failover: {}", voicelane.status()["status"]["failover"]);
    let contests = voicelane.events().into_iter();
    let contests = contests.filter(|event| event.kind == EventKind::RulesContested);
    assert_eq!(contests.count(), 0, "nobody fought");

    drop(calls);
    voicelane.stop();
    let left: Vec<_> = world.lab.laptop.changes_since(&before);
    let ours = ["proto 118", "protocol 118", TUN, "rp_filter", "3031"];
    let left: Vec<_> = left
        .iter()
        .filter(|line| ours.iter().any(|ours| line.contains(ours)))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
}
