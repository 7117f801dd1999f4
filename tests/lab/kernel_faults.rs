//! Refusals of the kernel during calls: descriptors, sends, addresses.
//!
//! Each refusal is counted, status names the remedy, the service lives. When the cause is gone, the application's
//! sockets work again.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::caller::{Family, answer, probe, udp};
use crate::support::namespace::{require, run};
use crate::support::program::{PATIENCE, Program};
use crate::support::voicelane::{Home, TUN, Voicelane, config_with_tcp};
use crate::support::{Lab, MEDIA_PORT, UPLINK};
use nix::sys::signal::Signal;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::NamedTempFile;
use voicelane::control::EventKind;
use voicelane::lab::{Frame, FrameDirection, FrameTransport};

/// Maximum gap of a call.
const LONGEST_LOSS: Duration = Duration::from_secs(3);

fn start(lab: &Lab) -> Voicelane {
    let config = config_with_tcp(&MEDIA_PORT.to_string());
    Home::new(&lab.laptop, &config).start()
}

fn unbound(lab: &Lab, family: Family) -> UdpSocket {
    udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0))
}

fn media(family: Family) -> SocketAddr {
    at::MEDIA.at(family, MEDIA_PORT)
}

/// Sends until a reply comes: a recovery takes a moment.
fn assert_recovers(socket: &UdpSocket, to: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let payload = probe();
        let sent = socket.send_to(payload.as_bytes(), to);
        if let Ok(Some(from)) = sent.and_then(|_| answer(socket, &payload)) {
            assert_eq!(from, to);
            return;
        }
        assert!(Instant::now() < deadline, "{to} never answers again");
    }
}

/// Limits the descriptors of the service (soft limit, which may be raised again).
fn limit_descriptors(voicelane: &Voicelane, limit: usize) {
    let arguments = [
        format!("--pid={}", voicelane.pid()),
        format!("--nofile={limit}:"),
    ];
    run(Command::new("prlimit").args(arguments), "");
}

#[test]
fn without_descriptors_the_service_lives_and_reports_it() {
    require(&[("prlimit", "util-linux")]);
    let lab = Lab::new();
    let voicelane = start(&lab);
    let open = fs::read_dir(format!("/proc/{}/fd", voicelane.pid()));
    let open = open.expect("the service runs").count();
    limit_descriptors(&voicelane, open + 48);
    let sockets: Vec<_> = (0..80)
        .map(|number| {
            let family = Family::BOTH[number % 2];
            let socket = unbound(&lab, family);
            let payload = probe();
            // Some datagrams are rejected, and the application gets an error.
            let _ = socket.send_to(payload.as_bytes(), media(family));
            (family, socket)
        })
        .collect();
    // A TCP connection is rejected at once.
    for family in Family::BOTH {
        let connected = lab
            .laptop
            .enter(|| TcpStream::connect_timeout(&media(family), PATIENCE));
        let error = connected.expect_err("there is no descriptor for it");
        assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{family:?}");
    }
    // The connections follow all datagrams, so these are counted now.
    let failed = voicelane.drops("outbound", "open_failed");
    assert!(failed > 0, "{}", voicelane.status());
    let warnings = voicelane.warnings();
    assert!(warnings.contains("LimitNOFILE"), "{warnings}");
    limit_descriptors(&voicelane, 4_096);
    for (family, socket) in &sockets {
        assert_recovers(socket, media(*family));
    }
    assert_eq!(voicelane.drops("outbound", "open_failed"), failed);
    voicelane.stop();
}

