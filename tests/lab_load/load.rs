//! Under load, with sockets and without a service: nearly ten thousand calls with RTCP stand, can be looked at and are
//! reloaded around without loss, and neither their end nor another uplink holds anything up; nobody is starved; no queue
//! stands.
//!
//! What is measured on the way is printed: memory for each mapping with the kernel's part, and the longest time that
//! packets waited for a page of a look at all mappings, while all ended, and while all moved to another uplink.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::media::{policy, relay_on, uplink};
use crate::support::netns::{in_namespace, run};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use voicelane::call::stun::{TransactionId, binding_request};
use voicelane::engine::{Counters, Engine, FailoverSettings, Outbox, PAGE, SocketCommand};
use voicelane::nat::NatSettings;
use voicelane::net::{Endpoint, TrafficClass};
use voicelane::relay::{Received, SendError, Token, UdpRelay};
use voicelane::wire::udp;

/// As many as the 20,000 descriptors of a container's hard limit have room for.
const MAPPINGS: usize = 19_800;

/// Mappings that end, or move to another uplink, in one go.
const AT_ONCE: usize = 8;

/// What has stood in a queue for longer is late.
const OLD: Duration = Duration::from_millis(250);

const SERVERS: [&str; 2] = ["198.18.0.1", "2001:db8:18::1"];

/// Whose mapping it is.
fn inside(number: usize) -> Endpoint {
    let is_v6 = number % 2 == 1;
    let agent = u8::try_from(number / 5_000 + 1).expect("a few");
    let addr = if is_v6 {
        IpAddr::from([0xfd00, 8, 0, 0, 0, 0, 0, u16::from(agent)])
    } else {
        IpAddr::from([10, 8, 0, agent])
    };
    let port = u16::try_from(number % 5_000 + 20_000).expect("a port");
    Endpoint::new(addr, port)
}

/// The packet that a mapping's application sends.
fn packet(number: usize) -> Vec<u8> {
    let source = inside(number);
    let server = SERVERS[usize::from(source.addr.is_ipv6())];
    let server = server.parse().expect("an address");
    let headers = udp::UdpHeaders {
        source,
        destination: Endpoint::new(server, 3478),
        traffic_class: TrafficClass::default(),
        hop_limit: 64,
    };
    let mut packet = Vec::new();
    udp::write_datagram(&mut packet, &headers, &[0x80; 172]).expect("a datagram");
    packet
}

/// Bytes that this process has in memory, and that the kernel has in its slabs.
fn memory() -> [usize; 2] {
    let field = |file: &str, name: &str| -> usize {
        let text = fs::read_to_string(file).expect("every Linux has it");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        kilobytes.expect(name).parse::<usize>().expect("a number") * 1_024
    };
    [
        field("/proc/self/status", "VmRSS:"),
        field("/proc/meminfo", "Slab:"),
    ]
}

/// Runs a test in a namespace of its own, with all descriptors that this process may have: one at a time, where tests share a
/// process.
fn with_descriptors<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("every process has it");
    assert!(
        most > MAPPINGS as u64 + 100,
        "`ulimit -Hn` is {most}: the test needs a little more than {MAPPINGS}"
    );
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    in_namespace(test);
}

/// The times that something took, in words.
fn in_words(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let [usual, most, longest] =
        [50, 99, 100].map(|percent| times[(times.len() - 1) * percent / 100]);
    format!("{usual:?} at the median, {most:?} at p99, {longest:?} at most")
}

/// Those whom the packets are for.
fn servers() -> [UdpSocket; 2] {
    run("ip addr add 198.18.0.1/32 dev lo; ip addr add 2001:db8:18::1/128 dev lo nodad");
    SERVERS.map(|server| UdpSocket::bind((server, 3478)).expect("it is free"))
}

