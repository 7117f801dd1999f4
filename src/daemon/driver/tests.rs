//! The packets that a wake-up reads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use super::*;
use crate::config::Config;
use crate::nat;
use crate::net::{Endpoint, TrafficClass};
use crate::wire::udp;

const POLICY: &str = "version = 1\ninclude = []\n[[service]]\nname = 'media'\ndescription = 'of this test'\nrole = 'media'\n\
                      protocol = 'udp'\nprefixes = ['198.18.0.0/24', '2001:db8:18::/64']\nports = [3478]\n\
                      allow_special_purpose = true\nsource = 'made up'\n";

/// A device with queued packets.
struct QueuedDevice(Vec<Vec<u8>>, UnixDatagram);

impl AsFd for QueuedDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }
}

impl PacketDevice for QueuedDevice {
    fn try_recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let packet = self.0.pop().ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..packet.len()].copy_from_slice(&packet);
        Ok(packet.len())
    }

    fn try_send(&mut self, _: &[u8]) -> io::Result<()> {
        unreachable!("nothing is answered")
    }
}

/// A packet of each of so many calls, of either family in turn.
fn packets(calls: u16) -> Vec<Vec<u8>> {
    let packet = |number: u16| {
        let [inside, server]: [IpAddr; 2] = if number.is_multiple_of(2) {
            [[10, 8, 0, 2], [198, 18, 0, 1]].map(|addr| Ipv4Addr::from(addr).into())
        } else {
            let server = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 1);
            [Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 2), server].map(IpAddr::from)
        };
        let headers = udp::UdpHeaders {
            source: Endpoint::new(inside, 20_000 + number),
            destination: Endpoint::new(server, 3478),
            traffic_class: TrafficClass::default(),
            hop_limit: 64,
        };
        let mut packet = Vec::new();
        udp::write_datagram(&mut packet, &headers, b"media").expect("a datagram");
        packet
    };
    (0..calls).map(packet).collect()
}

#[test]
fn a_wake_up_reads_no_more_packets_than_it_may_open_sockets_for() {
    let config = Config::parse("policy", POLICY).expect("a valid policy");
    let policy = Policy::compile(&config, "2026-01-01".parse().expect("a date"));
    let (end, _other) = UnixDatagram::pair().expect("a pair");
    let state = tempfile::tempdir().expect("a directory");
    let mut driver = Driver::new(
        Engine::new(Arc::new(policy), nat::NatSettings::default()),
        QueuedDevice(packets(3 * 16), end),
        (
            UdpRelay::new().expect("an epoll set"),
            TcpRelay::new().expect("another"),
        ),
        ServiceState::of_tun("voicelane0"),
        Arc::new(Notify::new()),
        EventLog::open(state.path()),
    );
    let now = Instant::now();
    let mut counts = Vec::new();
    for _ in 0..4 {
        counts.push(driver.read_device(now).expect("packets"));
        driver.outbox.clear();
    }
    assert_eq!(counts, [OPENINGS, OPENINGS, OPENINGS, 0]);

    driver.device.0 = packets(3 * 16);
    let taken = driver.read_device(now).expect("packets");
    assert_eq!(taken, 3 * 16, "all sockets are open");
}
