//! Tells the tests where voicelane's program is: in the directory of the build, where `cargo build --target-dir target` of
//! the same profile puts it.

use std::env;
use std::path::Path;

fn main() {
    let out = env::var("OUT_DIR").expect("cargo sets it");
    // TARGET/PROFILE/build/PACKAGE/out
    let profile = Path::new(&out)
        .ancestors()
        .nth(3)
        .expect("cargo builds there");
    println!(
        "cargo::rustc-env=CARGO_BIN_EXE_voicelane={}",
        profile.join("voicelane").display()
    );
    println!("cargo::rerun-if-changed=build.rs");
}
