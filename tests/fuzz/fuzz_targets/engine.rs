//! Plays arbitrary courses against the reference model of the engine's UDP half: the one of `tests/pure/model.rs`.

#![no_main]

#[path = "../../pure/model/engine.rs"]
mod engine;

libfuzzer_sys::fuzz_target!(|course: &[u8]| engine::play(course));
