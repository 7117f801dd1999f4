//! A notification of nftables about a traced packet: no bytes cause a panic or an invalid result.
#![no_main]

#[path = "../../support/foreign_bytes.rs"]
#[allow(dead_code, reason = "each target uses one reader")]
mod foreign_bytes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| foreign_bytes::trace(bytes));
