//! Echo servers for UDP and TCP.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;

use super::namespace::Namespace;

/// The TOS octet of every answer: AF41 with ECT(0), so that a test detects a relay that clears either.
pub const ANSWER_CLASS: u8 = 34 << 2 | 2;

/// Echo services of one namespace. Their drop stops them.
pub struct Echo {
    _alive: Arc<()>,
}

impl Echo {
    /// Serves UDP at every one of `udp`, and TCP on every address at the ports `tcp`.
    pub fn start(namespace: &Namespace, udp: &[SocketAddr], tcp: &[u16]) -> Self {
        let (sockets, listeners) = namespace.enter(|| {
            let sockets: Vec<_> = udp.iter().map(|&at| datagrams(at)).collect();
            let listeners: Vec<_> = tcp.iter().map(|&port| listener(port)).collect();
            (sockets, listeners)
        });
        let alive = Arc::new(());
        let guard = Arc::downgrade(&alive);
        thread::spawn(move || serve(&sockets, &listeners, &guard));
        Self { _alive: alive }
    }
}

fn datagrams(at: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap_or_else(|e| panic!("echo at {at}: {e}"));
    let options = SockRef::from(&socket);
    let marked = match at {
        SocketAddr::V4(_) => options.set_tos_v4(u32::from(ANSWER_CLASS)),
        SocketAddr::V6(_) => options.set_tclass_v6(u32::from(ANSWER_CLASS)),
    };
    marked.expect("every code point is allowed");
    // The server must not lose packets on a busy machine.
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).expect("root may");
    socket.set_nonblocking(true).expect("it is a socket");
    socket
}

fn listener(port: u16) -> TcpListener {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .unwrap_or_else(|e| panic!("TCP echo at port {port}: {e}"));
    listener.set_nonblocking(true).expect("it is a socket");
    listener
}

fn serve(sockets: &[UdpSocket], listeners: &[TcpListener], alive: &Weak<()>) {
    let mut buffer = vec![0; 1 << 16];
    let tick = PollTimeout::from(100_u8);
    while alive.strong_count() > 0 {
        let mut fds: Vec<_> = sockets
            .iter()
            .map(AsFd::as_fd)
            .chain(listeners.iter().map(AsFd::as_fd))
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        if poll(&mut fds, tick).is_err() {
            continue;
        }
        for socket in sockets {
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                // The receiver detects a lost answer.
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
        for listener in listeners {
            while let Ok((stream, _)) = listener.accept() {
                thread::spawn(move || converse(stream));
            }
        }
    }
}

fn converse(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(5))));
    while let (Ok(()), Ok(length @ 1..)) = (&ready, stream.read(&mut buffer)) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
