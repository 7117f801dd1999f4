//! Plays arbitrary fragments against the reference model of reassembly: the one of `tests/model.rs`.

#![no_main]

#[path = "../../model/reassembly.rs"]
mod reassembly;

libfuzzer_sys::fuzz_target!(|course: &[u8]| reassembly::play(course));
