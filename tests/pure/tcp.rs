//! The TCP proxy in simulated time: a second stack is the application, and the remotes are in memory. Both families.

mod world;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::PacketBuilder;
use smoltcp::socket::tcp::State;
use voicelane::engine::{ConnectError, ConnectionState, ReplySource, TcpSettings};
use voicelane::net::{Dscp, Family};
use voicelane::wire::{IcmpError, Packet, Transport};

use world::{Answer, FAMILIES, LinkQuality, POLICY, Program, Remote, World, policy};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// Returns a program that reads everything and sends `sends` bytes.
fn program(sends: u64) -> Program {
    Program {
        sends,
        reads: u64::MAX,
        ..Program::default()
    }
}

fn established(
    address: &str,
    server: &str,
    program: Program,
) -> (World, smoltcp::iface::SocketHandle) {
    let mut world = World::new(address);
    let handle = world.connect(server, 50_000, program);
    assert!(world.run(SECOND, |world| world.state(handle) == State::Established));
    (world, handle)
}

fn segment(packet: &[u8]) -> voicelane::wire::tcp::TcpSegment {
    match Packet::parse(packet).expect("whole").transport() {
        Transport::Tcp(segment) => segment,
        other => panic!("no segment: {other:?}"),
    }
}

/// Returns a segment that acknowledges `taken` sequence numbers of a segment of the engine.
fn reply(to: &[u8], taken: u32, window: u16, data: &[u8]) -> Vec<u8> {
    let packet = Packet::parse(to).expect("whole");
    let answered = segment(to);
    let server = packet.source();
    let (mut reply, from, source) = match packet.family() {
        Family::V4 => (to[..20].to_vec(), 16..20, 12),
        Family::V6 => (to[..40].to_vec(), 24..40, 8),
    };
    let inside = reply[from].to_vec();
    reply[source..source + inside.len()].copy_from_slice(&inside);
    let length = 20 + data.len();
    let (at, stated) = match packet.family() {
        Family::V4 => (2, 20 + length),
        Family::V6 => (4, length),
    };
    let stated = u16::try_from(stated).expect("short");
    reply[at..at + 2].copy_from_slice(&stated.to_be_bytes());
    reply.extend(answered.destination_port.to_be_bytes());
    reply.extend(answered.source_port.to_be_bytes());
    reply.extend(answered.acknowledgment.expect("it has one").to_be_bytes());
    reply.extend(answered.sequence.wrapping_add(taken).to_be_bytes());
    reply.extend([0x50, 0x10]);
    reply.extend(window.to_be_bytes());
    reply.extend([0; 4]);
    reply.extend(data);
    assert!(voicelane::wire::tcp::seal(&mut reply, server));
    reply
}

/// RFC 5382 REQ-2.
#[test]
fn the_engine_accepts_only_after_the_remote() {
    for (address, server) in FAMILIES {
        let mut world = World::new(address);
        world.answer = Answer::Nothing;
        let handle = world.connect(server, 50_000, program(0));
        // The application repeats its SYN meanwhile.
        world.wait(10 * SECOND);
        assert_eq!(world.connects, 1, "a repeated SYN changes nothing");
        assert_eq!(world.state(handle), State::SynSent);
        assert_eq!(
            world.written,
            Vec::<Vec<u8>>::new(),
            "no response to the application"
        );
        let remote = world.only();
        assert_eq!(remote.to, Some(world::endpoint(server)));
        assert_eq!(
            remote.treatment.map(|it| it.dscp),
            Some(Dscp::CS5),
            "marked as the rule says"
        );
        assert_eq!(world.report().state, ConnectionState::Connecting);

        let id = *world.remotes.keys().next().expect("one");
        world
            .engine
            .handle_connected(id, world.now, &mut world.outbox);
        assert!(world.run(SECOND, |world| world.state(handle) == State::Established));
        let answer = segment(&world.written[0]);
        assert!(answer.syn && answer.acknowledgment.is_some());
    }
}

