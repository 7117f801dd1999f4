//! Compiles the loops of `tables.c` against Debian's libdpdk-dev.

fn main() {
    println!("cargo::rerun-if-changed=src/tables.c");
    let dpdk = pkg_config::Config::new()
        .atleast_version("22.11")
        .probe("libdpdk")
        .unwrap_or_else(|error| {
            panic!("no DPDK: apt-get install --no-install-recommends libdpdk-dev\n{error}")
        });
    let flags = std::process::Command::new("pkg-config")
        .args(["--cflags-only-other", "libdpdk"])
        .output()
        .expect("pkg-config has just been run");
    let flags = String::from_utf8(flags.stdout).expect("flags are ASCII");

    let mut build = cc::Build::new();
    build
        .file("src/tables.c")
        .opt_level(3)
        .includes(dpdk.include_paths);
    // DPDK's own flags: -include rte_config.h and the least CPU that its headers can do with.
    for flag in flags.split_whitespace() {
        build.flag(flag);
    }
    let rust = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    if rust.contains("target-cpu=native") {
        build.flag("-march=native");
    }
    build.compile("tables");
}
