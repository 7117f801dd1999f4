//! What programs that know nothing of voicelane make of it: coturn's NAT discovery (RFC 5780) names its mapping and
//! filtering, hping3 and nping knock where nobody asked them to, iperf3 measures what it carries.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::support::addresses as at;
use crate::support::caller::{Family, answer, probe, tcp_exchange, udp};
use crate::support::namespace::require;
use crate::support::program::Program;
use crate::support::voicelane::{CONFIG, Home, TUN, Voicelane, config_with_tcp};
use crate::support::{Lab, MEDIA_PORT, UPLINK};
use serde_json::Value;
use tempfile::TempDir;
use voicelane::lab::{FrameDirection, FrameTransport};

/// The two ports of the STUN server, both of the media range.
const STUN: [u16; 2] = [33478, 33479];

/// Where iperf3 serves, over TCP and UDP.
const IPERF: u16 = 20_001;

fn start_with(lab: &Lab, filtering: &str) -> Voicelane {
    // A question that is not to be answered must not lead into the VPN.
    let config =
        format!("{CONFIG}\n[nat]\nfiltering = \"{filtering}\"\n[failover]\nto = \"none\"\n");
    Home::new(&lab.laptop, &config).start()
}

fn unbound(lab: &Lab, family: Family) -> UdpSocket {
    udp(&lab.laptop, SocketAddr::new(family.unspecified(), 0))
}

/// A STUN server as NAT discovery wants it: two addresses, two ports.
fn stun_server(lab: &Lab, family: Family, files: &TempDir) -> Program {
    let [port, other_port] = STUN;
    let mut command = lab.internet.command("turnserver");
    for host in [at::MEDIA, at::MEDIA_2] {
        command.args(["--listening-ip", &host.of(family).to_string()]);
    }
    command.args([
        &format!("--listening-port={port}"),
        &format!("--alt-listening-port={other_port}"),
        "-n",
        "--stun-only",
        "--no-tcp",
        "--no-tls",
        "--no-dtls",
        "--no-cli",
        "--verbose",
        "--log-file=stdout",
    ]);
    command.arg(format!("--pidfile={}/pid", files.path().display()));
    let mut program = Program::start("turnserver", &mut command);
    program.wait_for(&format!("{}:{other_port}", at::MEDIA_2.of(family)));
    program.wait_for("Total General servers");
    program
}

/// Coturn's verdict on what a laptop with this filtering looks like from outside.
fn assert_coturn_finds(filtering: &str, verdict: &str) {
    require(&[
        ("turnserver", "coturn"),
        ("turnutils_natdiscovery", "coturn"),
    ]);
    let lab = Lab::new();
    lab.open_home();
    let voicelane = start_with(&lab, filtering);
    let files = TempDir::new().expect("the temporary directory is writable");
    for family in Family::BOTH {
        let _server = stun_server(&lab, family, &files);
        let server = at::MEDIA.at(family, STUN[0]);
        let (address, port) = (server.ip(), server.port());
        let report = lab
            .laptop
            .run(&format!("turnutils_natdiscovery -m -f -p {port} {address}"));
        for found in ["Endpoint Independent Mapping!", verdict] {
            assert!(report.contains(found), "{family:?}: {report}");
        }
        let asked = lab
            .on_laptop
            .frames(|frame| frame.interface == TUN && frame.goes_to(server));
        assert!(!asked.is_empty(), "{family:?}: it went past voicelane");
    }
    voicelane.stop();
}

/// RFC 4787 REQ-1 and REQ-8.
#[test]
fn coturn_finds_address_dependent_filtering() {
    assert_coturn_finds("address-dependent", "Address Dependent Filtering!");
}

#[test]
fn coturn_finds_address_and_port_dependent_filtering() {
    let verdict = "Address and Port Dependent Filtering!";
    assert_coturn_finds("address-and-port-dependent", verdict);
}

#[test]
fn coturn_finds_endpoint_independent_filtering() {
    assert_coturn_finds("endpoint-independent", "Endpoint Independent Filtering!");
}

/// An application with a mapping.
struct Mapped {
    family: Family,
    socket: UdpSocket,
    /// Where strangers find it.
    outside: SocketAddr,
}

impl Mapped {
    /// Binds to an address besides the uplink's, as a VPN would bring it: at the uplink's own, strangers would find the
    /// application without us. Then asks a media gateway.
    fn new(lab: &Lab, family: Family) -> Self {
        let address = at::VPN_LAPTOP.of(family);
        let bits = family.pick("32", "128 nodad");
        lab.laptop.ip(&format!("addr add {address}/{bits} dev lo"));
        let socket = udp(&lab.laptop, SocketAddr::new(address, 0));
        let (_, payload) = lab.exchange(&socket, at::MEDIA.at(family, MEDIA_PORT));
        let port = lab.on_uplink(&payload)[0].source_port();
        Self {
            family,
            socket,
            outside: at::LAPTOP.at(family, port.expect("it is UDP")),
        }
    }
}