#[test]
fn a_refused_connection_is_reset_to_the_application() {
    for (address, server) in FAMILIES {
        let mut world = World::new(address);
        world.answer = Answer::Fail(ConnectError::Refused);
        let handle = world.connect(server, 50_000, program(0));
        assert!(world.run(SECOND, |world| world.state(handle) == State::Closed));
        assert_eq!(world.written.len(), 1);
        let answer = segment(&world.written[0]);
        assert!(answer.rst && !answer.syn && answer.acknowledgment.is_some());
        let snapshot = world.engine.snapshot(world.now);
        assert_eq!(
            (snapshot.counters.tcp.refused, snapshot.connections),
            (1, 0)
        );
    }
}

/// RFC 5382 REQ-9.
#[test]
fn an_unreachable_remote_returns_an_icmp_error_about_the_syn() {
    for (address, server) in FAMILIES {
        for error in [
            IcmpError::NetUnreachable,
            IcmpError::HostUnreachable,
            IcmpError::AdminProhibited,
        ] {
            let mut world = World::new(address);
            world.answer = Answer::Fail(ConnectError::Unreachable(error));
            world.connect(server, 50_000, program(0));
            world.run(SECOND, |world| !world.written.is_empty());
            let packet = Packet::parse(&world.written[0]).expect("whole");
            assert_eq!(packet.source(), world::endpoint(server).addr);
            assert_eq!(packet.destination().to_string(), address);
            let (kind, code, _) = error.to_icmp(packet.family());
            let Transport::Icmp(message) = packet.transport() else {
                panic!("no ICMP")
            };
            assert_eq!((message.kind, message.code), (kind, code));
            let header = if packet.family() == Family::V4 {
                20
            } else {
                40
            };
            let quoted = Packet::parse(&packet.bytes()[header + 8..]).expect("the whole SYN fits");
            assert!(matches!(quoted.transport(), Transport::Tcp(syn) if syn.syn));
        }
    }
}

#[test]
fn a_remote_without_response_gets_the_application_none() {
    for (address, server) in FAMILIES {
        let mut world = World::new(address);
        world.answer = Answer::Fail(ConnectError::TimedOut);
        world.connect(server, 50_000, program(0));
        world.run(SECOND / 2, |_| false);
        assert_eq!(world.written, Vec::<Vec<u8>>::new());
        let snapshot = world.engine.snapshot(world.now);
        assert_eq!(
            (snapshot.counters.tcp.timed_out, snapshot.connections),
            (1, 0)
        );
    }
}

/// RFC 5382 REQ-5.
#[test]
fn an_unanswered_connection_ends_after_four_minutes() {
    for (address, server) in FAMILIES {
        let mut world = World::new(address);
        world.answer = Answer::Nothing;
        world.connect(server, 50_000, program(0));
        world.wait(3 * MINUTE + 59 * SECOND);
        assert_eq!(world.only().closed, None);
        world.wait(2 * SECOND);
        assert_eq!(world.only().closed, Some(true), "after 4 minutes");
        assert_eq!(world.engine.snapshot(world.now).counters.tcp.timed_out, 1);
    }
}

/// RFC 5382 REQ-2.
#[test]
fn the_application_may_close_first() {
    for (address, server) in FAMILIES {
        let (mut world, handle) = established(
            address,
            server,
            Program {
                ends: true,
                ..program(100_000)
            },
        );
        assert!(world.run(SECOND, |world| world.only().shut));
        assert_eq!(
            world.only().received,
            100_000,
            "all bytes are written before the end"
        );
        assert_eq!(world.only().closed, None, "the remote may still send");
        let report = world.report();
        assert_eq!(
            (report.state, report.bytes_out),
            (ConnectionState::HalfClosed, 100_000)
        );

        world.only().sends = 200_000;
        world.only().ends = true;
        world.only_ready();
        assert!(world.run(SECOND, |world| world.programs[&handle].saw_end));
        assert_eq!(world.programs[&handle].received, 200_000);
        world.wait(SECOND);
        assert_eq!(world.only().closed, Some(false), "in order");
        let snapshot = world.engine.snapshot(world.now);
        assert_eq!(
            (snapshot.counters.tcp.finished, snapshot.connections),
            (1, 0)
        );
    }
}

