//! Sizes, with the kernel's own idea of the path: what does not fit comes back with the right MTU, or goes in fragments.

use std::net::{IpAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::media::{policy, relay_on};
use crate::support::netns::{in_namespace, run};

use voicelane::engine::{Engine, Outbox, SocketCommand as Order};
use voicelane::nat::NatSettings;
use voicelane::net::{Endpoint, Family, TrafficClass};
use voicelane::relay::{Received, UdpRelay};
use voicelane::wire::{IcmpError, Packet, Transport, fragment, udp};

/// Inside endpoint, the uplink's own address, the far side's; per family.
const FAMILIES: [[&str; 3]; 2] = [
    ["10.8.0.2", "192.0.2.1", "198.18.0.1"],
    ["fd00:8::2", "2001:db8:2::1", "2001:db8:18::1"],
];

/// The far side: a namespace behind a router that lives as long as a process in it.
struct Far(Child);

impl Far {
    /// Joins this namespace to a far one by `up0`: the router's link to the far address carries `mtu` bytes.
    fn behind_a_router(mtu: u32) -> Self {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare runs: install util-linux");
        let far = Self(child);
        let own = run("readlink /proc/self/ns/net");
        let deadline = Instant::now() + Duration::from_secs(10);
        while far.run("readlink /proc/self/ns/net") == own {
            assert!(Instant::now() < deadline, "unshare made no namespace");
        }
        run(&format!(
            "ip link add up0 type veth peer name down0 netns {}
             ip link set up0 up
             ip addr add 192.0.2.1/24 dev up0; ip addr add 2001:db8:2::1/64 dev up0 nodad",
            far.0.id()
        ));
        // The far addresses lie in a namespace of their own, behind the small link.
        far.run(&format!(
            "ip link set lo up; ip link set down0 up
             ip addr add 192.0.2.2/24 dev down0; ip addr add 2001:db8:2::2/64 dev down0 nodad
             ip link add far0 type veth peer name nowhere0; ip link set nowhere0 up; ip link set far0 mtu {mtu} up
             ip route add 198.18.0.0/24 dev far0; ip -6 route add 2001:db8:18::/64 dev far0
             echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
        ));
        run("ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8:2::2");
        far
    }

    fn run(&self, command: &str) -> String {
        run(&format!(
            "nsenter --net=/proc/{}/ns/net sh -ec '{command}'",
            self.0.id()
        ))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Engine and relay, joined as the driver joins them.
struct Path {
    engine: Engine,
    relay: UdpRelay,
    outbox: Outbox,
}

impl Path {
    fn new() -> Self {
        Self {
            engine: Engine::new(policy(), NatSettings::default()),
            relay: relay_on("up0"),
            outbox: Outbox::default(),
        }
    }

    /// Puts packets into the TUN, and answers what comes back from it at once.
    fn put(&mut self, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let Self {
            engine,
            relay,
            outbox,
        } = self;
        let now = Instant::now();
        outbox.clear();
        for packet in packets {
            engine.handle_tun(packet, now, outbox);
        }
        for at in 0..outbox.commands().len() {
            let Order::Open {
                mapping,
                egress,
                inside,
                to,
                treatment,
            } = outbox.commands()[at]
            else {
                panic!("{:?}", outbox.commands())
            };
            let outside = relay
                .open(mapping, egress, inside, to, treatment)
                .expect("a socket");
            engine.handle_opened(mapping, egress, outside, outbox);
        }
        for (transmit, payload) in outbox.transmits() {
            relay
                .send(transmit, payload)
                .expect("no refusal but by size");
        }
        relay.take_send_errors(|mapping, egress, returned| {
            engine.handle_error(mapping, egress, &returned, now, outbox);
        });
        outbox.packets().map(<[u8]>::to_vec).collect()
    }

    /// Waits for what comes in through the sockets, and answers what it becomes in the TUN.
    fn hear(&mut self) -> Vec<Vec<u8>> {
        let Self {
            engine,
            relay,
            outbox,
        } = self;
        let deadline = Instant::now() + Duration::from_secs(10);
        outbox.clear();
        while outbox.packets().next().is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing came");
            relay.wait(Some(left)).expect("an epoll set");
            let now = Instant::now();
            let take = |mapping, egress, received: Received<'_>| match received {
                Received::Datagram(arrival) => {
                    engine.handle_datagram(mapping, egress, arrival, now, outbox);
                }
                Received::Error(returned) => {
                    engine.handle_error(mapping, egress, &returned, now, outbox);
                }
                Received::WrongLink => panic!("no datagram was forged"),
            };
            relay.receive(1, take).expect("an epoll set");
        }
        outbox.packets().map(<[u8]>::to_vec).collect()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A datagram of the application, with DF over IPv4.
fn datagram([inside, _, far]: [&str; 3], payload: &[u8]) -> Vec<u8> {
    let headers = udp::UdpHeaders {
        source: Endpoint::new(address(inside), 50_000),
        destination: Endpoint::new(address(far), 3478),
        traffic_class: TrafficClass::default(),
        hop_limit: 64,
    };
    let mut packet = Vec::new();
    udp::write_datagram(&mut packet, &headers, payload).expect("a datagram");
    packet
}

fn fragments(packet: &[u8]) -> Vec<Vec<u8>> {
    let (mut out, mut ranges) = (Vec::new(), Vec::new());
    fragment::split(&mut out, packet, 1_400, 7, |range| ranges.push(range));
    ranges
        .into_iter()
        .map(|range| out[range].to_vec())
        .collect()
}

/// Asserts that `packet` says that `sent` was too big for `mtu` bytes, and that its port can be told from it.
fn assert_too_big(packet: &[u8], sent: &[u8], mtu: u32) {
    let parsed = Packet::parse(packet).expect("a valid packet");
    let Transport::Icmp(message) = parsed.transport() else {
        panic!("{parsed:?}")
    };
    let family = parsed.family();
    let error = IcmpError::from_icmp(family, message.kind, message.code, 0);
    assert_eq!(error, Some(IcmpError::PacketTooBig { mtu: 0 }));
    let header = if family == Family::V4 { 20 } else { 40 };
    let word = packet[header + 4..header + 8]
        .try_into()
        .expect("four bytes");
    assert_eq!(u32::from_be_bytes(word), mtu);
    let (quoted, ports) = (&packet[header + 8..], header..header + 4);
    assert_eq!(
        quoted[ports.clone()],
        sent[ports],
        "the ports of what was sent"
    );
}

/// RFC 4787 REQ-13.
#[test]
fn a_datagram_too_big_for_the_uplink_returns_its_mtu() {
    in_namespace(async || {
        run("ip link add up0 type veth peer name nowhere0; ip link set nowhere0 up; ip link set up0 mtu 1400 up
             ip addr add 192.0.2.1/24 dev up0; ip addr add 2001:db8:2::1/64 dev up0 nodad
             ip route add default dev up0; ip -6 route add default dev up0");
        for family in FAMILIES {
            let mut path = Path::new();
            let header = if family[0].contains(':') { 48 } else { 28 };
            let sent = datagram(family, &vec![1; 1_401 - header]);
            let [told] = &path.put(std::slice::from_ref(&sent))[..] else {
                panic!("one answer")
            };
            assert_too_big(told, &sent, 1_400);
            let fits = datagram(family, &vec![2; 1_400 - header]);
            assert!(path.put(&[fits]).is_empty(), "1,400 bytes fit");

            run("ip link set up0 mtu 1300");
            let [told] = &path.put(std::slice::from_ref(&sent))[..] else {
                panic!("one answer")
            };
            assert_too_big(told, &sent, 1_300);
            run("ip link set up0 mtu 1400");
        }
    });
}

/// RFC 4787 REQ-13.
#[test]
fn a_datagram_too_big_for_a_router_returns_its_mtu() {
    in_namespace(async || {
        let _far = Far::behind_a_router(1_320);
        for family in FAMILIES {
            let mut path = Path::new();
            let sent = datagram(family, &[1; 1_300]);
            assert!(
                path.put(std::slice::from_ref(&sent)).is_empty(),
                "nobody knows yet"
            );
            let told = path.hear();
            assert_too_big(&told[0], &sent, 1_320);
            // From here on this machine's kernel knows the path, and the error is its own.
            let told = path.put(std::slice::from_ref(&sent));
            assert_too_big(&told[0], &sent, 1_320);
        }
    });
}

/// RFC 4787 REQ-13a and REQ-14.
#[test]
fn fragmented_datagrams_stay_fragmented_both_ways() {
    in_namespace(async || {
        let far = Far::behind_a_router(1_500);
        far.run(
            "ip link del far0
             ip addr add 198.18.0.1/32 dev lo; ip addr add 2001:db8:18::1/128 dev lo nodad",
        );
        far.run("ip link set down0 mtu 1280");
        run("ip link set up0 mtu 1280");
        for family in FAMILIES {
            let at = address(family[2]);
            let echo = listen_in(&far, at);
            let mut path = Path::new();
            for size in [0, 1_472, 1_473, 30_000, 65_507] {
                let payload: Vec<u8> = (0..size).map(|at: usize| at.to_le_bytes()[0]).collect();
                let whole = datagram(family, &payload);
                let mut parts = fragments(&whole);
                if size < 1_200 {
                    parts = vec![whole];
                }
                parts.reverse();
                assert!(path.put(&parts).is_empty(), "{size} bytes are sent");

                let mut room = vec![0; 65_535];
                let (length, from) = echo.recv_from(&mut room).expect("the datagram arrives");
                assert_eq!(&room[..length], payload, "{at}");
                assert_eq!(from.ip(), address(family[1]));
                echo.send_to(&payload, from).expect("an answer");

                let answers = path.hear();
                assert!(answers.iter().all(|answer| answer.len() <= 1_500));
                let mut joined = Vec::new();
                for answer in &answers {
                    match Packet::parse(answer).expect("valid").transport() {
                        Transport::Fragment(part) => joined.extend_from_slice(part.payload),
                        Transport::Udp(datagram) => {
                            joined.extend_from_slice(&[0; 8]);
                            joined.extend_from_slice(datagram.payload);
                        }
                        transport => panic!("{transport:?}"),
                    }
                }
                assert_eq!(joined[8..], payload, "{size} bytes came back");
            }
        }
    });
}

/// A socket of the far side.
fn listen_in(far: &Far, at: IpAddr) -> UdpSocket {
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", far.0.id())).expect("it lives");
    std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("as root");
        let socket = UdpSocket::bind((at, 3478)).expect("its address is there");
        let patience = Some(Duration::from_secs(10));
        socket
            .set_read_timeout(patience)
            .expect("a duration above 0");
        socket
    })
    .join()
    .expect("it does not panic")
}
