//! Runs arbitrary steps against the reference model of the engine's UDP half in `tests/pure/model.rs`.

#![no_main]

#[path = "../../pure/model/engine.rs"]
mod engine;

libfuzzer_sys::fuzz_target!(|input: &[u8]| engine::run(input));
