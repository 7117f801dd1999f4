//! The DSCP that applications set, captured on the TUN for a second during a call.
//!
//! voicelane sets the DSCP of the policy in any case. The check shows whether the browser marks media as
//! the vendor documents, which matters on machines without voicelane.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Finding, SystemFacts};
use crate::diagnostics::packet_socket::PacketSocket;
use crate::net::{Dscp, TrafficClass};
use crate::text::count;

/// The time of the capture: 50 packets of a direction.
const CAPTURE_TIME: Duration = Duration::from_secs(1);

/// The idle time, in seconds, up to which a mapping counts as a call.
const IDLE_SECONDS: u64 = 1;

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let Ok(status) = &facts.status else {
        return vec![
            Finding::unknown(
                "Not measured: the DSCP that applications set. The service is not running or does not respond.",
                "Start voicelane and make a call; then this can be measured.",
            )
            .because_of("service"),
        ];
    };
    let is_call = status
        .mappings
        .iter()
        .any(|it| it.idle_seconds <= IDLE_SECONDS);
    if !is_call {
        return vec![Finding::unknown(
            "Not measured: the DSCP that applications set. There is no call.",
            "Make a call; then this can be measured.",
        )];
    }
    if !facts.may_capture {
        return vec![Finding::needs_root(
            "Not measured: the DSCP that applications set needs root.",
        )];
    }
    match count_by_dscp(&status.tun) {
        Ok(packets) if packets.is_empty() => vec![Finding::unknown(
            "Not measured: no application sent media for a second.",
            "Run the doctor again during a call.",
        )],
        Ok(packets) => vec![Finding::ok(describe(&packets))],
        Err(error) => vec![Finding::unknown(
            format!("Not measured: cannot capture on {}: {error}.", status.tun),
            "Run the doctor again.",
        )],
    }
}

/// Counts the packets from applications by their DSCP.
fn count_by_dscp(tun: &str) -> std::io::Result<BTreeMap<u8, u64>> {
    let socket = PacketSocket::open(tun)?;
    let end = Instant::now() + CAPTURE_TIME;
    let (mut packets, mut buffer) = (BTreeMap::new(), [0; 64]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Some(packet) = socket.next(left, &mut buffer)? else {
            return Ok(packets);
        };
        if packet.is_outgoing
            && let Some(class) = class(&buffer[..packet.kept])
        {
            *packets.entry(class.dscp.value()).or_default() += 1;
        }
    }
}

/// Returns the traffic class of an IP packet. The first two octets are enough.
pub(super) fn class(packet: &[u8]) -> Option<TrafficClass> {
    let (&first, &second) = (packet.first()?, packet.get(1)?);
    match first >> 4 {
        4 => Some(TrafficClass::from_octet(second)),
        6 => Some(TrafficClass::from_octet(first << 4 | second >> 4)),
        _ => None,
    }
}

fn describe(packets: &BTreeMap<u8, u64>) -> String {
    let marks = packets.iter().map(|(value, number)| {
        let dscp = Dscp::new(*value).expect("it was read from six bits");
        format!("{dscp} ({value}) on {}", count(*number, "packet"))
    });
    let marks: Vec<_> = marks.collect();
    format!(
        "Applications set {}. voicelane replaces it by the DSCP of the policy. Not measured: the DSCP on the wire.",
        marks.join(", ")
    )
}