/// RFC 5382 REQ-2.
#[test]
fn the_remote_may_close_first() {
    for (address, server) in FAMILIES {
        let (mut world, handle) = established(address, server, program(0));
        world.only().sends = 100_000;
        world.only().ends = true;
        world.only_ready();
        assert!(world.run(SECOND, |world| world.programs[&handle].saw_end));
        assert_eq!(world.programs[&handle].received, 100_000);
        assert_eq!(world.state(handle), State::CloseWait);

        let program = world.programs.get_mut(&handle).expect("one");
        (program.sends, program.ends) = (200_000, true);
        assert!(world.run(SECOND, |world| world.only().closed.is_some()));
        assert_eq!(world.only().received, 200_000);
        assert!(world.only().shut);
        assert_eq!(world.only().closed, Some(false));
        assert!(world.run(SECOND, |world| world.state(handle) == State::Closed));
        assert!(
            !world.written.iter().any(|packet| segment(packet).rst),
            "no reset anywhere"
        );
    }
}

#[test]
fn unsent_bytes_are_kept_after_both_sides_close() {
    for (address, server) in FAMILIES {
        let (mut world, handle) = established(address, server, program(0));
        (world.only().takes, world.only().ends) = (1_000, true);
        world.only_ready();
        let program = world.programs.get_mut(&handle).expect("one");
        (program.sends, program.ends) = (50_000, true);
        // Much longer than TIME-WAIT.
        world.wait(2 * MINUTE);
        assert_eq!((world.only().received, world.only().shut), (1_000, false));
        world.only().takes = u64::MAX;
        world.only_ready();
        assert_eq!((world.only().received, world.only().shut), (50_000, true));
        assert_eq!(world.only().closed, Some(false));
    }
}

/// RFC 5382 REQ-2.
#[test]
fn a_reset_of_the_application_reaches_the_remote() {
    for (address, server) in FAMILIES {
        let (mut world, handle) = established(address, server, program(0));
        world.socket(handle).abort();
        assert!(world.run(SECOND, |world| world.only().closed.is_some()));
        assert_eq!(world.only().closed, Some(true));
        assert_eq!(
            world
                .engine
                .snapshot(world.now)
                .counters
                .tcp
                .reset_by_application,
            1
        );
    }
}

/// RFC 5382 REQ-2.
#[test]
fn a_reset_of_the_remote_follows_its_data() {
    for (address, server) in FAMILIES {
        let (mut world, handle) = established(address, server, program(0));
        world.only().sends = 300_000;
        world.only().breaks = true;
        world.only_ready();
        assert!(world.run(SECOND, |world| world.state(handle) == State::Closed));
        assert_eq!(world.programs[&handle].received, 300_000);
        assert!(!world.programs[&handle].saw_end, "a reset is no end");
        assert!(segment(world.written.last().expect("a reset")).rst);
        assert_eq!(world.only().closed, Some(true));
        assert_eq!(
            world
                .engine
                .snapshot(world.now)
                .counters
                .tcp
                .reset_by_remote,
            1
        );
    }
}

#[test]
fn a_reset_after_the_fin_of_the_remote_reaches_the_application() {
    for (address, server) in FAMILIES {
        let (mut world, handle) = established(address, server, program(0));
        world.only().ends = true;
        world.only_ready();
        assert!(world.run(SECOND, |world| world.state(handle) == State::CloseWait));
        world.only().breaks = true;
        world.only_ready();
        assert!(world.run(SECOND, |world| world.state(handle) == State::Closed));
    }
}

