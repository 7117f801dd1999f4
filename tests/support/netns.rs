//! Runs a test in its own network namespace, on its own thread.

use std::future::Future;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Runs a test on a new thread in a new network namespace with loopback, inside a tokio runtime.
///
/// Threads of the test are in the same namespace. The kernel removes it with the last thread or open file in it.
///
/// # Panics
/// If the test panics, or does not run as root.
pub(crate) fn in_namespace<T: Send + 'static, F: Future<Output = T>>(
    test: impl FnOnce() -> F + Send + 'static,
) -> T {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("network namespaces need root: run the tests as root");
        run("ip link set lo up");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(test())
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs a shell command in the namespace. Returns its output.
///
/// # Panics
/// If it fails, with its error output.
pub(crate) fn run(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", command])
        .output()
        .expect("sh runs");
    assert!(
        output.status.success(),
        "{command}: {} (is it installed? iproute2 and nftables are needed)",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("programs print UTF-8")
}