/// Probes are empty, so they pass a rule that accepts short packets. Only refused sends show it.
#[test]
fn a_firewall_that_blocks_sends_is_named() {
    for verdict in ["drop", "reject"] {
        let lab = Lab::new();
        let voicelane = start(&lab);
        let sockets = Family::BOTH.map(|family| {
            let socket = unbound(&lab, family);
            lab.exchange(&socket, media(family));
            (family, socket)
        });
        lab.laptop.nft(&format!(
            "add table inet killswitch
             add chain inet killswitch out {{ type filter hook output priority filter; }}
             add rule inet killswitch out oifname {UPLINK} meta l4proto udp meta length > 100 {verdict}"
        ));
        for (family, socket) in &sockets {
            let before = voicelane.drops("outbound", "send_failed");
            let payload = probe();
            socket
                .send_to(payload.as_bytes(), media(*family))
                .expect("the firewall does not forbid the TUN");
            let heard = answer(socket, &payload);
            assert!(!matches!(heard, Ok(Some(_))), "{family:?}: {heard:?}");
            let failed = voicelane.drops("outbound", "send_failed");
            assert_eq!(failed, before + 1, "{family:?}: {}", voicelane.status());
        }
        let warnings = voicelane.warnings();
        assert!(warnings.contains("firewall"), "{warnings}");
        lab.laptop.run("nft delete table inet killswitch");
        for (family, socket) in &sockets {
            assert_recovers(socket, media(*family));
        }
        if verdict == "reject" {
            await_the_end_of_warnings(&voicelane, &sockets);
        }
        voicelane.stop();
    }
}

/// Sends media until status has no warning.
fn await_the_end_of_warnings(voicelane: &Voicelane, sockets: &[(Family, UdpSocket)]) {
    let deadline = Instant::now() + 2 * PATIENCE;
    while voicelane.warnings().contains("firewall") {
        assert!(Instant::now() < deadline, "{}", voicelane.status());
        for (family, socket) in sockets {
            assert_recovers(socket, media(*family));
        }
        thread::sleep(Duration::from_millis(100));
    }
    let failed = voicelane.drops("outbound", "send_failed");
    assert!(failed > 0, "the count stays: {}", voicelane.status());
}

/// Makes the kernel refuse the service's sends until strace ends, those over netlink too. Nothing else may happen
/// meanwhile.
fn fail_sends(lab: &Lab, voicelane: &Voicelane, errno: &str) -> Program {
    let deadline = Instant::now() + PATIENCE;
    while !lab.laptop.run("ip -6 addr show tentative").is_empty() {
        assert!(Instant::now() < deadline, "addresses stay tentative");
        thread::sleep(Duration::from_millis(20));
    }
    // Reaction of the service to the last refusal.
    thread::sleep(Duration::from_secs(1));
    let mut command = Command::new("strace");
    command.arg("--follow-forks");
    command.arg(format!("--inject=sendto,sendmsg,sendmmsg:error={errno}"));
    command.arg(format!("--attach={}", voicelane.pid()));
    let mut strace = Program::start("strace", &mut command);
    strace.wait_for("attached");
    strace
}

#[test]
fn a_lost_path_is_reported_to_the_application_and_no_call_ends() {
    require(&[("strace", "strace")]);
    let lab = Lab::new();
    let config = config_with_tcp(&MEDIA_PORT.to_string());
    let config = format!("{config}\n[failover]\nto = \"none\"\n");
    let voicelane = Home::new(&lab.laptop, &config).start();
    let sockets = Family::BOTH.map(|family| {
        let socket = unbound(&lab, family);
        let (_, payload) = lab.exchange(&socket, media(family));
        let port = lab.on_uplink(&payload)[0].source_port();
        (family, socket, port)
    });
    let mut failed = 0;
    for (errno, advice) in [
        ("ENETUNREACH", "has no route"),
        ("EADDRNOTAVAIL", "address is gone"),
    ] {
        let strace = fail_sends(&lab, &voicelane, errno);
        for (family, socket, _) in &sockets {
            let net_unreachable =
                family.pick(FrameTransport::Icmp(3, 0), FrameTransport::Icmp(1, 0));
            let told = || {
                let frames = lab.on_laptop.frames(|frame| {
                    let is_for_it = frame.interface == TUN && frame.direction == FrameDirection::In;
                    is_for_it && frame.headers.transport == net_unreachable
                });
                frames.len()
            };
            let before = told();
            let payload = probe();
            socket
                .send_to(payload.as_bytes(), media(*family))
                .expect("the TUN takes it");
            let heard = answer(socket, &payload);
            assert!(!matches!(heard, Ok(Some(_))), "{errno} {family:?}");
            assert_eq!(told(), before + 1, "{errno} {family:?}");
            failed += 1;
        }
        strace.end(Signal::SIGINT);
        let status = voicelane.status();
        let refusals = &status["status"]["kernel_errors"];
        let label = format!("send_{}", errno.to_lowercase());
        assert_eq!(refusals[&label], 2, "{status}");
        assert_eq!(voicelane.drops("outbound", "send_failed"), failed);
        let warnings = voicelane.warnings();
        assert!(warnings.contains(advice), "{warnings}");
    }
    for (family, socket, port) in &sockets {
        let (_, payload) = lab.exchange(socket, media(*family));
        assert_eq!(lab.on_uplink(&payload)[0].source_port(), *port);
    }
    voicelane.stop();
}