#[test]
fn a_failed_write_resets_the_connection() {
    for (address, server) in FAMILIES {
        let (mut world, handle) = established(address, server, program(0));
        world.only().breaks = true;
        world.programs.get_mut(&handle).expect("one").sends = 10_000;
        assert!(world.run(SECOND, |world| world.state(handle) == State::Closed));
        assert_eq!(world.only().closed, Some(true));
    }
}

/// RFC 5382 REQ-6: the proxy does not change the bytes.
///
/// The directions take turns. If two smoltcp stacks retransmit at once, each rejects the other's rewound sequence
/// numbers for ever. No other stack rewinds them.
#[test]
fn ten_megabytes_arrive_intact_in_each_direction_over_a_lossy_link() {
    const AMOUNT: u64 = 10_000_000;
    for (address, server) in FAMILIES {
        let mut world = World::new(address);
        world.keeps = false;
        world.link_quality = LinkQuality {
            loss: 2,
            jitter: Duration::from_micros(400),
        };
        let handle = world.connect(server, 50_000, program(AMOUNT));
        // Every byte is compared where it arrives.
        let arrived = |world: &mut World| {
            world
                .remotes
                .values()
                .any(|remote| remote.received == AMOUNT)
        };
        assert!(world.run(60 * MINUTE, arrived));
        world.only().sends = AMOUNT;
        world.only().ends = true;
        world.only_ready();
        assert!(world.run(60 * MINUTE, |world| world.programs[&handle].saw_end));
        assert_eq!(world.programs[&handle].received, AMOUNT);
        world.programs.get_mut(&handle).expect("one").ends = true;
        assert!(world.run(MINUTE, |world| world.only().closed.is_some()));
        assert_eq!(world.only().closed, Some(false));
        let counters = world.engine.snapshot(world.now).counters.tcp;
        assert_eq!((counters.bytes_out, counters.bytes_in), (AMOUNT, AMOUNT));
    }
}

#[test]
fn a_slow_reader_slows_the_writer_within_bounded_memory() {
    // Bytes may wait in the buffer of the engine, and in the application's of the same size.
    const WINDOWS: u64 = 2 * 65_536;
    for (address, server) in FAMILIES {
        let (mut world, handle) = established(
            address,
            server,
            Program {
                reads: 0,
                ..program(0)
            },
        );
        world.only().sends = 10_000_000;
        world.only_ready();
        world.wait(10 * MINUTE);
        assert_eq!(world.only().sent, WINDOWS);
        let program = world.programs.get_mut(&handle).expect("one");
        program.reads = 1_000_000;
        world.wait(10 * MINUTE);
        assert_eq!(world.only().sent, 1_000_000 + WINDOWS);

        let (mut world, handle) = established(address, server, program_that_only_sends());
        world.only().takes = 0;
        world.wait(10 * MINUTE);
        assert_eq!(world.programs[&handle].sent, WINDOWS);
        world.only().takes = 1_000_000;
        world.only_ready();
        world.wait(10 * MINUTE);
        assert_eq!(world.programs[&handle].sent, 1_000_000 + WINDOWS);
    }
}

fn program_that_only_sends() -> Program {
    program(10_000_000)
}

/// The stack must not probe a closed window without data to send.
#[test]
fn a_window_that_closes_with_the_last_acknowledgment_is_not_probed() {
    for (address, server) in FAMILIES {
        let (mut world, _) = established(address, server, program(0));
        world.wait(SECOND);
        // From here on the test writes the answers instead of the application's stack.
        world.only().sends = 1_000;
        world.only().ends = true;
        world.only_ready();
        let fin = world.written.last().expect("the data with the end").clone();
        assert!(segment(&fin).fin && segment(&fin).sequence_len == 1_001);
        world.inject(&reply(&fin, 500, 0, b""));
        world.inject(&reply(&fin, 1_001, 0, b""));

        let due = world.engine.poll_timeout().expect("a connection stands");
        assert_eq!(due - world.now, 124 * MINUTE, "no work is due");
        world.now += 10 * SECOND;
        let answers = world.inject(&reply(&fin, 1_001, 0, &[world::pattern(0)]));
        assert_eq!(answers.len(), 1, "one acknowledgment only");
        assert_eq!(world.only().received, 1);
    }
}

