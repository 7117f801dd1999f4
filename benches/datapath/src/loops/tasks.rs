//! A task for each flow, and one for the TUN.
#![allow(unsafe_code, reason = "a runtime is promised that a descriptor stays")]

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::task::unconstrained;
use tokio::{runtime, spawn};
use tun_tap::Iface;

use super::{Ends, HEADERS, ROOM, open, read, write_headers};

/// Relays. A `greedy` reader of the TUN goes on while there is a packet; otherwise the runtime's budget, 128 operations of a
/// task, ends its turn after 64 packets.
pub fn run(tun: Iface, uplink: &str, greedy: bool) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        // SAFETY: the interface keeps its descriptor.
        let tun = unsafe { AsyncFd::register_with_interest(tun, Interest::READABLE) }?;
        let tun = Arc::new(tun);
        println!("ready");
        let reader = forward(tun, uplink.to_owned());
        if greedy {
            spawn(unconstrained(reader)).await?
        } else {
            spawn(reader).await?
        }
    })
}

/// Sends what comes from the TUN.
async fn forward(tun: Arc<AsyncFd<Iface>>, uplink: String) -> Result<()> {
    let mut sockets: HashMap<Ends, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = [0; ROOM];
    loop {
        let received = tun.async_io(Interest::READABLE, |tun| tun.recv(&mut buffer));
        let length = received.await?;
        let Some((ends, payload)) = read(&buffer[..length]) else {
            continue;
        };
        let socket = if let Some(socket) = sockets.get(&ends) {
            socket
        } else {
            let socket = Arc::new(UdpSocket::from_std(open(&uplink, ends.1)?.into())?);
            spawn(answer(Arc::clone(&tun), Arc::clone(&socket), ends));
            sockets.entry(ends).or_insert(socket)
        };
        let _ = socket.send(payload).await;
    }
}

/// Carries a flow's datagrams back.
async fn answer(tun: Arc<AsyncFd<Iface>>, socket: Arc<UdpSocket>, ends: Ends) {
    let mut buffer = [0; ROOM];
    loop {
        // Otherwise ICMP has said something of an earlier one.
        if let Ok(length) = socket.recv(&mut buffer[HEADERS..]).await {
            let packet = &mut buffer[..HEADERS + length];
            write_headers(packet, ends);
            let _ = tun.get_ref().send(packet);
        }
    }
}
