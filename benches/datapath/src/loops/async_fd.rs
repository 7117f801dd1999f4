//! The plain loop in a runtime, which waits for its epoll set.
#![allow(unsafe_code, reason = "a runtime is promised that a descriptor stays")]

use anyhow::Result;
use nix::sys::epoll::EpollTimeout;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime;
use tun_tap::Iface;

use super::plain::Set;

/// Relays.
pub fn run(tun: Iface, uplink: &str) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let set = Set::new(tun, uplink)?;
        // SAFETY: the set keeps its descriptor.
        let mut set = unsafe { AsyncFd::register_with_interest(set, Interest::READABLE) }?;
        println!("ready");
        loop {
            let mut ready = set.readable_mut().await?;
            // The runtime hears of what becomes ready, and of nothing that stays so: only an empty set may be waited for.
            if ready.get_inner_mut().turn(EpollTimeout::ZERO)? == 0 {
                ready.clear_ready();
            }
        }
    })
}