/// One failed netlink send closes the connection, and one failed read ends a subscription.
#[test]
fn the_reconciler_recovers_from_a_closed_kernel_connection() {
    require(&[("strace", "strace")]);
    let lab = Lab::new();
    let voicelane = start(&lab);
    let routes = || lab.laptop.run("ip rule show");
    for inject in ["sendto:error=ENOBUFS", "recvfrom:error=EIO"] {
        let last = voicelane.last_event();
        let mut command = Command::new("strace");
        command.arg("--follow-forks");
        command.arg(format!("--inject={inject}"));
        command.arg(format!("--attach={}", voicelane.pid()));
        let mut strace = Program::start("strace", &mut command);
        strace.wait_for("attached");
        lab.laptop.run("ip rule flush protocol 118");
        // The connection is closed, and attempts to replace it fail.
        thread::sleep(Duration::from_secs(1));
        assert!(!routes().contains("proto 118"), "{inject}: {}", routes());
        strace.end(Signal::SIGINT);
        voicelane.event_after(last, EventKind::NetlinkReconnected);
        let deadline = Instant::now() + PATIENCE;
        while !routes().contains("proto 118") || voicelane.warnings() != "[]" {
            assert!(
                Instant::now() < deadline,
                "{inject}: {}",
                voicelane.status()
            );
            thread::sleep(Duration::from_millis(20));
        }
        for family in Family::BOTH {
            lab.exchange(&unbound(&lab, family), media(family));
        }
        // Later changes are noticed as before.
        let last = voicelane.last_event();
        lab.laptop.run("ip rule flush protocol 118");
        let event = voicelane.event_after(last, EventKind::RulesRestored);
        assert!(
            event.reason.contains("removed voicelane's rules"),
            "{event}"
        );
    }
    voicelane.stop();
}

/// Whether a request or the answer to an applied one fails: the next reconciliation is complete.
#[test]
fn after_any_failed_exchange_the_next_reconciliation_is_complete() {
    /// More system calls of one kind than a reconciliation makes.
    const CALLS: usize = 300;
    require(&[("strace", "strace")]);
    let lab = Lab::new();
    let voicelane = start(&lab);
    for (call, error) in [("sendto", "ENOBUFS"), ("recvfrom", "EIO")] {
        let mut refused = 0;
        let reached = (1..CALLS).find(|number| {
            let trace = NamedTempFile::new().expect("a file");
            let mut command = Command::new("strace");
            command.args(["--follow-forks", "--output"]);
            command.arg(trace.path());
            command.arg(format!("--inject={call}:error={error}:when={number}"));
            command.arg(format!("--attach={}", voicelane.pid()));
            let mut strace = Program::start("strace", &mut command);
            strace.wait_for("attached");
            // The service replies after the reconciliation.
            refused += usize::from(!voicelane.reload().status.success());
            strace.end(Signal::SIGINT);
            let next = voicelane.reload();
            let said = String::from_utf8_lossy(&next.stderr);
            assert!(next.status.success(), "after {call} {number}: {said}");
            let trace = fs::read_to_string(trace.path()).expect("it is written");
            !trace.contains("INJECTED")
        });
        println!(
            "{call}: the first call that a look does not make is {reached:?}, {refused} failures were fatal to it"
        );
        assert!(reached.is_some() && refused > 5, "{reached:?}, {refused}");
    }
    assert_eq!(voicelane.warnings(), "[]");
    for family in Family::BOTH {
        lab.exchange(&unbound(&lab, family), media(family));
    }
    voicelane.stop();
}

