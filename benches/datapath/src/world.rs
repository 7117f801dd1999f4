//! Client, router and server: namespaces and links of the benchmark's own, everything of the router on one core.
//!
//! ```text
//!  client            router                          server
//!  card ---- lan0 .1 | relay | wan0 203.0.113.2 ---- card
//!  192.168.7.10                          203.0.113.1, 168.86.128.0/18
//! ```
//!
//! The relay's core does all that the kernel does with a packet from the router's card to the packet socket at the end.
//! Client and server are packet sockets on cards without an address. For pasta, which gives a namespace a way out, the
//! router is two: `lan0` is in the namespace that pasta serves, `wan0` where pasta runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::burst::Port;
use crate::frame::{Family, Mac};
use crate::namespace::Namespace;
use crate::traffic::{Course, Traffic, tos};
use voicelane::lab::{link, unique_number};

/// The router's card towards the client.
const LAN: &str = "lan0";

/// The router's card towards the server.
pub const WAN: &str = "wan0";

/// The routing table of what is to be relayed.
const TABLE: u32 = 100;

/// The addresses of a family.
struct Plan {
    family: Family,
    /// The servers' prefix; IPv4's is of the catalogue.
    servers: &'static str,
    server: IpAddr,
    client: IpAddr,
    /// The router's own, with its prefix length.
    lan: &'static str,
    /// The router's own towards the servers, and its prefix length.
    router: IpAddr,
    prefix: u8,
    /// The next hop.
    gateway: &'static str,
}

const PLANS: [Plan; 2] = [
    Plan {
        family: Family::V4,
        servers: "168.86.128.0/18",
        server: IpAddr::V4(Ipv4Addr::new(168, 86, 130, 1)),
        client: IpAddr::V4(Ipv4Addr::new(192, 168, 7, 10)),
        lan: "192.168.7.1/24",
        router: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2)),
        prefix: 24,
        gateway: "203.0.113.1",
    },
    Plan {
        family: Family::V6,
        servers: SERVERS_V6,
        server: IpAddr::V6(Ipv6Addr::new(0x2600, 0x86, 0, 0, 0, 0, 1, 1)),
        client: IpAddr::V6(Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 0x10)),
        lan: "fd00:7::1/64",
        router: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xcb, 0, 0, 0, 0, 2)),
        prefix: 64,
        gateway: "2001:db8:cb::1",
    },
];

/// The servers' prefix over IPv6, which the vendor does not have yet.
pub const SERVERS_V6: &str = "2600:86::/48";

const CLIENT_CARD: Mac = [2, 0, 0, 0, 1, 1];
const LAN_CARD: Mac = [2, 0, 0, 0, 1, 2];
const WAN_CARD: Mac = [2, 0, 0, 0, 2, 1];
const SERVER_CARD: Mac = [2, 0, 0, 0, 2, 2];

/// The two cores in use.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// That of the relay, and of all that the kernel does for it.
    pub relay: usize,
    /// That of the generator and the echo.
    pub traffic: usize,
}

/// What is between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A wire: what generator and echo can do.
    Wire,
    /// A router.
    Router,
    /// A router in two parts.
    Halves,
}

/// The namespaces of one relay; they go with this value.
pub struct World {
    /// Where the relay runs; it has the way out.
    pub router: Namespace,
    /// Where the client's card is joined.
    lan: Option<Namespace>,
    client: Namespace,
    server: Namespace,
    shape: Shape,
    plan: &'static Plan,
}

