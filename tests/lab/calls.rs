//! What is shown of calls, and their end.

use std::net::{SocketAddr, UdpSocket};

use serde_json::Value;

use crate::support::addresses as at;
use crate::support::caller::{Family, udp};
use crate::support::program::wait_until;
use crate::support::voicelane::Voicelane;
use crate::support::{Lab, MEDIA_PORT};
use voicelane::control::EventKind;

/// Sends media until an answer arrives.
fn talk(socket: &UdpSocket, to: SocketAddr) {
    let mut buffer = [0; 200];
    wait_until("the echo answers", || {
        socket.send_to(&[0x80; 172], to).expect("a route");
        socket.recv_from(&mut buffer).is_ok()
    });
}

fn mappings(voicelane: &Voicelane) -> Value {
    let run = voicelane.home().dir().join("run").display().to_string();
    let arguments = ["mappings", "--json", "--runtime-dir", &run];
    let output = voicelane.home().invoke(&arguments);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_call_is_one_line_and_ends_with_its_application() {
    let lab = Lab::new();
    let voicelane = Voicelane::start(&lab.laptop);
    for family in Family::BOTH {
        let to = at::MEDIA.at(family, MEDIA_PORT);
        let inside = SocketAddr::new(family.unspecified(), 0);
        let [socket, candidate] = [(); 2].map(|()| udp(&lab.laptop, inside));
        talk(&socket, to);
        // A binding request without attributes.
        let check = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
        candidate.send_to(&check, to).expect("a route");
        wait_until("the candidate is counted", || {
            mappings(&voicelane)["calls"][0]["candidates"] == 1
        });
        let shown = mappings(&voicelane);
        let calls = shown["calls"].as_array().expect("a list");
        assert_eq!(calls.len(), 1, "{shown:#}");
        let call = &calls[0];
        assert_eq!(call["remote"], to.to_string(), "{shown:#}");
        assert_eq!(call["egress"], "direct", "{shown:#}");
        assert!(call["service"].is_string(), "{shown:#}");
        assert!(call["last_answer_seconds"].is_u64(), "{shown:#}");
        let own = format!("({})", std::process::id());
        let program = call["program"].as_str().expect("text");
        assert!(program.ends_with(&own), "{shown:#}");

        // The application closes without a word. Its port is free again, and nothing has failed.
        let port = socket.local_addr().expect("bound").port();
        drop((socket, candidate));
        wait_until("the call is shown as ended", || {
            let ended = mappings(&voicelane)["ended_calls"][0].clone();
            ended["id"] == call["id"] && ended["cause"] == "application_closed"
        });
        wait_until("no mapping is left", || {
            mappings(&voicelane)["mappings"] == Value::Array(Vec::new())
        });
        udp(&lab.laptop, SocketAddr::new(family.unspecified(), port));
    }
    let is_of_call = |kind| matches!(kind, EventKind::CallMovedToVpn | EventKind::WarningStarted);
    let events = voicelane.events();
    assert!(!events.iter().any(|it| is_of_call(it.kind)), "{events:#?}");
}