/// On a busy machine a reconciliation takes long but costs little CPU time.
#[test]
fn a_delayed_reconciliation_does_not_delay_the_next() {
    require(&[("strace", "strace")]);
    let lab = Lab::new();
    let voicelane = start(&lab);
    let last = voicelane.last_event();
    let mut command = Command::new("strace");
    command.args(["--follow-forks", "--inject=sendto:delay_enter=20000"]);
    command.arg(format!("--attach={}", voicelane.pid()));
    let mut strace = Program::start("strace", &mut command);
    strace.wait_for("attached");
    lab.laptop.run("ip rule flush protocol 118");
    let slow = voicelane.event_after(last, EventKind::RulesRestored);
    strace.end(Signal::SIGINT);
    lab.laptop.run("ip rule flush protocol 118");
    let next = voicelane.event_after(slow.sequence, EventKind::RulesRestored);
    let took = Duration::from_micros(next.duration_us.expect("it is timed"));
    println!(
        "{:?} us while it had to wait, {took:?} then",
        slow.duration_us
    );
    assert!(took < LONGEST_LOSS, "{slow} {next}");
    voicelane.stop();
}

/// RFC 4787 REQ-3, RFC 5382 REQ-7: with all ports in use, the next mapping is refused; no port is shared.
#[test]
fn exhausted_ports_are_refused_and_never_shared() {
    const PORTS: u16 = 8;
    let lab = Lab::new();
    for number in 1..=PORTS + 3 {
        lab.laptop.ip(&format!(
            "addr add 10.99.0.{number}/32 dev lo\naddr add fd99::{number}/128 dev lo nodad"
        ));
    }
    let voicelane = start(&lab);
    // Reconciliations after the start open sockets too.
    voicelane.last_event_when_quiet();
    lab.laptop.set(
        "ipv4/ip_local_port_range",
        &format!("50000 {}", 50_000 + PORTS - 1),
    );
    let refused = || {
        let status = voicelane.status();
        let count = &status["status"]["kernel_errors"]["open_eaddrinuse"];
        count.as_u64().unwrap_or(0)
    };
    for family in Family::BOTH {
        let before = refused();
        // All from one port, which the first one keeps; the others need another one.
        let sockets: Vec<_> = (1..=PORTS + 3)
            .map(|number| {
                let text = format!("{}{number}", family.pick("10.99.0.", "fd99::"));
                let address = text.parse().expect("an address");
                let socket = udp(&lab.laptop, SocketAddr::new(address, 40_404));
                let payload = probe();
                let sent = socket.send_to(payload.as_bytes(), media(family));
                sent.expect("the TUN takes it");
                let is_answered = matches!(answer(&socket, &payload), Ok(Some(_)));
                let seen = lab.on_uplink(&payload);
                assert_eq!(is_answered, !seen.is_empty(), "{family:?} {number}");
                (socket, seen.first().and_then(Frame::source_port))
            })
            .collect();
        let ports: BTreeSet<_> = sockets.iter().filter_map(|(_, port)| *port).collect();
        assert_eq!(ports.len(), usize::from(PORTS) + 1, "{family:?}: {ports:?}");
        assert_eq!(refused() - before, 2, "{family:?}");

        let before = refused();
        let connect = |number: u16| {
            let host = [at::MEDIA, at::MEDIA_2][usize::from(number % 2)];
            let first = family.pick(41_000, 42_000);
            let from = SocketAddr::new(family.unspecified(), first + number);
            lab.laptop.enter(|| {
                let domain = family.pick(Domain::IPV4, Domain::IPV6);
                let socket = Socket::new(domain, Type::STREAM, None)?;
                socket.bind(&from.into())?;
                let to = host.at(family, MEDIA_PORT);
                socket.connect_timeout(&to.into(), PATIENCE)?;
                Ok::<_, std::io::Error>(socket)
            })
        };
        let streams: Vec<_> = (0..PORTS).map(connect).collect();
        let open = streams.iter().filter(|stream| stream.is_ok()).count();
        assert_eq!(open, usize::from(PORTS), "{family:?}: {streams:?}");
        let error = connect(PORTS).expect_err("there is no port for it");
        assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{family:?}");
        assert_eq!(refused() - before, 1, "{family:?}");
        let syns = lab.on_laptop.frames(|frame| {
            let leaves = frame.interface == UPLINK && frame.direction == FrameDirection::Out;
            let of_family = frame.headers.to.is_ipv4() == (family == Family::V4);
            leaves && of_family && matches!(frame.headers.transport, FrameTransport::Tcp(..))
        });
        let ports: BTreeSet<_> = syns.iter().filter_map(Frame::source_port).collect();
        assert_eq!(ports.len(), open, "{family:?}: {ports:?}");
    }
    let warnings = voicelane.warnings();
    assert!(warnings.contains("ip_local_port_range"), "{warnings}");
    lab.laptop.set("ipv4/ip_local_port_range", "32768 60999");
    for family in Family::BOTH {
        lab.exchange(&unbound(&lab, family), media(family));
    }
    voicelane.stop();
}

