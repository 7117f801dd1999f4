//! TCP of a rule, with the kernel's stack on both sides: the way it takes, its marking, and what the application is told.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::addresses as at;
use crate::support::caller::{Family, tcp_exchange};
use crate::support::voicelane::{Home, TUN, Voicelane, config_with_tcp};
use crate::support::vpn::VpnKind;
use crate::support::{Lab, PathTaken, UPLINK};
use socket2::{Domain, SockRef, Socket, Type};
use voicelane::lab::{Frame, FrameDirection, FrameTransport};

/// The port of the echo service, one where a test serves, and one where nobody does.
const ECHO: u16 = 443;
const SERVED: u16 = 4430;
const SILENT: u16 = 4431;

/// Class selector 5, the code point of the rule below.
const CS5: u8 = 40;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn start(lab: &Lab) -> Voicelane {
    let config = config_with_tcp(r#"443, "4430-4431""#);
    Home::new(&lab.laptop, &config).start()
}

fn connect(lab: &Lab, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = lab
        .laptop
        .enter(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Listens on every address of the internet; `serve` gets every connection, on a thread of its own.
fn listen(lab: &Lab, serve: fn(TcpStream) -> io::Result<()>) {
    let listener = lab
        .internet
        .enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, SERVED)))
        .expect("the port is free");
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            stream
                .set_read_timeout(Some(PATIENCE))
                .expect("it is a socket");
            thread::spawn(move || serve(stream));
        }
    });
}

/// A text of so many bytes in which no two places look alike.
fn text(length: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes())
        .take(length)
        .collect()
}

/// The segments of a server's connections on one of the laptop's links.
fn segments(lab: &Lab, link: &str, server: IpAddr) -> Vec<Frame> {
    lab.on_laptop.frames(|frame| {
        frame.interface == link
            && (frame.headers.to == server || frame.headers.from == server)
            && matches!(frame.headers.transport, FrameTransport::Tcp(..))
    })
}

/// The TCP flags of a segment.
fn flags(frame: &Frame) -> u8 {
    let header = if frame.headers.to.is_ipv4() { 20 } else { 40 };
    frame.bytes[header + 13]
}

const SYN_ACK: u8 = 0x12;

/// Sends back how many bytes came, then all of them again.
fn recite(mut stream: TcpStream) -> io::Result<()> {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard)?;
    writeln!(stream, "{}", heard.len())?;
    stream.write_all(&heard)?;
    stream.shutdown(Shutdown::Write)
}

#[test]
fn a_transfer_leaves_by_the_physical_link_with_its_dscp() {
    const AMOUNT: usize = 3_000_000;
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let voicelane = start(&lab);
    listen(&lab, recite);
    for family in Family::BOTH {
        let server = at::MEDIA.at(family, SERVED);
        let mut stream = connect(&lab, server).expect("it is served");
        let sent = text(AMOUNT);
        stream.write_all(&sent).expect("it is taken");
        // The far side learns of the end and can still answer: half closed.
        stream.shutdown(Shutdown::Write).expect("it stands");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it ends in order");
        let mut expected = format!("{AMOUNT}\n").into_bytes();
        expected.extend(&sent);
        assert!(
            answer == expected,
            "{family:?}: {} bytes came back",
            answer.len()
        );

        let out = segments(&lab, UPLINK, server.ip());
        assert!(
            out.len() > AMOUNT / 1500,
            "{family:?}: all of it went there"
        );
        for frame in out
            .iter()
            .filter(|frame| frame.direction == FrameDirection::Out)
        {
            assert_eq!(frame.headers.from, at::LAPTOP.of(family), "{frame:?}");
            assert_eq!(frame.headers.dscp(), CS5, "{frame:?}");
        }
        for frame in segments(&lab, TUN, server.ip()) {
            assert!(
                frame.direction == FrameDirection::Out || frame.headers.checksums,
                "{frame:?}"
            );
        }
        // Nothing is accepted before the far side has accepted.
        let accepted = |link| {
            let all = segments(&lab, link, server.ip());
            let frame = all.iter().find(|frame| flags(frame) == SYN_ACK);
            frame.unwrap_or_else(|| panic!("a SYN-ACK on {link}")).at
        };
        assert!(accepted(UPLINK) <= accepted(TUN), "{family:?}");
        let inside = lab
            .on_gateway
            .frames(|frame| frame.headers.to == server.ip());
        assert!(
            inside.is_empty(),
            "{family:?}: also in the VPN: {inside:#?}"
        );
    }
    // Ended and forgotten on both sides.
    let status = voicelane.status();
    assert_eq!(status["status"]["tcp"]["finished"], 2, "{status}");
    assert_eq!(
        status["status"]["connections"].as_array().map(Vec::len),
        Some(0),
        "{status}"
    );
    voicelane.stop();
}

