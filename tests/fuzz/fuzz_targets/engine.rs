//! Plays arbitrary courses against the reference model of the engine's UDP half: the one of `tests/model.rs`.

#![no_main]

#[path = "../../model/engine.rs"]
mod engine;

libfuzzer_sys::fuzz_target!(|course: &[u8]| engine::play(course));