impl World {
    /// Builds it, without a relay: nothing is forwarded to the servers yet by more than the default route.
    pub fn new(shape: Shape, family: Family, cores: Cores) -> Self {
        let plan = &PLANS[usize::from(family == Family::V6)];
        let number = unique_number();
        let make = |role| Namespace::new(number, role);
        let world = Self {
            router: make("router"),
            lan: (shape == Shape::Halves).then(|| make("lan")),
            client: make("client"),
            server: make("server"),
            shape,
            plan,
        };
        let lan = world.lan();
        let card = |mac| Mac::map(mac, |byte| format!("{byte:02x}")).join(":");
        let join = |host: &Namespace, name: &str, mac, peer: &Namespace, its| {
            link::join(host, name, peer, "card").expect("the names are free");
            for (namespace, name, mac) in [(host, name, mac), (peer, "card", its)] {
                namespace.ip(&format!("link set {name} address {}", card(mac)));
            }
        };
        let (client, server) = (&world.client, &world.server);
        if shape == Shape::Wire {
            join(client, "card", CLIENT_CARD, server, SERVER_CARD);
        } else {
            join(lan, LAN, LAN_CARD, client, CLIENT_CARD);
            join(&world.router, WAN, WAN_CARD, server, SERVER_CARD);
            let Plan {
                client,
                lan: own,
                router,
                prefix,
                gateway,
                ..
            } = plan;
            for router in [lan, &world.router] {
                router.set("ipv4/ip_forward", "1");
                router.set("ipv6/conf/all/forwarding", "1");
                router.set("ipv4/conf/all/rp_filter", "0");
                router.set("ipv4/conf/default/rp_filter", "0");
            }
            // Nobody is there who could have the address already.
            lan.set(&format!("ipv6/conf/{LAN}/accept_dad"), "0");
            world
                .router
                .set(&format!("ipv6/conf/{WAN}/accept_dad"), "0");
            lan.ip(&format!(
                "addr add {own} dev {LAN}\nlink set {LAN} up\n\
                 neigh replace {client} lladdr {} dev {LAN} nud permanent",
                card(CLIENT_CARD)
            ));
            world.router.ip(&format!(
                "addr add {router}/{prefix} dev {WAN}\nlink set {WAN} up\n\
                 neigh replace {gateway} lladdr {} dev {WAN} nud permanent\n\
                 route add default via {gateway}",
                card(SERVER_CARD)
            ));
            steer(lan, LAN, cores.relay);
            steer(&world.router, WAN, cores.relay);
        }
        for end in [&world.client, &world.server] {
            end.set("ipv6/conf/all/disable_ipv6", "1");
            end.ip("link set card up");
            // Packet sockets have seen it by then; no protocol of the host behind it is to spend time on it.
            end.nft(
                "add table netdev end
                 add chain netdev end in { type filter hook ingress device card priority 0; policy drop; }",
            );
        }
        world
    }

    /// The next hop towards the servers.
    pub fn gateway(&self) -> &'static str {
        self.plan.gateway
    }

    /// The namespace that the client's packets come into first.
    pub fn lan(&self) -> &Namespace {
        self.lan.as_ref().unwrap_or(&self.router)
    }

    /// Sends the calls of the client another way than the default route, such as `dev tun0`.
    pub fn divert(&self, way: &str) {
        let (lan, servers) = (self.lan(), self.plan.servers);
        let family = match self.plan.family {
            Family::V4 => "-4",
            Family::V6 => "-6",
        };
        lan.run(&format!(
            "ip {family} route add default {way} table {TABLE}"
        ));
        lan.run(&format!(
            "ip {family} rule add iif {LAN} to {servers} ipproto udp dport 10000-60000 lookup {TABLE} priority 30000"
        ));
    }

    /// The generator and the echo of this world; `marks` tells whether the relay is to mark what leaves as voice.
    pub fn traffic(&self, marks: bool) -> Traffic {
        let [client, server] = [&self.client, &self.server].map(|end| {
            end.enter(|| Port::open("card", self.plan.family.length()))
                .expect("root may open packet sockets")
        });
        let wire = self.shape == Shape::Wire;
        let course = Course {
            macs: (CLIENT_CARD, if wire { SERVER_CARD } else { LAN_CARD }),
            client: self.plan.client,
            server: self.plan.server,
            seen: if wire {
                self.plan.client
            } else {
                self.plan.router
            },
            tos: tos(marks),
        };
        Traffic::new(client, server, course)
    }
}

/// Lets one core do what the kernel does for a card's incoming packets, as a network card's queue does.
///
/// Not for the client's and the server's cards: to hand a packet over to another core takes an interrupt of that core,
/// which in a virtual machine costs the relay more than all its system calls. So the relay's core puts a packet into the
/// packet socket itself, about what a network card's driver would cost it.
fn steer(namespace: &Namespace, card: &str, core: usize) {
    let mask = 1_u64 << core;
    let file = format!("/sys/class/net/{card}/queues/rx-0/rps_cpus");
    namespace.run_with(&format!("tee {file}"), &format!("{mask:x}"));
}
