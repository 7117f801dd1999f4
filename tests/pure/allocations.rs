//! An established call allocates no memory.
//!
//! The allocator of this binary counts the allocations of each thread.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use voicelane::call::stun::{TransactionId, binding_request, binding_success};
use voicelane::config::Config;
use voicelane::engine::NatSettings;
use voicelane::engine::{
    Engine, FailoverSettings, HEADROOM, Outbox, ReceivedDatagram, SocketCommand,
};
use voicelane::net::{Egress, Endpoint, MappingId, Outside, TrafficClass};
use voicelane::policy::Policy;
use voicelane::wire::udp;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator with a counter.
struct Counting;

// SAFETY: every call is passed unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const POLICY: &str = r#"
version = 1
include = []

[[service]]
name = "media"
description = "the media of this test"
role = "media"
protocol = "udp"
prefixes = ["168.86.128.0/18", "2001:db8:86::/48"]
ports = ["10000-60000"]
dscp = "EF"
allow_special_purpose = true
source = "made up for this test"
"#;

/// Inside endpoint and server.
const FAMILIES: [[&str; 2]; 2] = [
    ["10.8.0.2:50000", "168.86.128.1:20000"],
    ["[fd00:8::2]:50000", "[2001:db8:86::1]:20000"],
];

const MEDIA: [u8; 172] = [0x80; 172];

const CHECK: TransactionId = TransactionId([7; 12]);

fn endpoint(text: &str) -> Endpoint {
    let addr: std::net::SocketAddr = text.parse().expect("an endpoint");
    addr.into()
}

/// One call in each family, with the buffers of a driver.
struct World {
    engine: Engine,
    outbox: Outbox,
    now: Instant,
    calls: Vec<Call>,
}

struct Call {
    mapping: MappingId,
    server: Endpoint,
    outbound: Vec<u8>,
    check: Vec<u8>,
    inbound: Vec<u8>,
    answer: Vec<u8>,
}

impl World {
    fn new(has_failover: bool) -> Self {
        let config = Config::parse("policy", POLICY).expect("a valid policy");
        let today = "2026-01-01".parse().expect("a date");
        let policy = Arc::new(Policy::compile(&config, today));
        let mut engine = Engine::new(policy, NatSettings::default());
        if has_failover {
            engine = engine.with_failover(FailoverSettings::default());
        }
        let mut world = Self {
            engine,
            outbox: Outbox::default(),
            now: Instant::now(),
            calls: Vec::new(),
        };
        for [inside, server] in FAMILIES.map(|it| it.map(endpoint)) {
            let outbound = datagram(inside, server, &MEDIA);
            world
                .engine
                .handle_tun(&outbound, world.now, &mut world.outbox);
            let &[SocketCommand::Open { mapping, .. }] = world.outbox.commands() else {
                panic!("{:?}", world.outbox.commands());
            };
            world
                .engine
                .handle_opened(mapping, Egress::Direct, Outside(inside), &mut world.outbox);
            world.outbox.clear();
            world.calls.push(Call {
                mapping,
                server,
                outbound,
                check: datagram(inside, server, &binding_request(CHECK)),
                inbound: [&[0; HEADROOM][..], &MEDIA].concat(),
                answer: [&[0; HEADROOM][..], &binding_success(CHECK, inside)].concat(),
            });
        }
        world
    }

    /// Simulates a wake-up. Each call sends four datagrams and a check, and receives four of either kind.
    fn wake(&mut self) {
        let Self {
            engine,
            outbox,
            now,
            calls,
        } = self;
        *now += Duration::from_millis(200);
        engine.handle_timeout(*now, outbox);
        outbox.clear();
        for call in calls {
            for _ in 0..4 {
                engine.handle_tun(&call.outbound, *now, outbox);
            }
            engine.handle_tun(&call.check, *now, outbox);
            for received in [&mut call.inbound, &mut call.answer] {
                let length = received.len();
                for _ in 0..4 {
                    let arrival = ReceivedDatagram {
                        from: call.server,
                        traffic_class: TrafficClass::default(),
                        queue_delay: Duration::ZERO,
                        buffer: received,
                        payload: HEADROOM..length,
                    };
                    engine.handle_datagram(call.mapping, Egress::Direct, arrival, *now, outbox);
                }
            }
        }
        assert_eq!(
            (outbox.transmit_count(), outbox.packets().count()),
            (10, 16)
        );
        outbox.clear();
    }
}

fn datagram(source: Endpoint, destination: Endpoint, payload: &[u8]) -> Vec<u8> {
    let headers = udp::UdpHeaders {
        source,
        destination,
        traffic_class: TrafficClass::default(),
        hop_limit: 64,
    };
    let mut packet = Vec::new();
    udp::write_datagram(&mut packet, &headers, payload).expect("a datagram");
    packet
}

fn allocations(run: impl FnOnce()) -> u64 {
    let before = ASKED.get();
    run();
    ASKED.get() - before
}

#[test]
fn the_counter_detects_an_allocation() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7)))), 1);
}

/// Runs longer than every timeout, so that each deadline is reached once.
#[test]
fn an_established_call_allocates_nothing() {
    for has_failover in [false, true] {
        let mut world = World::new(has_failover);
        (0..10).for_each(|_| world.wake());
        let count = allocations(|| (0..2_000).for_each(|_| world.wake()));
        assert_eq!(count, 0, "with failover: {has_failover}");
    }
}
