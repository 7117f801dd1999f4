//! Any text as a configuration: either diagnostics that can be shown, or a policy whose captures are what it relays. As a
//! second layer over itself it changes nothing, and every value knows its line.
#![no_main]

use jiff::civil::date;
use libfuzzer_sys::fuzz_target;
use voicelane::config::{Config, Document, Effective, Layer};
use voicelane::net::{CaptureMode, Endpoint, Protocol};
use voicelane::policy::{Action, Policy};

fuzz_target!(|text: &str| {
    let config = match Config::parse("fuzz.toml", text) {
        Ok(config) => config,
        Err(diagnostics) => {
            assert!(!diagnostics.list().is_empty());
            for diagnostic in diagnostics.list() {
                let (line, column) = diagnostic.span.line_and_column();
                assert!(line > 0 && column > 0);
            }
            assert!(!diagnostics.to_string().is_empty());
            assert!(!diagnostics.render(false).is_empty() && !diagnostics.render(true).is_empty());
            return;
        }
    };
    let layer = |layer| Document {
        layer,
        name: "fuzz.toml".to_owned(),
        text: text.to_owned(),
    };
    let twice = Effective::read(vec![layer(Layer::Main), layer(Layer::DropIn)]);
    let twice = twice.expect("what is valid is valid over itself");
    assert_eq!(twice.config(), &config);
    assert!(twice.sections().iter().any(|section| {
        let mut values = section.values.iter();
        values.any(|value| value.key == "version" && value.origin.layer() == Layer::DropIn)
    }));
    for today in [date(2000, 1, 1), date(2024, 1, 23), date(2030, 6, 1)] {
        let policy = Policy::compile(&config, today);
        let _ = policy.next_change(today);
        // The catalogue's own prefixes are the same every time and have a test of their own.
        let own = config
            .services()
            .iter()
            .filter(|service| !service.name.starts_with("talkdesk-"));
        for service in own {
            for prefix in &service.prefixes {
                for ports in &service.ports {
                    for (addr, port) in [
                        (prefix.first(), ports.first()),
                        (prefix.last(), ports.last()),
                    ] {
                        for protocol in [Protocol::Udp, Protocol::Tcp] {
                            let to = Endpoint::new(addr, port);
                            let captured = policy.captures().iter().any(|capture| {
                                capture.protocol == protocol
                                    && capture.ports.contains(port)
                                    && capture.prefixes.iter().any(|prefix| prefix.contains(addr))
                            });
                            let relayed = policy.evaluate(protocol, to).action == Action::Relay;
                            // Of whole prefixes, what is not relayed is handed back.
                            let exact = policy.capture_mode() == CaptureMode::Exact;
                            let fits = captured == relayed || captured && !exact;
                            assert!(fits, "{protocol} {to}: {captured} {relayed}");
                            assert!(relayed || policy.near_miss(protocol, to).is_some());
                        }
                    }
                }
            }
        }
    }
});
