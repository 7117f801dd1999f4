//! Runs arbitrary fragments against the reference model of reassembly in `tests/pure/model.rs`.

#![no_main]

#[path = "../../pure/model/reassembly.rs"]
mod reassembly;

libfuzzer_sys::fuzz_target!(|input: &[u8]| reassembly::run(input));
