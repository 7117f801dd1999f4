//! The application on the laptop: sockets as in a browser, and probes that differ on the wire.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
pub use voicelane::lab::probe;
pub use voicelane::net::Family;

use super::namespace::Namespace;
use super::program::PATIENCE;

/// How long a caller waits for an answer.
pub const ANSWER_TIME: Duration = Duration::from_millis(1500);

/// A UDP socket inside a namespace, bound to an endpoint (port 0: any).
pub fn udp(namespace: &Namespace, at: SocketAddr) -> UdpSocket {
    let socket = namespace
        .enter(|| UdpSocket::bind(at))
        .unwrap_or_else(|e| panic!("bind {at}: {e}"));
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("it is a socket");
    socket
}

/// An ICMP echo socket (icmp(7)): the kernel writes identifier and checksum.
pub fn icmp(namespace: &Namespace, family: Family) -> Socket {
    let domain = family.pick(Domain::IPV4, Domain::IPV6);
    let protocol = family.pick(Protocol::ICMPV4, Protocol::ICMPV6);
    namespace
        .enter(|| Socket::new(domain, Type::DGRAM, Some(protocol)))
        .expect("the lab allows echo sockets")
}

/// Sends an ICMP echo request with the payload. The capture shows its path.
pub fn ping(socket: &Socket, to: IpAddr, payload: &str) -> io::Result<usize> {
    const ECHO_REQUEST_V4: u8 = 8;
    const ECHO_REQUEST_V6: u8 = 128;
    let kind = Family::of(to).pick(ECHO_REQUEST_V4, ECHO_REQUEST_V6);
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    message.extend(payload.as_bytes());
    socket.send_to(&message, &SocketAddr::new(to, 0).into())
}

/// Waits for exactly this payload, and says from whom it came; `None` when nothing came in time.
pub fn answer(socket: &UdpSocket, payload: &str) -> io::Result<Option<SocketAddr>> {
    let deadline = Instant::now() + ANSWER_TIME;
    let mut buffer = [0; 2048];
    while Instant::now() < deadline {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if &buffer[..length] == payload.as_bytes() => return Ok(Some(from)),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Sends a probe over TCP, waits for its echo, and gives the payload.
pub fn tcp_exchange(namespace: &Namespace, to: SocketAddr) -> String {
    let payload = probe();
    let mut stream = namespace
        .enter(|| TcpStream::connect_timeout(&to, PATIENCE))
        .unwrap_or_else(|e| panic!("tcp {to}: {e}"));
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("it is a socket");
    let mut echo = vec![0; payload.len()];
    stream
        .write_all(payload.as_bytes())
        .and_then(|()| stream.read_exact(&mut echo))
        .unwrap_or_else(|e| panic!("tcp {to}: {e}"));
    assert_eq!(echo, payload.as_bytes());
    payload
}
