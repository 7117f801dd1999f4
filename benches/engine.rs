//! The pure engine in memory: the cost of a packet between the TUN and the sockets, without both.
//!
//! As in a wake-up of the service, the engine handles 64 packets, then the outbox is emptied. Each packet is in a recently
//! written buffer, as after a read from the kernel. The mappings take turns without order, so that 20,000 of them exceed
//! the caches. The policy is the compiled-in one; failover is enabled, as by default.
//!
//! `scripts/bench engine` also counts instructions: `engine --count KIND` handles packets under callgrind, which collects
//! in [`EngineBench::handle`] alone.

use std::env;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use voicelane::config::Config;
use voicelane::engine::NatSettings;
use voicelane::engine::{
    Engine, FailoverSettings, HEADROOM, Outbox, ReceivedDatagram, SocketCommand, TUN_MTU,
};
use voicelane::net::{Egress, Endpoint, MappingId, Outside, Protocol, TrafficClass};
use voicelane::policy::Policy;
use voicelane::wire::udp;

/// The compiled-in policy, and a service over IPv6, which the vendor does not have yet.
const POLICY: &str = r#"
version = 1

[[service]]
name = "media-ipv6"
description = "media over IPv6"
role = "media"
protocol = "udp"
prefixes = ["2600:86::/48"]
ports = ["3478", "10000-60000"]
dscp = "EF"
source = "made up for this benchmark"
"#;

const MAPPINGS: [usize; 4] = [1, 100, 2_000, 20_000];

/// Packets of one wake-up.
const BATCH: usize = 64;

/// An RTP packet of 20 ms G.711: 12 bytes of header, 160 of payload.
const PAYLOAD: [u8; 172] = {
    let mut payload = [0x5a; 172];
    payload[0] = 0x80;
    payload
};

/// Inside endpoints of one address; an address may have no more than 8,192 mappings.
const PER_ADDRESS: usize = 5_000;

#[derive(Clone, Copy)]
enum Direction {
    Outbound,
    Inbound,
}

/// An engine with established mappings, and the packets of the next wake-up.
struct EngineBench {
    engine: Engine,
    outbox: Outbox,
    mappings: Vec<(Endpoint, MappingId)>,
    server: Endpoint,
    direction: Direction,
    now: Instant,
    next: usize,
    buffers: Vec<[u8; HEADROOM + TUN_MTU as usize]>,
    batch: Vec<(MappingId, usize)>,
}

impl EngineBench {
    fn new(direction: Direction, is_v6: bool, mappings: usize) -> Self {
        let config = Config::parse("benchmark", POLICY).expect("a valid configuration");
        let today = "2026-12-01".parse().expect("a date");
        let policy = Arc::new(Policy::compile(&config, today));
        let server = server(&policy, is_v6);
        let settings = NatSettings {
            // Simulated time is fast, and inbound packets alone refresh no mapping.
            lifetime: Duration::from_secs(1 << 30),
            ..NatSettings::default()
        };
        let mut bench = Self {
            engine: Engine::new(policy, settings).with_failover(FailoverSettings::default()),
            outbox: Outbox::default(),
            mappings: Vec::new(),
            server,
            direction,
            now: Instant::now(),
            next: 0,
            buffers: vec![[0; HEADROOM + TUN_MTU as usize]; BATCH],
            batch: Vec::new(),
        };
        for number in 0..mappings {
            let inside = inside(number, is_v6);
            let mapping = bench.establish(inside);
            bench.mappings.push((inside, mapping));
        }
        bench
    }

    fn establish(&mut self, inside: Endpoint) -> MappingId {
        let packet = datagram(inside, self.server);
        self.engine.handle_tun(&packet, self.now, &mut self.outbox);
        let &[
            SocketCommand::Open {
                mapping, egress, ..
            },
        ] = self.outbox.commands()
        else {
            panic!("{:?}", self.outbox.commands());
        };
        let outside = Outside(inside);
        self.engine
            .handle_opened(mapping, egress, outside, &mut self.outbox);
        self.outbox.clear();
        mapping
    }

    /// Puts the packets of the next wake-up into the buffers, 20 ms after the last ones.
    fn prepare(&mut self) {
        self.now += Duration::from_millis(20);
        self.engine.handle_timeout(self.now, &mut self.outbox);
        self.outbox.clear();
        self.batch.clear();
        for buffer in &mut self.buffers {
            // The stride is coprime to every number of mappings, so that table neighbours are not adjacent in time.
            self.next = (self.next + 7_919) % self.mappings.len();
            let (inside, mapping) = self.mappings[self.next];
            let length = match self.direction {
                Direction::Outbound => {
                    let packet = datagram(inside, self.server);
                    buffer[..packet.len()].copy_from_slice(&packet);
                    packet.len()
                }
                Direction::Inbound => {
                    buffer[HEADROOM..HEADROOM + PAYLOAD.len()].copy_from_slice(&PAYLOAD);
                    PAYLOAD.len()
                }
            };
            self.batch.push((mapping, length));
        }
    }

