//! Uplink selection with the routes of several VPNs.

use voicelane::net::{Family, RouteTable};
use voicelane::route::desired::RoutingIds;
use voicelane::route::desired::{UplinkEvidence, UplinkGateway, Uplinks};
use voicelane::route::netlink::Rtnetlink;
use voicelane::route::uplink::{UplinkError, UplinkPreferences, choose};

use super::world::ip;
use crate::support::netns::{in_namespace, run};

/// Returns the uplinks of a namespace after `setup`, without a TUN.
fn uplinks_of(setup: &'static str) -> Result<Uplinks, UplinkError> {
    in_namespace(move || async move {
        run(setup);
        let kernel = Rtnetlink::open().expect("a socket");
        let observed = kernel.observe().await.expect("observed");
        choose(
            &observed,
            RoutingIds::default().protocol,
            &UplinkPreferences::default(),
        )
    })
}

const TWO_LINKS: &str = "
    for n in 0 1; do
        ip link add eth$n type veth peer name far$n
        ip link set eth$n up; ip link set far$n up
        ip addr add 192.0.$n.2/24 dev eth$n; ip addr add 2001:db8:$n::2/64 dev eth$n nodad
    done
    ip tuntap add tun0 mode tun; ip addr add 10.8.0.2/24 dev tun0; ip link set tun0 up
    ip link add br0 type bridge; ip link set br0 up";

#[test]
fn the_uplink_is_the_physical_interface_whatever_routes_a_vpn_adds() {
    let v4 = Some(UplinkGateway::Via(ip("192.0.0.1")));
    let v6 = Some(UplinkGateway::Via(ip("fe80::1")));
    let cases: [(&str, &str, UplinkEvidence, [Option<UplinkGateway>; 2]); 8] = [
        (
            "ip route add default via 192.0.0.1",
            "eth0",
            UplinkEvidence::DefaultRoute,
            [v4, None],
        ),
        (
            "ip route add default via 192.0.1.1 metric 600; ip route add default via 192.0.0.1 metric 100",
            "eth0",
            UplinkEvidence::DefaultRoute,
            [v4, None],
        ),
        // OpenVPN, redirect-gateway def1 ipv6.
        (
            "ip route add default via 192.0.0.1; ip -6 route add default via fe80::1 dev eth0
             ip route add 203.0.113.9/32 via 192.0.0.1
             for p in 0.0.0.0/1 128.0.0.0/1; do ip route add $p via 10.8.0.1; done
             ip -6 route add 2000::/3 dev tun0",
            "eth0",
            UplinkEvidence::DefaultRoute,
            [v4, v6],
        ),
        // OpenVPN, redirect-gateway; vpnc-script.
        (
            "ip route add 203.0.113.9/32 via 192.0.0.1; ip route add default dev tun0; ip -6 route add default dev tun0",
            "eth0",
            UplinkEvidence::HostRoute,
            [v4, None],
        ),
        (
            "ip -6 route add 2001:db8:ff::9/128 via fe80::1 dev eth0; ip -6 route add default dev tun0",
            "eth0",
            UplinkEvidence::HostRoute,
            [None, v6],
        ),
        (
            "ip -6 route add default via fe80::1 dev eth0",
            "eth0",
            UplinkEvidence::DefaultRoute,
            [None, v6],
        ),
        (
            "ip route add default via 192.0.0.1 table 77; ip rule add table 77",
            "eth0",
            UplinkEvidence::OtherTable(RouteTable(77)),
            [v4, None],
        ),
        // A router of the other family.
        (
            "ip -4 route add default via inet6 fe80::1 dev eth0; ip route add default dev tun0 metric 1",
            "eth0",
            UplinkEvidence::DefaultRoute,
            [v6, None],
        ),
    ];
    for (routes, name, why, gateways) in cases {
        let setup: &'static str = format!("{TWO_LINKS}\n{routes}").leak();
        let uplinks = uplinks_of(setup).unwrap_or_else(|error| panic!("{routes}: {error}"));
        for (_, uplink) in uplinks.present() {
            assert_eq!((uplink.name.as_str(), uplink.why), (name, why), "{routes}");
        }
        let found = Family::BOTH.map(|family| Some(uplinks[family].as_ref()?.gateway));
        assert_eq!(found, gateways, "{routes}");
    }
}

#[test]
fn without_a_physical_interface_the_error_names_all_candidates() {
    let setup = format!(
        "{TWO_LINKS}\nip route add default dev tun0; ip route add default via 192.0.0.1 metric 9\nip link set far0 down"
    );
    let error = uplinks_of(setup.leak()).expect_err("no uplink");
    assert_eq!(
        error.to_string(),
        "no network connection found (Wi-Fi or cable): tun0 (IPv4) is a tunnel, eth0 (IPv4) has no carrier; name one with --uplink IFACE"
    );
    assert!(
        matches!(uplinks_of(TWO_LINKS), Err(UplinkError::NotFound(rejected)) if rejected.is_empty())
    );
}
