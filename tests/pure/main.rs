//! Tests without privileges, network or installed programs: `cargo test` runs them.
//!
//! `scripts/check lab` runs the others: `tests/lab` needs root and network namespaces, `tests/lab_load` loads the machine as well.

mod allocations;
mod engine;
mod export;
mod foreign_bytes;
mod generated;
mod layers;
mod lpm;
mod manual;
mod model;
mod mutation;
mod policy;
mod tcp;

/// Names the missing tests in the output of `cargo test`.
#[cfg(not(feature = "lab"))]
#[test]
#[ignore = "needs root and network namespaces: run `scripts/check lab`"]
fn lab() {
    let check = std::process::Command::new("scripts/check")
        .arg("lab")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(check.expect("scripts/check starts").success());
}