struct World {
    engine: Engine,
    relay: UdpRelay,
    outbox: Outbox,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            engine: Engine::new(policy(), NatSettings::default())
                .with_failover(FailoverSettings::default()),
            relay: relay_on("lo"),
            outbox: Outbox::default(),
            now: Instant::now(),
        }
    }

    /// Has a packet sent, by a socket that is opened if it must be.
    fn send(&mut self, packet: &[u8]) {
        self.outbox.clear();
        self.engine.handle_tun(packet, self.now, &mut self.outbox);
        self.obey();
        let (transmit, payload) = self.outbox.transmits().next().expect("it is relayed");
        self.relay.send(transmit, payload).expect("it is sent");
    }

    /// Takes everything that has come in, and answers how many packets it became in the TUN.
    fn take(&mut self) -> usize {
        self.relay.wait(Some(Duration::ZERO)).expect("an epoll set");
        self.take_share(usize::MAX)
    }

    /// Takes what the last wait found, and what is there beyond it up to a share.
    fn take_share(&mut self, share: usize) -> usize {
        self.outbox.clear();
        let Self {
            engine,
            relay,
            outbox,
            now,
        } = self;
        let take = |mapping, egress, received: Received<'_>| match received {
            Received::Datagram(arrival) => {
                engine.handle_datagram(mapping, egress, arrival, *now, outbox);
            }
            Received::Error(returned) => panic!("{returned:?}"),
            Received::WrongLink => panic!("no datagram was forged"),
        };
        relay.receive(share, take).expect("an epoll set");
        outbox.packets().count()
    }

    /// Carries out the commands, and answers how many sockets were closed.
    fn obey(&mut self) -> usize {
        let mut closed = 0;
        for at in 0..self.outbox.commands().len() {
            match self.outbox.commands()[at] {
                SocketCommand::Open {
                    mapping,
                    egress,
                    inside,
                    to,
                    treatment,
                } => {
                    let opened = self.relay.open(mapping, egress, inside, to, treatment);
                    let outside = opened.expect("a socket");
                    self.engine
                        .handle_opened(mapping, egress, outside, &mut self.outbox);
                }
                SocketCommand::Close { mapping } => {
                    self.relay.close(mapping);
                    closed += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        closed
    }
}

#[test]
fn a_branch_of_calls_opens_and_ends_in_batches() {
    with_descriptors(async || {
        // Somebody must be there: errors would lie in every socket's queue.
        let _servers = servers();
        let packets: Vec<_> = (0..MAPPINGS).map(packet).collect();

        let mut world = World::new();
        let before = memory();
        for packet in &packets {
            world.send(packet);
        }
        let after = memory();
        let [own, kernels] = [0, 1].map(|at| after[at].saturating_sub(before[at]) / MAPPINGS);
        println!("bytes for each mapping: {own} of ours, {kernels} of the kernel's");
        let count = |world: &World| world.engine.mappings();
        assert_eq!(count(&world), MAPPINGS);

        // Page by page, as the shell does, and whoever's turn it is meanwhile is carried.
        let (mut told, mut page, mut costs) = (BTreeSet::new(), Vec::new(), Vec::new());
        for start in (0..world.engine.slots()).step_by(PAGE) {
            let look = Instant::now();
            page.extend(world.engine.mapping_reports(start..start + PAGE, world.now));
            costs.push(look.elapsed());
            assert!(page.len() <= PAGE);
            told.extend(page.drain(..).map(|report| report.inside.0));
            world.send(&packets[start]);
        }
        assert_eq!(told, (0..MAPPINGS).map(inside).collect());
        println!(
            "a look in {} pages: {:?} at most",
            costs.len(),
            costs.iter().max().expect("there are some")
        );

        // Another policy in the midst of it.
        for (number, packet) in packets.iter().enumerate() {
            if number == MAPPINGS / 2 {
                world.engine.set_policy(policy());
            }
            world.send(packet);
        }
        assert_eq!(count(&world), MAPPINGS);
        let counters = world.engine.snapshot(world.now).counters;
        assert_eq!(counters.packets_out, (2 * MAPPINGS + costs.len()) as u64);
        assert!(counters.dropped_out.is_empty(), "{counters:?}");

        world.now += NatSettings::default().lifetime;
        // One of them goes on talking, and is never kept waiting for more than a part of the others.
        world.send(&packets[0]);
        let (mut ended, mut waits) = (0, Vec::new());
        while count(&world) > 1 {
            world.outbox.clear();
            let start = Instant::now();
            world.engine.handle_timeout(world.now, &mut world.outbox);
            let closed = world.obey();
            waits.push(start.elapsed());
            assert!(0 < closed && closed <= AT_ONCE, "{closed} in one go");
            ended += closed;
            world.send(&packets[0]);
            // As the driver does: the kernel clears up meanwhile.
            sleep(Duration::from_millis(1));
            world.now += Duration::from_millis(1);
        }
        println!("waits while all ended: {}", in_words(waits));
        assert_eq!((ended, count(&world)), (MAPPINGS - 1, 1));
    });
}

/// Another uplink: who speaks has its new socket at once, the others get theirs in parts, and the former one carries nothing.
#[test]
fn a_branch_of_calls_moves_to_another_uplink_in_batches() {
    with_descriptors(async || {
        let servers = servers();
        run(
            "ip link add other arp off type veth peer name far; ip link set far up; ip link set other up
             ip addr add 192.0.2.9/24 dev other; ip addr add 2001:db8:99::9/64 dev other nodad
             ip route add 198.18.0.0/24 dev other; ip route add 2001:db8:18::/64 dev other",
        );
        let packets: Vec<_> = (0..MAPPINGS).map(packet).collect();
        let mut world = World::new();
        for packet in &packets {
            world.send(packet);
        }
        let heard = || -> usize {
            let heard = servers.iter().map(|server| {
                server.set_nonblocking(true).expect("a socket");
                std::iter::from_fn(|| server.recv(&mut [0; 200]).ok()).count()
            });
            heard.sum()
        };
        assert!(heard() > 0);

        let mut waits = Vec::new();
        // The last one's datagram lies in the outbox still.
        world.relay.rebind(uplink("other"), |_| true);
        let (transmit, payload) = world.outbox.transmits().next().expect("it was sent");
        let sent = world.relay.send(transmit, payload);
        assert!(matches!(sent, Err(SendError::NoSocket(_))), "{sent:?}");

        world.outbox.clear();
        let start = Instant::now();
        world
            .engine
            .handle_uplink_changed(|_| true, world.now, &mut world.outbox);
        let mut moved = world.outbox.openings();
        world.obey();
        waits.push(start.elapsed());
        assert_eq!(moved, AT_ONCE);
        for (number, packet) in packets.iter().enumerate().rev() {
            let start = Instant::now();
            world.send(packet);
            assert!(world.outbox.openings() <= 1, "its own and nobody else's");
            moved += world.outbox.openings();
            world.now += Duration::from_millis(1);
            world.outbox.clear();
            world.engine.handle_timeout(world.now, &mut world.outbox);
            let in_passing = world.outbox.openings();
            world.obey();
            waits.push(start.elapsed());
            assert!(in_passing <= AT_ONCE, "{in_passing} in one go");
            moved += in_passing;
            assert!(moved <= MAPPINGS, "each moves once");
            if moved == MAPPINGS {
                println!("{} of them spoke before all had moved", MAPPINGS - number);
                break;
            }
            // As the driver does: the kernel clears up meanwhile.
            sleep(Duration::from_millis(1));
        }
        println!("waits while all moved: {}", in_words(waits));
        assert_eq!((moved, world.engine.mappings()), (MAPPINGS, MAPPINGS));
        for packet in &packets {
            world.send(packet);
            assert_eq!(world.outbox.openings(), 0);
        }
        assert_eq!(heard(), 0, "by the former uplink");
    });
}

/// Each ready socket has one datagram taken, a busy one as many as the other direction had, and no crowd keeps others
/// from being noticed.
#[test]
fn no_socket_and_no_direction_is_starved() {
    with_descriptors(async || {
        const OTHER: Token = Token(3);
        let mut world = World::new();
        let [server, _others] = servers();
        let relays: Vec<_> = (0..100)
            .map(|number| {
                world.send(&packet(2 * number));
                server.recv_from(&mut [0; 200]).expect("it was sent").1
            })
            .collect();
        let tell = |relay: &SocketAddr, times| {
            for _ in 0..times {
                server.send_to(&[0x80; 172], relay).expect("room on lo");
            }
        };
        let now = Some(Duration::ZERO);

        tell(&relays[0], 200);
        for relay in &relays[1..11] {
            tell(relay, 1);
        }
        world.relay.wait(now).expect("an epoll set");
        assert_eq!(world.take_share(0), 11, "one of each");
        for (share, taken) in [(1, 1), (64, 64), (64, 64), (usize::MAX, 70)] {
            world.relay.wait(now).expect("an epoll set");
            assert_eq!(world.take_share(share), taken, "of a share of {share}");
        }

        let (other, bell) = UnixDatagram::pair().expect("a pair");
        world.relay.watch(OTHER, &other).expect("room");
        for relay in &relays {
            tell(relay, 3);
        }
        bell.send(b"!").expect("room");
        let mut left = 300;
        while left > 0 {
            let found = world.relay.wait(now).expect("an epoll set");
            assert!(
                found.has(OTHER) || found.is_full(),
                "{left} left, {found:?}"
            );
            left -= world.take_share(0);
        }
    });
}

#[test]
fn stale_media_in_a_queue_is_dropped_and_counted() {
    with_descriptors(async || {
        let mut world = World::new();
        let (rtp, check) = ([0x80; 172], binding_request(TransactionId([7; 12])));
        let (crowd, lasting, media) = (100, 100, 600);
        for (family, server) in servers().iter().enumerate() {
            let relays: Vec<_> = (0..crowd)
                .map(|number| {
                    world.send(&packet(2 * number + family));
                    let (_, relay) = server.recv_from(&mut [0; 200]).expect("it was sent");
                    relay
                })
                .collect();
            let tell = |relay, payload: &[u8]| {
                server.send_to(payload, relay).expect("room on lo");
            };
            // More are ready than can be named at once, until that is no accident any more.
            let begun = Instant::now();
            for _ in 0..lasting {
                for relay in &relays {
                    tell(*relay, &rtp);
                }
            }
            let (taken, took) = (world.take(), begun.elapsed());
            let is_all = taken == crowd * lasting;
            // On a busy machine they did wait.
            assert!(is_all || took >= OLD, "{taken} in {took:?}");
            let before = world.engine.snapshot(world.now).counters;
            let overflowed = world.relay.overflowed();

            // Nobody looks for a while: the queue takes what it has room for.
            tell(relays[0], &check);
            for _ in 0..media {
                tell(relays[0], &rtp);
            }
            sleep(Duration::from_millis(300));
            assert_eq!(
                world.take(),
                1,
                "a check is answered late rather than never"
            );
            // The kernel tells of its own drops with a later datagram.
            tell(relays[0], &rtp);
            assert_eq!(world.take(), 1, "what is fresh goes on");

            let after = world.engine.snapshot(world.now).counters;
            let stale = |counters: &Counters| counters.dropped_in.get("stale").copied();
            let stale = stale(&after).unwrap_or(0) - stale(&before).unwrap_or(0);
            let full = world.relay.overflowed() - overflowed;
            println!("{server:?}: {stale} too old, {full} without room");
            assert!(stale > 0 && full > 0, "{stale} and {full}");
            assert_eq!(stale + full, media);
        }
    });
}