    /// Handles the prepared packets. This part is measured.
    #[inline(never)]
    fn handle(&mut self) {
        for (buffer, &(mapping, length)) in self.buffers.iter_mut().zip(&self.batch) {
            match self.direction {
                Direction::Outbound => {
                    let packet = black_box(&buffer[..length]);
                    self.engine.handle_tun(packet, self.now, &mut self.outbox);
                }
                Direction::Inbound => {
                    let arrival = ReceivedDatagram {
                        from: black_box(self.server),
                        traffic_class: TrafficClass::default(),
                        queue_delay: Duration::ZERO,
                        buffer,
                        payload: HEADROOM..HEADROOM + length,
                    };
                    self.engine.handle_datagram(
                        mapping,
                        Egress::Direct,
                        arrival,
                        self.now,
                        &mut self.outbox,
                    );
                }
            }
        }
        black_box(&self.outbox);
    }

    /// Empties the outbox, which must have an output for each packet.
    fn finish(&mut self) {
        let carried = match self.direction {
            Direction::Outbound => self.outbox.transmit_count(),
            Direction::Inbound => self.outbox.packets().count(),
        };
        assert_eq!(carried, BATCH, "every packet is carried");
        self.outbox.clear();
    }
}

/// Returns a media server of the policy.
fn server(policy: &Policy, is_v6: bool) -> Endpoint {
    let captures = policy.captures().iter();
    let udp = captures.filter(|it| it.protocol == Protocol::Udp);
    let mut all = udp.flat_map(|it| it.prefixes.iter().map(|prefix| (prefix.first(), it.ports)));
    let (addr, ports) = all
        .find(|(addr, _)| addr.is_ipv6() == is_v6)
        .expect("the policy names media of both families");
    Endpoint::new(addr, ports.first())
}

fn inside(number: usize, is_v6: bool) -> Endpoint {
    let host = u8::try_from(number / PER_ADDRESS + 1).expect("few addresses");
    let addr = if is_v6 {
        IpAddr::from([0xfd00, 8, 0, 0, 0, 0, 0, u16::from(host)])
    } else {
        IpAddr::from([10, 8, 0, host])
    };
    let port = u16::try_from(number % PER_ADDRESS + 10_000).expect("a port");
    Endpoint::new(addr, port)
}

fn datagram(source: Endpoint, destination: Endpoint) -> Vec<u8> {
    let headers = udp::UdpHeaders {
        source,
        destination,
        traffic_class: TrafficClass::default(),
        hop_limit: 64,
    };
    let mut packet = Vec::new();
    udp::write_datagram(&mut packet, &headers, &PAYLOAD).expect("a datagram");
    packet
}

/// Returns every benchmark with its name.
fn kinds() -> impl Iterator<Item = (String, Direction, bool, usize)> {
    let directions = [
        ("outbound", Direction::Outbound),
        ("inbound", Direction::Inbound),
    ];
    let of = move |(name, direction): (&'static str, Direction)| {
        [("IPv4", false), ("IPv6", true)]
            .into_iter()
            .flat_map(move |(family, is_v6)| {
                MAPPINGS.map(|mappings| {
                    let kind = format!("{name}/{family}/{mappings}");
                    (kind, direction, is_v6, mappings)
                })
            })
    };
    directions.into_iter().flat_map(of)
}

fn measure() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(1));
    for (kind, direction, is_v6, mappings) in kinds() {
        let mut bench = EngineBench::new(direction, is_v6, mappings);
        group.bench_function(BenchmarkId::from_parameter(kind), |bencher| {
            bencher.iter_custom(|packets| {
                let batches = packets.div_ceil(BATCH as u64);
                let mut spent = Duration::ZERO;
                for _ in 0..batches {
                    bench.prepare();
                    let start = Instant::now();
                    bench.handle();
                    spent += start.elapsed();
                    bench.finish();
                }
                let carried = batches * BATCH as u64;
                spent.mul_f64(ratio(packets, carried))
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

#[expect(clippy::cast_precision_loss, reason = "a share, not a count")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Handles packets of a kind for callgrind, or lists the kinds.
fn count(kind: Option<&str>) {
    const BATCHES: usize = 400;
    let Some(wanted) = kind else {
        println!("{}", BATCHES * BATCH);
        kinds().for_each(|(kind, ..)| println!("{kind}"));
        return;
    };
    let (_, direction, is_v6, mappings) = kinds()
        .find(|(kind, ..)| kind == wanted)
        .expect("one of the kinds");
    let mut bench = EngineBench::new(direction, is_v6, mappings);
    for _ in 0..BATCHES {
        bench.prepare();
        bench.handle();
        bench.finish();
    }
}

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().position(|it| it == "--count") {
        // Cargo adds an argument.
        Some(at) => {
            let kind = arguments.get(at + 1).map(String::as_str);
            count(kind.filter(|it| !it.starts_with('-')));
        }
        None => measure(),
    }
}