/// RFC 5382 REQ-5.
#[test]
fn an_idle_connection_ends_after_two_hours_and_four_minutes() {
    for (address, server) in FAMILIES {
        let (mut world, handle) = established(address, server, program(0));
        world.wait(60 * MINUTE);
        world.programs.get_mut(&handle).expect("one").sends = 1;
        world.wait(123 * MINUTE + 59 * SECOND);
        assert_eq!(world.state(handle), State::Established, "REQ-5");
        world.wait(2 * SECOND);
        assert_eq!(world.state(handle), State::Closed);
        assert_eq!(world.only().closed, Some(true));
        assert_eq!(world.engine.snapshot(world.now).counters.tcp.expired, 1);
        assert_eq!(world.engine.poll_timeout(), None);
    }
}

/// RFC 5382 REQ-5.
#[test]
fn a_closing_connection_ends_after_four_minutes() {
    for (address, server) in FAMILIES {
        let (mut world, handle) = established(address, server, program(0));
        (world.only().takes, world.only().ends) = (0, true);
        world.only_ready();
        let program = world.programs.get_mut(&handle).expect("one");
        (program.sends, program.ends) = (1_000, true);
        world.wait(3 * MINUTE + 59 * SECOND);
        assert_eq!(world.only().closed, None, "REQ-5");
        world.wait(2 * SECOND);
        assert_eq!(world.only().closed, Some(true));
    }
}

/// RFC 5508 REQ-8.
#[test]
fn a_full_connection_table_rejects_with_an_icmp_error() {
    for (address, server) in FAMILIES {
        let mut world = World::with(
            address,
            TcpSettings {
                connections: 2,
                ..TcpSettings::default()
            },
        );
        for port in [50_000, 50_001] {
            world.connect(server, port, program(0));
        }
        world.wait(SECOND);
        world.written.clear();
        world.connect(server, 50_002, program(0));
        world.run(SECOND, |world| !world.written.is_empty());
        let packet = Packet::parse(&world.written[0]).expect("whole");
        let (kind, code, _) = IcmpError::AdminProhibited.to_icmp(packet.family());
        assert!(
            matches!(packet.transport(), Transport::Icmp(it) if (it.kind, it.code) == (kind, code))
        );
        assert_eq!(world.dropped("too_many_connections"), 1);
        assert_eq!(world.connects, 2);
    }
}

/// Returns the SYN of an application.
fn syn(from: &str, port: u16, to: &str) -> Vec<u8> {
    let (from, to): (IpAddr, SocketAddr) = (
        from.parse().expect("an address"),
        to.parse().expect("an endpoint"),
    );
    let ip = match (from, to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    };
    let mut packet = Vec::new();
    ip.tcp(port, to.port(), 7, 65_535)
        .syn()
        .write(&mut packet, &[])
        .expect("into memory");
    packet
}

/// RFC 6888 REQ-4 and REQ-5.
#[test]
fn one_inside_address_leaves_connections_for_others() {
    for ((address, server), other) in FAMILIES.into_iter().zip(["10.8.0.3", "fd00:8::3"]) {
        let settings = TcpSettings {
            connections_of_address: 2,
            ..TcpSettings::default()
        };
        let mut world = World::with(address, settings);
        for port in [50_000, 50_001, 50_002] {
            world.inject(&syn(address, port, server));
        }
        assert_eq!(world.connects, 2);
        assert_eq!(world.dropped("too_many_connections_of_address"), 1);
        let reached = world.engine.snapshot(world.now).limits_reached;
        assert!(reached.contains_key("too_many_connections_of_address"));
        world.inject(&syn(other, 50_000, server));
        assert_eq!(world.connects, 3, "another address has its own");

        world
            .engine
            .handle_uplink_changed(|_| true, world.now, &mut world.outbox);
        world.inject(&syn(address, 50_002, server));
        assert_eq!(world.connects, 4, "a closed connection is not counted");
    }
}

