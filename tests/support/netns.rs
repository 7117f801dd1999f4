//! A network namespace of one's own for a test, on a thread of one's own.

use std::future::Future;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Runs a test on a fresh thread in a fresh network namespace with the loopback up, inside a tokio runtime.
///
/// The namespace goes with the thread and with what the test leaves open in it. Threads that the test starts are in the
/// same namespace.
///
/// # Panics
/// When the test does, and when it is not run as root.
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

/// Runs a shell command in the namespace and returns what it prints.
///
/// # Panics
/// When it fails, with what it said.
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