/// How many packets voicelane has written into its TUN, by the kernel's count.
fn delivered(lab: &Lab) -> u64 {
    packets(lab, "rx")
}

/// The packets that the kernel counted on the TUN: `rx` from voicelane, `tx` to it.
fn packets(lab: &Lab, direction: &str) -> u64 {
    let links = lab.laptop.run(&format!("ip -s -j link show {TUN}"));
    let links: Value = serde_json::from_str(&links).expect("ip writes JSON");
    links[0]["stats64"][direction]["packets"]
        .as_u64()
        .expect("every link counts")
}

/// Counts the datagrams that arrive on the laptop's physical link.
fn count_arrivals(lab: &Lab) {
    lab.laptop.nft(&format!(
        "add table inet judge
         add chain inet judge in {{ type filter hook input priority filter; }}
         add rule inet judge in iifname {UPLINK} meta l4proto udp counter"
    ));
    // An attacker on the home network itself; the router's own memory of connections is not what is tried.
    lab.home.nft(
        "add table inet judge
         add chain inet judge out { type filter hook output priority raw; }
         add rule inet judge out meta l4proto udp notrack",
    );
}

fn arrivals(lab: &Lab) -> u64 {
    let rules = lab.laptop.run("nft -j list chain inet judge in");
    let rules: Value = serde_json::from_str(&rules).expect("nft writes JSON");
    let items = rules["nftables"].as_array().expect("nft lists things");
    items
        .iter()
        .find_map(|item| {
            item["rule"]["expr"]
                .as_array()?
                .iter()
                .find_map(|it| it["counter"]["packets"].as_u64())
        })
        .expect("the rule counts")
}

/// The MAC addresses of the home router and of the laptop, on the link between them.
fn macs(lab: &Lab) -> (String, String) {
    let link = |namespace: &crate::support::namespace::Namespace, name: &str| {
        let links = namespace.run(&format!("ip -j link show {name}"));
        let links: Value = serde_json::from_str(&links).expect("ip writes JSON");
        links[0]["address"].as_str().expect("Ethernet").to_owned()
    };
    (link(&lab.home, "lan0"), link(&lab.laptop, UPLINK))
}

/// nping as a host of any address: it writes the whole frame.
fn nping(lab: &Lab, from: SocketAddr, to: SocketAddr, count: u32) {
    let family = if from.is_ipv4() { "-4" } else { "-6" };
    let (source, port) = (from.ip(), from.port());
    let (target, destination) = (to.ip(), to.port());
    let (own, next) = macs(lab);
    lab.home.run(&format!(
        "nping {family} --udp -c {count} --rate 30000 --no-capture --hide-sent -q -e lan0 --source-mac {own} \
         --dest-mac {next} -S {source} -g {port} -p {destination} --data-length 24 {target}"
    ));
}

/// RFC 4787 REQ-8.
#[test]
fn no_unsolicited_packet_of_a_hundred_thousand_passes() {
    const EACH: u32 = 28_000;
    require(&[("hping3", "hping3"), ("nping", "nmap"), ("nmap", "nmap")]);
    let mut lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let mapped = Family::BOTH.map(|family| Mapped::new(&lab, family));
    lab.stop_captures();
    count_arrivals(&lab);
    let (before, unsolicited) = (delivered(&lab), voicelane.drops("inbound", "unsolicited"));
    for Mapped {
        family, outside, ..
    } in &mapped
    {
        // Another media gateway, at the mapping itself.
        nping(&lab, at::MEDIA_2.at(*family, MEDIA_PORT), *outside, EACH);
        // A scan of what lies around it.
        let (flag, host, port) = (family.pick("", "-6"), outside.ip(), outside.port());
        let (low, high) = (port - 2_000, port.saturating_add(2_000));
        lab.home.run(&format!(
            "nmap {flag} -sU -Pn -n --max-retries 0 --min-rate 4000 -p {low}-{high} {host}"
        ));
    }
    // Strangers of any address; hping3 knows only IPv4.
    let port = mapped[0].outside.port();
    for destination in [format!("{port}"), format!("++{}", port - 1_000)] {
        let line = format!(
            "--udp --rand-source -p {destination} -c {EACH} -i u10 -q -d 24 -I lan0 {}",
            at::LAPTOP.v4
        );
        // It complains that nobody answers.
        let hping3 = lab.home.command("hping3").args(line.split(' ')).output();
        hping3.expect("ip is there");
    }
    let arrived = arrivals(&lab);
    assert!(arrived > 100_000, "{arrived} arrived");
    let knocked = voicelane.drops("inbound", "unsolicited") - unsolicited;
    assert!(
        (10_000..=arrived).contains(&knocked),
        "{knocked} of {arrived} came as far as voicelane"
    );
    assert_eq!(delivered(&lab), before, "{}", voicelane.status());
    for Mapped { family, socket, .. } in &mapped {
        let mut buffer = [0; 64];
        let heard = socket.recv_from(&mut buffer);
        assert!(heard.is_err(), "{family:?}: {heard:?} got in");
        // And the invited still do.
        let payload = probe();
        let to = at::MEDIA.at(*family, MEDIA_PORT);
        socket
            .send_to(payload.as_bytes(), to)
            .expect("there is a route");
        let from = answer(socket, &payload).expect("no error is pending");
        assert_eq!(from, Some(to));
    }
}