#[test]
fn a_segment_without_a_connection_is_reset() {
    for (address, server) in FAMILIES {
        let (world, _) = established(address, server, program(0));
        let syn_ack = world.written[0].clone();
        // The application acknowledges it to an engine without the connection.
        let mut stray = World::new(address);
        let mut packet = reply(&syn_ack, 1, 65_535, b"");
        let answers = stray.inject(&packet);
        assert_eq!(answers.len(), 1);
        let answer = segment(&answers[0]);
        assert!(answer.rst);
        assert_eq!(Some(answer.sequence), segment(&packet).acknowledgment);
        assert_eq!(stray.dropped("no_connection"), 1);

        // A reset gets no answer.
        let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
        packet[header + 13] = 0x04;
        let server = world::endpoint(server).addr;
        assert!(voicelane::wire::tcp::seal(&mut packet, server));
        assert_eq!(stray.inject(&packet), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn tcp_replies_come_from_the_substitute() {
    for ((address, server), substitute) in FAMILIES.into_iter().zip(["250.8.0.2", "100::2"]) {
        let substitute = substitute.parse().expect("an address");
        let real = address.parse().expect("an address");
        for answer in [
            Answer::Accept,
            Answer::Fail(ConnectError::Refused),
            Answer::Fail(ConnectError::Unreachable(IcmpError::HostUnreachable)),
        ] {
            let mut world = World::new(address);
            world.answer = answer;
            world
                .engine
                .set_reply_sources(vec![ReplySource { real, substitute }]);
            world.connect(server, 50_000, program(0));
            world.run(SECOND, |world| !world.written.is_empty());
            let packet = Packet::parse(&world.written[0]).expect("its checksums are right");
            assert_eq!(packet.destination(), substitute);
        }
    }
}

#[test]
fn a_policy_that_no_longer_relays_ends_the_connection() {
    for (address, server) in FAMILIES {
        let (mut world, handle) = established(address, server, program(0));
        world.engine.set_policy(policy(POLICY));
        world.wait(SECOND);
        assert_eq!(world.state(handle), State::Established, "it still relays");
        world
            .engine
            .set_policy(policy(&POLICY.replace("443", "444")));
        world.wait(SECOND);
        assert_eq!(world.state(handle), State::Closed);
        assert_eq!(world.only().closed, Some(true));
        assert_eq!(world.engine.snapshot(world.now).counters.tcp.revoked, 1);
    }
}

#[test]
fn a_thousand_connections_at_once() {
    for (address, server) in FAMILIES {
        let mut world = World::new(address);
        world.keeps = false;
        world.remote = || Remote {
            takes: u64::MAX,
            sends: 10_000,
            ends: true,
            ..Remote::default()
        };
        for port in 0..1_000 {
            world.connect(
                server,
                20_000 + port,
                Program {
                    ends: true,
                    ..program(10_000)
                },
            );
        }
        assert!(world.run(MINUTE, |world| {
            world.remotes.len() == 1_000
                && world.remotes.values().all(|remote| remote.closed.is_some())
        }));
        assert!(
            world
                .remotes
                .values()
                .all(|remote| remote.received == 10_000 && remote.closed == Some(false))
        );
        assert!(
            world
                .programs
                .values()
                .all(|program| program.received == 10_000 && program.saw_end)
        );
        assert_eq!(world.engine.snapshot(world.now).connections, 0);
        assert_eq!(world.engine.poll_timeout(), None);
    }
}
