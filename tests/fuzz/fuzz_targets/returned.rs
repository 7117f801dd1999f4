//! Feeds the engine what an error queue may hold, true or forged: any type, code, MTU, offender, destination and rest of a
//! payload. Whatever it is, the application gets a valid error about something that it has sent, or nothing, and the
//! mapping stands.

#![no_main]

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use voicelane::config::Config;
use voicelane::engine::NatSettings;
use voicelane::engine::{Engine, Outbox, ReturnedError, SocketCommand};
use voicelane::net::{Egress, Endpoint, Family, Outside, TrafficClass};
use voicelane::policy::Policy;
use voicelane::wire::{IcmpError, Packet, Transport, udp};

static POLICY: LazyLock<Arc<Policy>> = LazyLock::new(|| {
    let text = "version = 1\ninclude = ['talkdesk']\n";
    let config = Config::parse("policy", text).expect("a valid policy");
    Arc::new(Policy::compile(
        &config,
        "2026-01-01".parse().expect("a date"),
    ))
});

fuzz_target!(|bytes: &[u8]| {
    let (inside, server) = (endpoint([10, 8, 0, 2].into(), 50_000), server());
    let (mut engine, mut outbox) = (
        Engine::new(Arc::clone(&POLICY), NatSettings::default()),
        Outbox::default(),
    );
    let mut now = Instant::now();
    engine.handle_tun(&question(inside, server), now, &mut outbox);
    let [SocketCommand::Open { mapping, .. }] = *outbox.commands() else {
        panic!("a mapping opens: {:?}", outbox.commands());
    };
    engine.handle_opened(mapping, Egress::Direct, Outside(inside), &mut outbox);

    let mut rest = bytes;
    while let Some((&[flags, kind, code, mtu, wait, length, own @ ..], after)) =
        rest.split_first_chunk::<22>()
    {
        let payload;
        (payload, rest) = after.split_at(usize::from(length).min(after.len()));
        let family = if flags & 1 == 0 {
            Family::V4
        } else {
            Family::V6
        };
        let mtu = u32::from(mtu) << (flags >> 4);
        let Some(error) = IcmpError::from_icmp(family, kind, code, mtu) else {
            continue;
        };
        let foreign = if flags & 2 == 0 {
            IpAddr::from(own)
        } else {
            IpAddr::from([own[0], own[1], own[2], own[3]])
        };
        let to = if flags & 4 == 0 {
            server
        } else {
            endpoint(foreign, 20_000)
        };
        let returned = ReturnedError {
            to,
            reporter: (flags & 8 != 0).then_some(foreign),
            error,
            payload,
        };
        now += Duration::from_millis(wait.into());
        outbox.clear();
        engine.handle_error(mapping, Egress::Direct, &returned, now, &mut outbox);
        assert!(outbox.commands().is_empty() && outbox.transmits().next().is_none());
        let told: Vec<_> = outbox.packets().collect();
        assert!(told.len() <= 1 && (to.addr == server.addr || told.is_empty()));
        for packet in told {
            verify(packet, inside, to);
        }
        assert_eq!(
            engine.mappings(),
            1,
            "an error ends no mapping (RFC 4787 REQ-12)"
        );
    }
});

fn endpoint(addr: IpAddr, port: u16) -> Endpoint {
    Endpoint::new(addr, port)
}

fn server() -> Endpoint {
    endpoint([168, 86, 128, 1].into(), 20_000)
}

fn question(source: Endpoint, destination: Endpoint) -> Vec<u8> {
    let headers = udp::UdpHeaders {
        source,
        destination,
        traffic_class: TrafficClass::default(),
        hop_limit: 64,
    };
    let mut packet = Vec::new();
    udp::write_datagram(&mut packet, &headers, b"question").expect("a datagram");
    packet
}

/// Asserts that `packet` is an error to the application about its own datagram.
fn verify(packet: &[u8], inside: Endpoint, about: Endpoint) {
    let parsed = Packet::parse(packet).expect("only valid packets go in");
    assert!(matches!(parsed.transport(), Transport::Icmp(message) if message.is_error));
    assert_eq!(parsed.destination(), inside.addr);
    assert!(packet.len() <= 576);
    let quoted = &packet[28..];
    assert_eq!(quoted[12..16], [10, 8, 0, 2]);
    assert_eq!(quoted[16..20], [168, 86, 128, 1]);
    assert_eq!(quoted[20..22], inside.port.to_be_bytes());
    assert_eq!(quoted[22..24], about.port.to_be_bytes());
}
