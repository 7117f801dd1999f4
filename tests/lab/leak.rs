//! The leak matrix: protocol, port and address just inside and just outside the policy, each seen on the right link.

use std::net::{IpAddr, SocketAddr};

use crate::support::addresses as at;
use crate::support::caller::{Family, icmp, ping, probe, tcp_exchange, udp};
use crate::support::voicelane::Voicelane;
use crate::support::vpn::VpnKind;
use crate::support::{Lab, PathTaken};

/// Just inside and just outside of each port range, and two that never leave.
const PORTS: [u16; 9] = [3477, 3478, 3479, 9999, 10000, 60000, 60001, 53, 443];

/// What an address is to the vendor. Written from the vendor's documents, not from the product's catalogue.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// The global media range: UDP 3478 and 10000-60000.
    Media,
    /// A network-test host: UDP 3478.
    Test,
    /// Neither.
    Stranger,
}

/// The edges of each prefix, and what lies beside them.
const ADDRESSES: [(&str, Role); 18] = [
    ("168.86.127.255", Role::Stranger),
    ("168.86.128.0", Role::Media),
    ("168.86.128.1", Role::Media),
    ("168.86.191.254", Role::Media),
    ("168.86.191.255", Role::Media),
    ("168.86.192.0", Role::Stranger),
    ("13.231.194.209", Role::Stranger),
    ("13.231.194.210", Role::Test),
    ("13.231.194.211", Role::Stranger),
    ("192.0.2.53", Role::Stranger),
    ("2001:db8:86:3fff:ffff:ffff:ffff:ffff", Role::Stranger),
    ("2001:db8:86:4000::", Role::Media),
    ("2001:db8:86:7fff:ffff:ffff:ffff:ffff", Role::Media),
    ("2001:db8:86:8000::", Role::Stranger),
    ("2001:db8:31::20f", Role::Stranger),
    ("2001:db8:31::210", Role::Test),
    ("2001:db8:31::211", Role::Stranger),
    ("2001:db8:53::53", Role::Stranger),
];

/// The protocols of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Udp,
    Tcp,
    Icmp,
}

/// Whether the vendor's documents call this media that should leave the VPN.
fn is_media(role: Role, protocol: Protocol, port: u16) -> bool {
    match (role, protocol) {
        (Role::Media, Protocol::Udp) => matches!(port, 3478 | 10000..=60000),
        (Role::Test, Protocol::Udp) => port == 3478,
        _ => false,
    }
}

fn addresses() -> impl Iterator<Item = (IpAddr, Role)> {
    ADDRESSES
        .map(|(text, role)| (text.parse().expect("the table is right"), role))
        .into_iter()
}

/// Probes every cell and gives the wrong ones. `expected` says the way of a cell, by whether it is media.
fn wrong_cells(
    lab: &Lab,
    local: Option<at::DualAddress>,
    expected: impl Fn(bool) -> PathTaken,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut judge = |protocol, to: SocketAddr, role, payload: &str| {
        let media = is_media(role, protocol, to.port());
        let path = lab.settled_path(payload);
        if path != expected(media) {
            wrong.push(format!("{protocol:?} {to} ({role:?}) went {path:?}"));
        }
    };
    for family in Family::BOTH {
        let source = local.map_or(family.unspecified(), |dual| dual.of(family));
        let datagrams = udp(&lab.laptop, SocketAddr::new(source, 0));
        let echoes = icmp(&lab.laptop, family);
        for (address, role) in addresses().filter(|(address, _)| Family::of(*address) == family) {
            for port in PORTS {
                let to = SocketAddr::new(address, port);
                let (_, payload) = lab.exchange(&datagrams, to);
                judge(Protocol::Udp, to, role, &payload);
                judge(Protocol::Tcp, to, role, &tcp_exchange(&lab.laptop, to));
            }
            let payload = probe();
            ping(&echoes, address, &payload).expect("there is a route");
            judge(Protocol::Icmp, SocketAddr::new(address, 0), role, &payload);
        }
    }
    wrong
}

fn only_media_leaves(kind: VpnKind) {
    let endpoints: Vec<_> = addresses()
        .flat_map(|(address, _)| PORTS.map(|port| SocketAddr::new(address, port)))
        .collect();
    let lab = Lab::with_echo(&endpoints, &PORTS);
    let none = Vec::<String>::new();

    // First the witness proves that it can see what it is about to deny: every cell, in clear on the physical link.
    assert_eq!(
        wrong_cells(&lab, None, |_| PathTaken::Direct),
        none,
        "no VPN: all is in clear"
    );
    let _vpn = lab.start_vpn(kind);
    assert_eq!(
        wrong_cells(&lab, None, |_| PathTaken::Tunnel),
        none,
        "the VPN takes all"
    );

    let voicelane = Voicelane::start(&lab.laptop);
    let by_policy = |media| {
        if media {
            PathTaken::Direct
        } else {
            PathTaken::Tunnel
        }
    };
    for local in [None, Some(at::VPN_LAPTOP)] {
        assert_eq!(
            wrong_cells(&lab, local, by_policy),
            none,
            "voicelane, bound to {local:?}"
        );
    }
    voicelane.stop();
    assert_eq!(
        wrong_cells(&lab, None, |_| PathTaken::Tunnel),
        none,
        "the VPN takes all again"
    );
}

#[test]
fn only_media_leaves_openvpn() {
    only_media_leaves(VpnKind::OpenVpnDef1);
}

#[test]
fn only_media_leaves_wg_quick() {
    only_media_leaves(VpnKind::WgQuick);
}