/// RFC 4787 REQ-8.
#[test]
fn strict_and_lax_filtering_behave_as_documented() {
    const COUNT: u32 = 2_000;
    require(&[("nping", "nmap")]);
    for (filtering, lets_in) in [
        ("address-and-port-dependent", false),
        ("endpoint-independent", true),
    ] {
        let mut lab = Lab::new();
        let voicelane = start_with(&lab, filtering);
        let mapped = Family::BOTH.map(|family| Mapped::new(&lab, family));
        lab.stop_captures();
        for Mapped {
            family, outside, ..
        } in &mapped
        {
            // The host that was spoken to, from a port that was not.
            let friend = at::MEDIA.at(*family, MEDIA_PORT + 1);
            let before = delivered(&lab);
            nping(&lab, friend, *outside, COUNT);
            let got_in = delivered(&lab) - before;
            assert_eq!(
                got_in > 0,
                lets_in,
                "{family:?} {filtering}: {got_in} got in"
            );
        }
        voicelane.stop();
    }
}

/// RFC 5508 REQ-3: what is cut short, or about somebody else's datagram, is believed by nobody.
#[test]
fn forged_and_truncated_errors_change_nothing() {
    require(&[("scapy3", "python3-scapy")]);
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    let (own, next) = macs(&lab);
    for family in Family::BOTH {
        let host = at::MEDIA.at(family, MEDIA_PORT);
        let socket = unbound(&lab, family);
        socket.connect(host).expect("there is a route");
        let (_, payload) = lab.exchange_connected(&socket);
        let port = lab.on_uplink(&payload)[0].source_port();
        let forge = |kind: &str| {
            let (laptop, port) = (at::LAPTOP.of(family), port.expect("it is UDP"));
            let (stranger, host) = (at::MEDIA_2.of(family), host.ip());
            lab.home.run_with(
                &format!(
                    "/usr/bin/python3 - lan0 {own} {next} {laptop} {port} {host} {MEDIA_PORT} {stranger} {kind}"
                ),
                include_str!("../support/forge.py"),
            );
        };
        let returned = || voicelane.status()["status"]["errors_returned"].clone();
        let (before, strangers) = (returned(), voicelane.drops("inbound", "unsolicited"));
        forge("forged");
        let (_, payload) = lab.exchange_connected(&socket);
        assert_eq!(lab.on_uplink(&payload)[0].source_port(), port);
        assert_eq!(returned(), before, "{family:?}: {}", voicelane.status());
        // Some came as far as us: the kernel does not know whom the socket has sent to.
        let refused = voicelane.drops("inbound", "unsolicited") - strangers;
        assert!(refused > 0, "{family:?}: {}", voicelane.status());

        // One that is right gets through, whoever reports it, and ends nothing either.
        forge("true");
        let heard = answer(&socket, "no answer is due");
        assert!(heard.is_err(), "{family:?}: {heard:?}");
        let (_, payload) = lab.exchange_connected(&socket);
        assert_eq!(lab.on_uplink(&payload)[0].source_port(), port);
    }
    voicelane.stop();
}