/// Connects from a port that others of the same application may have too.
fn connect_from(lab: &Lab, family: Family, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    lab.laptop.enter(|| {
        let domain = family.pick(Domain::IPV4, Domain::IPV6);
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(family.unspecified(), port).into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket.into())
    })
}

/// The port from which segments leave for a server.
fn outside_port(lab: &Lab, server: SocketAddr) -> Option<u16> {
    let seen = segments(lab, UPLINK, server.ip());
    let leaving = seen.iter().rfind(|frame| frame.goes_to(server))?;
    leaving.source_port()
}

/// RFC 5382 REQ-1 and REQ-7.
#[test]
fn an_inside_endpoint_has_one_outside_port_of_its_own() {
    let lab = Lab::new();
    let _voicelane = start(&lab);
    for family in Family::BOTH {
        let [first, second] = [at::MEDIA, at::MEDIA_2].map(|host| host.at(family, ECHO));
        let to = |port, server| {
            let stream = connect_from(&lab, family, port, server).expect("it is served");
            (stream, outside_port(&lab, server).expect("it left"))
        };
        let (_one, port) = to(41_000, first);
        let (_other, same) = to(41_000, second);
        assert_eq!(port, same, "{family:?}: whomever it connects to");
        let (_stranger, another) = to(41_001, second);
        assert_ne!(port, another, "{family:?}: somebody else's");
    }
}

/// RFC 5382 REQ-2 and REQ-2a: the far side connects to us while we connect to it, and neither listens.
#[test]
fn a_simultaneous_open_is_one_connection() {
    let lab = Lab::new();
    // What the laptop sends first is lost on the way, so that the far side's own SYN is the first that either hears.
    lab.home.nft(&format!(
        "add chain inet nat in {{ type nat hook prerouting priority dstnat; }}
         add rule inet nat in iifname wan0 meta nfproto ipv4 meta l4proto tcp dnat ip to {}
         add rule inet nat in iifname wan0 meta nfproto ipv6 meta l4proto tcp dnat ip6 to {}
         add chain inet nat through {{ type filter hook forward priority filter; }}
         add rule inet nat through tcp dport {SILENT} tcp flags & (syn | ack) == syn drop",
        at::LAPTOP.v4,
        at::LAPTOP.v6
    ));
    let _voicelane = start(&lab);
    for family in Family::BOTH {
        let here = at::MEDIA.at(family, SILENT);
        thread::scope(|scope| {
            let application = scope.spawn(|| connect(&lab, here).expect("they meet"));
            let deadline = Instant::now() + PATIENCE;
            let port = loop {
                if let Some(port) = outside_port(&lab, here) {
                    break port;
                }
                assert!(Instant::now() < deadline, "{family:?}: no SYN leaves");
                thread::sleep(Duration::from_millis(10));
            };
            let mut peer = lab.internet.enter(|| {
                let domain = family.pick(Domain::IPV4, Domain::IPV6);
                let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
                socket.bind(&here.into()).expect("the port is free");
                let there = at::HOME_PUBLIC.at(family, port);
                let connected = socket.connect_timeout(&there.into(), PATIENCE);
                connected.expect("they meet");
                TcpStream::from(socket)
            });
            let mut application = application.join().expect("it does not panic");
            peer.write_all(b"at once").expect("it stands");
            let mut heard = [0; 7];
            application.read_exact(&mut heard).expect("it stands");
            assert_eq!(&heard, b"at once");
        });
    }
}

/// RFC 5382 REQ-2.
#[test]
fn a_refused_connection_is_refused_to_the_client() {
    let lab = Lab::new();
    let _voicelane = start(&lab);
    for family in Family::BOTH {
        let server = at::MEDIA.at(family, SILENT);
        let error = connect(&lab, server).expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}");
        let asked = segments(&lab, UPLINK, server.ip());
        assert!(
            asked.iter().any(|frame| frame.goes_to(server)),
            "the far side refused, not we"
        );
    }
}

