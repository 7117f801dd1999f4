//! How applications mark their media, before voicelane does: heard on the TUN for a moment, while there is a call.
//!
//! It changes nothing on the wire, where voicelane's mark stands. It tells whether the browser does what the vendor
//! says, which matters wherever voicelane is not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Finding, SystemFacts};
use crate::diagnostics::packet_socket::PacketSocket;
use crate::net::{Dscp, TrafficClass};

/// How long to listen: fifty packets of a direction.
const LISTEN: Duration = Duration::from_secs(1);

/// How long a mapping may have been idle and still be a call.
const IDLE_SECONDS: u64 = 1;

pub(super) fn check(facts: &SystemFacts) -> Vec<Finding> {
    let Ok(status) = &facts.status else {
        return vec![Finding::unknown(
            "how applications mark media is heard only while the service runs and tells",
            "start voicelane, make a call, and ask again as root",
        )];
    };
    let is_call = status
        .mappings
        .iter()
        .any(|it| it.idle_seconds <= IDLE_SECONDS);
    if !is_call {
        return vec![Finding::unknown(
            "nobody is on the phone: how applications mark media cannot be heard",
            "make a call, and ask again; voicelane marks media EF whatever applications do",
        )];
    }
    if !facts.may_listen {
        return vec![Finding::for_root("only root may listen on the TUN")];
    }
    match listen(&status.tun) {
        Ok(heard) if heard.is_empty() => vec![Finding::unknown(
            "no application has sent media for a second",
            "ask again during a call",
        )],
        Ok(heard) => vec![Finding::ok(words(&heard))],
        Err(error) => vec![Finding::unknown(
            format!("could not listen on {}: {error}", status.tun),
            "ask again",
        )],
    }
}

/// Counts what goes into the TUN by its mark.
fn listen(tun: &str) -> std::io::Result<BTreeMap<u8, u64>> {
    let packet_socket = PacketSocket::open(tun)?;
    let end = Instant::now() + LISTEN;
    let (mut heard, mut buffer) = (BTreeMap::new(), [0; 64]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Some(packet) = packet_socket.next(left, &mut buffer)? else {
            return Ok(heard);
        };
        if packet.is_outgoing
            && let Some(class) = class(&buffer[..packet.kept])
        {
            *heard.entry(class.dscp.value()).or_default() += 1;
        }
    }
}

/// The traffic class of an IP packet, of which the first two octets are enough.
pub(super) fn class(packet: &[u8]) -> Option<TrafficClass> {
    let (&first, &second) = (packet.first()?, packet.get(1)?);
    match first >> 4 {
        4 => Some(TrafficClass::from_octet(second)),
        6 => Some(TrafficClass::from_octet(first << 4 | second >> 4)),
        _ => None,
    }
}

fn words(heard: &BTreeMap<u8, u64>) -> String {
    let marks = heard.iter().map(|(value, count)| {
        let mark = Dscp::new(*value).expect("it was read from six bits");
        format!("{mark} ({value}) on {count} packets")
    });
    let marks: Vec<_> = marks.collect();
    format!(
        "applications set {}; on the wire it is the policy's",
        marks.join(", ")
    )
}