#[test]
fn a_full_uplink_queue_loses_datagrams_but_no_call() {
    let lab = Lab::new();
    let voicelane = start(&lab);
    let sockets = Family::BOTH.map(|family| {
        let socket = unbound(&lab, family);
        lab.exchange(&socket, media(family));
        (family, socket)
    });
    // A queue that is too small for media, but large enough for neighbour discovery.
    lab.laptop.run(&format!(
        "tc qdisc add dev {UPLINK} root tbf rate 1mbit burst 150 limit 10000"
    ));
    for (family, socket) in &sockets {
        let payload = probe();
        socket
            .send_to(payload.as_bytes(), media(*family))
            .expect("the TUN takes it");
        // A router with a full queue is silent too.
        let heard = answer(socket, &payload);
        assert!(matches!(heard, Ok(None)), "{family:?}: {heard:?}");
    }
    let failed = voicelane.drops("outbound", "send_failed");
    assert_eq!(failed, 2, "{}", voicelane.status());
    let warnings = voicelane.warnings();
    assert!(warnings.contains("queue is full"), "{warnings}");
    lab.laptop.run(&format!("tc qdisc del dev {UPLINK} root"));
    for (family, socket) in &sockets {
        lab.exchange(socket, media(*family));
    }
    voicelane.stop();
}

/// Sends until the datagram leaves with the marking of media. Before, it leaves as any other.
fn ask_until_captured(lab: &Lab, socket: &UdpSocket, to: SocketAddr) -> (String, Vec<Frame>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert_recovers(socket, to);
        let (_, payload) = lab.exchange(socket, to);
        let frames = lab.on_uplink(&payload);
        if frames[0].headers.dscp() == 46 {
            return (payload, frames);
        }
        assert!(
            Instant::now() < deadline,
            "{to} stays uncaptured: {frames:?}"
        );
    }
}

/// Returns the next hops of captured families.
fn gateways(voicelane: &Voicelane) -> [Value; 2] {
    let status = voicelane.status();
    let uplink = &status["status"]["uplink"];
    ["gateway_v4", "gateway_v6"].map(|key| uplink[key].clone())
}

/// RFC 4787 REQ-2: all mappings move together.
#[test]
fn calls_follow_an_address_that_goes_and_returns() {
    let lab = Lab::new();
    let voicelane = start(&lab);
    let sockets = Family::BOTH.map(|family| {
        let socket = unbound(&lab, family);
        lab.exchange(&socket, media(family));
        (family, socket)
    });
    let at::DualAddress { v4, v6 } = at::LAPTOP;
    let (home4, home6) = (at::HOME.v4, at::HOME.v6);
    let renewed = ["192.168.7.11", "2001:db8:7::11"];
    // The same address returns, then another one, as after a new lease.
    for [next4, next6] in [[v4.to_string(), v6.to_string()], renewed.map(str::to_owned)] {
        lab.laptop
            .ip(&format!("addr flush dev {UPLINK} scope global"));
        let deadline = Instant::now() + PATIENCE;
        // No family is captured any more.
        while !gateways(&voicelane).iter().all(Value::is_null) {
            assert!(Instant::now() < deadline, "{}", voicelane.status());
            thread::sleep(Duration::from_millis(20));
        }
        lab.laptop.ip(&format!(
            "addr add {next4}/24 dev {UPLINK}\naddr add {next6}/64 dev {UPLINK} nodad\n\
             route add default via {home4}\nroute replace ::/0 via {home6} dev {UPLINK}"
        ));
        for (family, socket) in &sockets {
            let (payload, frames) = ask_until_captured(&lab, socket, media(*family));
            let source = family.pick(&next4, &next6).parse();
            assert_eq!(Ok(frames[0].headers.from), source, "{frames:?}");
            let inside = lab.on_laptop.carrying(&payload);
            assert!(
                inside.iter().any(|frame| frame.interface == TUN),
                "{inside:?}"
            );
        }
    }
    voicelane.stop();
}