/// RFC 5382 REQ-9.
#[test]
fn an_unreachable_host_is_reported_by_icmp() {
    let lab = Lab::new();
    lab.home.nft(
        "add chain inet nat through { type filter hook forward priority filter; }
         add rule inet nat through tcp dport 4430 meta nfproto ipv4 reject with icmp host-unreachable
         add rule inet nat through tcp dport 4430 meta nfproto ipv6 reject with icmpv6 addr-unreachable",
    );
    let _voicelane = start(&lab);
    for (family, expected) in [
        (Family::V4, FrameTransport::Icmp(3, 1)),
        (Family::V6, FrameTransport::Icmp(1, 3)),
    ] {
        let error = connect(&lab, at::MEDIA.at(family, SERVED)).expect_err("there is no path");
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{family:?}");
        let told = lab.on_laptop.frames(|frame| {
            let ours = frame.headers.to.is_ipv4() == (family == Family::V4);
            ours && frame.interface == TUN && frame.direction == FrameDirection::In
        });
        let [frame] = &told[..] else {
            panic!("one packet: {told:#?}")
        };
        assert_eq!(frame.headers.transport, expected);
        assert!(frame.headers.checksums, "{frame:?}");
    }
}

/// Says something, and breaks off.
fn break_off(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"so far")?;
    thread::sleep(Duration::from_millis(200));
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// RFC 5382 REQ-2.
#[test]
fn a_reset_arrives_after_the_data_before_it() {
    let lab = Lab::new();
    let _voicelane = start(&lab);
    listen(&lab, break_off);
    for family in Family::BOTH {
        let mut stream = connect(&lab, at::MEDIA.at(family, SERVED)).expect("it is served");
        let mut heard = [0; 6];
        stream.read_exact(&mut heard).expect("so much was said");
        assert_eq!(&heard, b"so far");
        let error = stream.read(&mut heard).expect_err("a reset is no end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{family:?}");
    }
}

/// Speaks for ever.
fn babble(mut stream: TcpStream) -> io::Result<()> {
    let words = [0x5a; 8_192];
    loop {
        stream.write_all(&words)?;
    }
}

#[test]
fn a_receiver_that_does_not_read_stops_the_sender() {
    let lab = Lab::new();
    let voicelane = start(&lab);
    listen(&lab, babble);
    let listeners: Vec<_> = Family::BOTH
        .map(|family| connect(&lab, at::MEDIA.at(family, SERVED)).expect("it is served"))
        .into();
    let carried = || -> u64 {
        let status = voicelane.status();
        status["status"]["tcp"]["bytes_in"]
            .as_u64()
            .expect("a number")
    };
    let mut before = carried();
    let still = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut before, carried()) == before
    });
    assert!(still, "the windows never close");
    // What waits are the application's receive buffers, 6 MiB each at most by default, and our windows.
    assert!((1..32 << 20).contains(&before), "{before} bytes wait");
    let mut listener = &listeners[0];
    let mut heard = vec![0; 1 << 20];
    for _ in 0..32 {
        listener
            .read_exact(&mut heard)
            .expect("it goes on when one listens");
    }
    assert!(heard.iter().all(|byte| *byte == 0x5a));
}

#[test]
fn a_hundred_connections_at_once() {
    let lab = Lab::new();
    let voicelane = start(&lab);
    for family in Family::BOTH {
        let server = at::MEDIA_2.at(family, ECHO);
        let streams: Vec<_> = (0..100)
            .map(|_| connect(&lab, server).expect("it is served"))
            .collect();
        let status = voicelane.status();
        assert_eq!(
            status["status"]["connections"].as_array().map(Vec::len),
            Some(100)
        );
        thread::scope(|scope| {
            for mut stream in &streams {
                scope.spawn(move || {
                    let said = text(100_000);
                    let mut heard = vec![0; said.len()];
                    let mut writer = stream;
                    thread::scope(|scope| {
                        scope.spawn(|| writer.write_all(&said).expect("it is taken"));
                        stream.read_exact(&mut heard).expect("it comes back");
                    });
                    assert!(heard == said);
                });
            }
        });
        drop(streams);
        let gone = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(50));
            voicelane.status()["status"]["connections"]
                .as_array()
                .is_some_and(Vec::is_empty)
        });
        assert!(gone, "{}", voicelane.status());
    }
}

#[test]
fn tcp_outside_the_rules_stays_in_the_vpn() {
    let lab = Lab::new();
    let _vpn = lab.start_vpn(VpnKind::WgQuick);
    let _voicelane = start(&lab);
    for family in Family::BOTH {
        for (server, path) in [
            (at::MEDIA.at(family, ECHO), PathTaken::Direct),
            (
                at::MEDIA.at(family, crate::support::MEDIA_PORT),
                PathTaken::Tunnel,
            ),
            (at::OTHER.at(family, ECHO), PathTaken::Tunnel),
        ] {
            let payload = tcp_exchange(&lab.laptop, server);
            assert_eq!(lab.path_of(&payload), path, "{server}");
        }
    }
}