#[test]
fn malformed_packets_do_no_harm() {
    const COUNT: u32 = 20_000;
    require(&[("scapy3", "python3-scapy")]);
    let lab = Lab::new();
    // With TCP, so that the proxy gets its share.
    let config = config_with_tcp(&MEDIA_PORT.to_string());
    let voicelane = Home::new(&lab.laptop, &config).start();
    let sockets = Family::BOTH.map(|family| {
        let socket = unbound(&lab, family);
        lab.exchange(&socket, at::MEDIA.at(family, MEDIA_PORT));
        (family, socket)
    });
    let (taken, memory) = (packets(&lab, "tx"), voicelane.memory());
    for family in Family::BOTH {
        let (from, to) = (at::LAPTOP.of(family), at::MEDIA_2.of(family));
        // Debian's own Python is the one that has Debian's scapy.
        lab.laptop.run_with(
            &format!("/usr/bin/python3 - {TUN} {COUNT} 1 {from} {to} {MEDIA_PORT}"),
            include_str!("../support/mutate.py"),
        );
    }
    let taken = packets(&lab, "tx") - taken;
    assert!(taken > u64::from(COUNT) * 3 / 2, "{taken} went into it");
    let grown = voicelane.memory().saturating_sub(memory);
    assert!(grown < 16 << 20, "it grew by {grown} bytes");
    let status = voicelane.status();
    for (family, socket) in &sockets {
        lab.exchange(socket, at::MEDIA.at(*family, MEDIA_PORT));
        tcp_exchange(&lab.laptop, at::MEDIA.at(*family, MEDIA_PORT));
    }
    // They got as deep as they should, and no deeper than they may: what left is the policy's.
    for reason in ["truncated", "udp_checksum", "tcp_header", "ip_length"] {
        let count = status["status"]["outbound"]["drops"][reason].as_u64();
        assert!(count > Some(0), "{reason}: {status}");
    }
    let strays = lab.on_laptop.frames(|frame| {
        let is_ours = matches!(
            frame.headers.transport,
            FrameTransport::Udp(..) | FrameTransport::Tcp(..)
        );
        let leaves = frame.interface == UPLINK && frame.direction == FrameDirection::Out;
        is_ours && leaves && !is_media(frame.headers.to)
    });
    assert!(strays.is_empty(), "{strays:#?}");
    voicelane.stop();
}

/// Whether the policy names the address.
fn is_media(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.to_bits() >> 14 == at::MEDIA.v4.to_bits() >> 14,
        IpAddr::V6(address) => address.to_bits() >> 78 == at::MEDIA.v6.to_bits() >> 78,
    }
}

/// iperf3's report of a run between the laptop and a media gateway.
fn iperf3(lab: &Lab, family: Family, arguments: &str) -> Value {
    let host = at::MEDIA.of(family);
    let report = lab
        .laptop
        .run(&format!("iperf3 --json -c {host} -p {IPERF} {arguments}"));
    serde_json::from_str(&report).expect("iperf3 writes JSON")
}

#[test]
fn iperf3_measures_udp_and_tcp_in_both_directions() {
    const BYTES: u64 = 20_000_000;
    require(&[("iperf3", "iperf3")]);
    let mut lab = Lab::new();
    lab.stop_captures();
    let config = config_with_tcp(&IPERF.to_string());
    let voicelane = Home::new(&lab.laptop, &config).start();
    let count = |key: [&str; 2]| {
        let status = voicelane.status();
        status["status"][key[0]][key[1]]
            .as_u64()
            .unwrap_or_else(|| panic!("{key:?} in {status}"))
    };
    for family in Family::BOTH {
        let bound = format!("-s --forceflush -p {IPERF} -B {}", at::MEDIA.of(family));
        let mut server = lab.internet.command("iperf3");
        let mut server = Program::start("iperf3", server.args(bound.split(' ')));
        server.wait_for("listening");
        for (path, tcp, udp) in [
            ("", ["tcp", "bytes_out"], ["outbound", "packets"]),
            ("-R", ["tcp", "bytes_in"], ["inbound", "packets"]),
        ] {
            let before = count(tcp);
            let report = iperf3(&lab, family, &format!("-n {BYTES} {path}"));
            let received = report["end"]["sum_received"]["bytes"].as_u64();
            // The receiver stops counting when it hears that all is sent, which is before all has come.
            assert!(received > Some(BYTES / 2), "{family:?} {path}: {report}");
            assert!(count(tcp) - before > BYTES / 2, "it went past voicelane");

            let before = count(udp);
            let call = format!("-u -l 160 -b 640k -k 1000 {path}");
            let report = iperf3(&lab, family, &call);
            let lost = report["end"]["sum"]["lost_packets"].as_u64();
            assert!(matches!(lost, Some(0..10)), "{family:?} {path}: {report}");
            let carried = count(udp) - before;
            assert!(carried > 900, "{family:?} {path}: {carried} past: {report}");
        }
    }
}
