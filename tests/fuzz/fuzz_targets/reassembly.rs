//! Plays arbitrary fragments against the reference model of reassembly: the one of `tests/pure/model.rs`.

#![no_main]

#[path = "../../pure/model/reassembly.rs"]
mod reassembly;

libfuzzer_sys::fuzz_target!(|course: &[u8]| reassembly::play(course));
