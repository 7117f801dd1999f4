//! Readers of bytes that others wrote, for the fuzz targets and for the mutation test: none panics, and what they return
//! is valid.

use voicelane::control::parse_head;
use voicelane::daemon::{parse_events, parse_last_good};
use voicelane::diagnostics::{IdentifyingNames, Redactor};
use voicelane::nftables::is_trace;

/// A reader with the name of its fuzz target, which is that of its folder of seeds.
pub type Reader = (&'static str, fn(&[u8]));

/// Every reader.
pub const READERS: [Reader; 4] = [
    ("stored", stored),
    ("metrics_head", metrics_head),
    ("redact", redact),
    ("trace", trace),
];

/// The files of the state directory: events, and the last configuration that worked.
pub fn stored(bytes: &[u8]) {
    for event in parse_events(bytes) {
        let line = serde_json::to_vec(&event).expect("an event is plain data");
        assert_eq!(parse_events(&line).collect::<Vec<_>>(), [event]);
    }
    let _ = parse_last_good(bytes);
}

/// The head of a request for metrics.
pub fn metrics_head(bytes: &[u8]) {
    let head = String::from_utf8_lossy(bytes);
    let local = parse_head(&head, false);
    match parse_head(&head, true) {
        Ok(format) => assert_eq!(local, Ok(format)),
        Err(status) => assert!(status.starts_with('4'), "{status}"),
    }
}

/// A text of a bug report.
pub fn redact(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut redactor = Redactor::new(&IdentifyingNames::default(), Vec::new());
    let text = format!("{text} 203.0.113.199 https://user:MySecret1@host");
    let out = redactor.redact(&text);
    assert!(out.ends_with(" https://withheld@host"), "{out}");
    assert!(!out.contains(" 203.0.113.199 "), "{out}");
}

/// A notification of nftables about a traced packet.
pub fn trace(bytes: &[u8]) {
    let _ = is_trace(bytes);
}
