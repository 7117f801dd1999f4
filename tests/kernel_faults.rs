//! What the kernel may refuse while calls are on: descriptors, sends, addresses. Each refusal is counted, status says
//! what to do about it, the service lives, and once the cause has gone the same sockets of the application work again.

#[path = "support/lab/mod.rs"]
mod lab;

use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lab::addresses as at;
use lab::caller::{Family, answer, probe, udp};
use lab::frame::Frame;
use lab::namespace::{require, run};
use lab::program::{PATIENCE, Program};
use lab::voicelane::{Home, TUN, Voicelane, config_with_tcp};
use lab::{Lab, MEDIA_PORT, UPLINK};
use nix::sys::signal::Signal;
use serde_json::Value;

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

/// Asks until an answer comes: what went wrong may take a moment to be mended.
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

/// Sets how many descriptors the service may have; only as a soft limit, which may be raised again.
fn limit_descriptors(voicelane: &Voicelane, limit: usize) {
    let arguments = [
        format!("--pid={}", voicelane.pid()),
        format!("--nofile={limit}:"),
    ];
    run(Command::new("prlimit").args(arguments), "");
}

#[test]
fn without_descriptors_the_service_lives_and_says_so() {
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
            // Some are refused, and learn it.
            let _ = socket.send_to(payload.as_bytes(), media(family));
            (family, socket)
        })
        .collect();
    let failed = voicelane.drops("outbound", "open_failed");
    assert!(failed > 0, "{}", voicelane.status());
    let warnings = voicelane.warnings();
    assert!(warnings.contains("LimitNOFILE"), "{warnings}");
    // A TCP connection is refused at once instead of left waiting.
    for family in Family::BOTH {
        let connected = lab
            .laptop
            .enter(|| TcpStream::connect_timeout(&media(family), PATIENCE));
        let error = connected.expect_err("there is no descriptor for it");
        assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{family:?}");
    }
    limit_descriptors(&voicelane, 4_096);
    for (family, socket) in &sockets {
        assert_recovers(socket, media(*family));
    }
    assert_eq!(voicelane.drops("outbound", "open_failed"), failed);
    voicelane.stop();
}

/// The rules are legacy iptables', which gives no notice: for up to a minute, nobody but the kernel's refusals tells.
#[test]
fn a_firewall_that_forbids_sending_is_named() {
    require(&[
        ("iptables-legacy", "iptables"),
        ("ip6tables-legacy", "iptables"),
    ]);
    for verdict in ["DROP", "REJECT"] {
        let lab = Lab::new();
        let voicelane = start(&lab);
        let sockets = Family::BOTH.map(|family| {
            let socket = unbound(&lab, family);
            lab.ask(&socket, media(family));
            (family, socket)
        });
        let rule = |verb| {
            for program in ["iptables-legacy", "ip6tables-legacy"] {
                let what = format!("OUTPUT -o {UPLINK} -p udp -j {verdict}");
                lab.laptop.run(&format!("{program} {verb} {what}"));
            }
        };
        rule("-I");
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
        rule("-D");
        for (family, socket) in &sockets {
            assert_recovers(socket, media(*family));
        }
        voicelane.stop();
    }
}

#[test]
fn a_full_queue_of_the_uplink_loses_one_datagram_and_no_call() {
    require(&[("strace", "strace")]);
    let lab = Lab::new();
    let voicelane = start(&lab);
    let sockets = Family::BOTH.map(|family| {
        let socket = unbound(&lab, family);
        lab.ask(&socket, media(family));
        (family, socket)
    });
    let process = voicelane.pid().to_string();
    let mut strace = Program::start(
        "strace",
        Command::new("strace").args([
            "--follow-forks",
            "--inject=sendto,sendmsg,sendmmsg:error=ENOBUFS:when=1+2",
            "--attach",
            &process,
        ]),
    );
    strace.wait_for("attached");
    // Every second call of the kernel fails.
    let mut lost = 0;
    for (family, socket) in &sockets {
        let heard = [(); 6].map(|()| {
            let payload = probe();
            socket
                .send_to(payload.as_bytes(), media(*family))
                .expect("the TUN takes it");
            matches!(answer(socket, &payload), Ok(Some(_)))
        });
        let unheard = heard.iter().filter(|heard| !**heard).count();
        assert!((1..6).contains(&unheard), "{family:?}: {heard:?}");
        lost += unheard as u64;
    }
    strace.end(Signal::SIGINT);
    let failed = voicelane.drops("outbound", "send_failed");
    assert_eq!(failed, lost, "{}", voicelane.status());
    let warnings = voicelane.warnings();
    assert!(warnings.contains("queue is full"), "{warnings}");
    for (family, socket) in &sockets {
        lab.ask(socket, media(*family));
    }
    voicelane.stop();
}

/// Asks until the datagram leaves as media should: before, it leaves as anything else does.
fn ask_until_captured(lab: &Lab, socket: &UdpSocket, to: SocketAddr) -> (String, Vec<Frame>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert_recovers(socket, to);
        let (_, payload) = lab.ask(socket, to);
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

/// The next hops of the two families, as far as they are captured.
fn gateways(voicelane: &Voicelane) -> [Value; 2] {
    let status = voicelane.status();
    let uplink = &status["status"]["uplink"];
    ["gateway_v4", "gateway_v6"].map(|key| uplink[key].clone())
}

#[test]
fn an_address_that_goes_and_comes_back_takes_the_calls_along() {
    let lab = Lab::new();
    let voicelane = start(&lab);
    let sockets = Family::BOTH.map(|family| {
        let socket = unbound(&lab, family);
        lab.ask(&socket, media(family));
        (family, socket)
    });
    let at::Dual { v4, v6 } = at::LAPTOP;
    let (home4, home6) = (at::HOME.v4, at::HOME.v6);
    let renewed = ["192.168.7.11", "2001:db8:7::11"];
    // The same address again, then another one, as a new lease may have it.
    for [next4, next6] in [[v4.to_string(), v6.to_string()], renewed.map(str::to_owned)] {
        lab.laptop
            .ip(&format!("addr flush dev {UPLINK} scope global"));
        let deadline = Instant::now() + PATIENCE;
        // Nothing is captured any more, of neither family.
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
