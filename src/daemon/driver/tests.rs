//! A whole driver over sockets of a namespace of its own, and a device that is a pair of sockets.

use std::net::{IpAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::config::Config;
use crate::nat;
use crate::net::{Endpoint, Fwmark, TrafficClass};
use crate::relay::Binder;
use crate::tun::Memory;
use crate::wire::udp;

const POLICY: &str = "version = 1\ninclude = []\n[[service]]\nname = 'media'\ndescription = 'of this test'\nrole = 'media'\n\
                      protocol = 'udp'\nprefixes = ['198.18.0.0/24', '2001:db8:18::/64']\nports = [3478]\n\
                      allow_special_purpose = true\nsource = 'made up'\n";

const SERVERS: [&str; 2] = ["198.18.0.1", "2001:db8:18::1"];

/// Many more than a wake-up opens sockets for, and no more than a wake-up takes from the TUN.
const CALLS: u16 = 60;

/// A server on the first link, and another link on which nobody is.
const LINKS: &str = "ip link set lo up; ip addr add 198.18.0.1/32 dev lo; ip addr add 2001:db8:18::1/128 dev lo nodad
    ip link add other arp off type veth peer name far; ip link set far up; ip link set other up
    ip addr add 192.0.2.9/24 dev other; ip addr add 2001:db8:99::9/64 dev other nodad
    ip route add 198.18.0.0/24 dev other; ip route add 2001:db8:18::/64 dev other
    echo 512 > /proc/sys/net/unix/max_dgram_qlen";

fn uplink(device: &str) -> Binders {
    Binders::new(|_| {
        Some(Binder {
            device: device.to_owned(),
            addresses: Vec::new(),
            mark: Fwmark(0x7600_0000),
            tunnel_mark: Fwmark(0x7700_0000),
        })
    })
}

fn driver() -> (Driver<Memory>, UnixDatagram) {
    let config = Config::parse("policy", POLICY).expect("a valid policy");
    let day = "2026-01-01".parse().expect("a date");
    let policy = Arc::new(Policy::compile(&config, day));
    let (device, application) = Memory::new().expect("a pair of sockets");
    let relay = Relay::new().expect("an epoll set");
    relay.watch(DEVICE, &device).expect("room in it");
    let sockets = (relay, Connections::new().expect("another"));
    let state = tempfile::tempdir().expect("a directory");
    let mut driver = Driver::new(
        Engine::new(policy, nat::Settings::default()),
        device,
        sockets,
        Situation::of_tun("voicelane0"),
        Arc::new(Notify::new()),
        Events::open(state.path()),
    );
    driver.follow(uplink("lo"), Moves::new(|_| true), Instant::now());
    (driver, application)
}

/// Each call's application sends.
fn all_speak(application: &UnixDatagram) {
    for number in 0..CALLS {
        let is_v6 = number % 2 == 1;
        let [inside, server] = if is_v6 {
            ["fd00:8::2", SERVERS[1]]
        } else {
            ["10.8.0.2", SERVERS[0]]
        };
        let at =
            |addr: &str, port| Endpoint::new(addr.parse::<IpAddr>().expect("an address"), port);
        let headers = udp::Headers {
            source: at(inside, 20_000 + number),
            destination: at(server, 3478),
            traffic_class: TrafficClass::default(),
            hop_limit: 64,
        };
        let mut packet = Vec::new();
        udp::write_datagram(&mut packet, &headers, b"media").expect("a datagram");
        application.send(&packet).expect("room in the device");
    }
}

/// Wakes up until nothing is left in the TUN, and answers how many packets each wake-up sent.
fn carry(driver: &mut Driver<Memory>) -> Vec<u64> {
    let mut sent = Vec::new();
    loop {
        let found = driver.relay.wait(Some(Duration::ZERO)).expect("a set");
        if !found.has(DEVICE) {
            return sent;
        }
        let now = Instant::now();
        let packets = |driver: &Driver<Memory>| driver.engine.snapshot(now).counters.packets_out;
        let before = packets(driver);
        driver.wake(found, now).expect("the device is there");
        sent.push(packets(driver) - before);
    }
}

#[test]
fn a_wake_up_opens_few_sockets_and_nothing_leaves_by_a_former_uplink() {
    let test = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("namespaces need root: run the tests as root");
        let links = Command::new("sh").args(["-ec", LINKS]).status();
        assert!(links.expect("sh runs").success(), "is iproute2 installed?");
        let servers = SERVERS.map(|server| UdpSocket::bind((server, 3478)).expect("it is free"));
        let heard = || -> usize {
            let counts = servers.each_ref().map(|server| {
                server.set_nonblocking(true).expect("a socket");
                std::iter::from_fn(|| server.recv(&mut [0; 64]).ok()).count()
            });
            counts.iter().sum()
        };
        let (mut driver, application) = driver();
        let calls = usize::from(CALLS);
        all_speak(&application);
        let sent = carry(&mut driver);
        let few = |sent: &u64| *sent <= SOCKETS as u64;
        assert!(sent.iter().all(few), "{sent:?}");
        assert_eq!(heard(), calls);
        all_speak(&application);
        assert_eq!(carry(&mut driver), [u64::from(CALLS)], "they have theirs");
        assert_eq!(heard(), calls);

        driver.follow(uplink("other"), Moves::new(|_| true), Instant::now());
        all_speak(&application);
        let sent = carry(&mut driver);
        assert!(sent.len() > 1, "who needs a socket waits in the TUN");
        assert_eq!(sent.iter().sum::<u64>(), u64::from(CALLS));
        assert_eq!(heard(), 0, "by the former uplink");
        assert_eq!(driver.troubles.counts().len(), 0);
    };
    thread::spawn(test).join().expect("the test went well");
}
