//! The socket of a peer: UDP, or TCP with the frames of RFC 4571.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

/// The receive buffer, in bytes.
const BUFFER: usize = 4 << 20;

/// The largest packet.
const LARGEST: usize = 2000;

/// An open socket.
pub(crate) enum Link {
    /// One socket for all remote endpoints.
    Udp(UdpSocket),
    /// A connection for each remote endpoint.
    Tcp(TcpListener, Vec<Connection>),
}

/// A TCP connection.
pub(crate) struct Connection {
    stream: TcpStream,
    from: SocketAddr,
    received: Vec<u8>,
}

impl Link {
    /// Opens a UDP socket.
    pub(crate) fn udp(at: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(at)?;
        // The peer must not lose packets on a busy machine.
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Udp(socket))
    }

    /// Opens a TCP listener.
    pub(crate) fn tcp(at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener, Vec::new()))
    }

    /// Waits for packets until the time is over. Returns all that arrived, with their sources.
    pub(crate) fn receive(&mut self, wait: Duration) -> Vec<(SocketAddr, Vec<u8>)> {
        self.wait(wait);
        let mut packets = Vec::new();
        match self {
            Self::Udp(socket) => {
                let mut buffer = [0; LARGEST];
                // An error is a port that is unreachable: the browser's socket is gone.
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    packets.push((from, buffer[..length].to_vec()));
                }
            }
            Self::Tcp(listener, connections) => {
                while let Ok((stream, from)) = listener.accept() {
                    let ready = stream
                        .set_nonblocking(true)
                        .and_then(|()| stream.set_nodelay(true));
                    if ready.is_ok() {
                        connections.push(Connection {
                            stream,
                            from,
                            received: Vec::new(),
                        });
                    }
                }
                connections.retain_mut(|connection| connection.receive(&mut packets));
            }
        }
        packets
    }

    /// Sends a packet. One that does not fit into the socket's buffer is lost.
    pub(crate) fn send(&mut self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send_to(bytes, to).map(drop),
            Self::Tcp(_, connections) => {
                let connection = connections.iter_mut().find(|it| it.from == to);
                let Some(connection) = connection else {
                    return Err(ErrorKind::HostUnreachable.into());
                };
                let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
                let frame = [&length.to_be_bytes(), bytes].concat();
                connection.stream.write_all(&frame)
            }
        }
    }

    fn wait(&self, wait: Duration) {
        let fds = match self {
            Self::Udp(socket) => vec![socket.as_fd()],
            Self::Tcp(listener, connections) => {
                let streams = connections.iter().map(|it| it.stream.as_fd());
                [listener.as_fd()].into_iter().chain(streams).collect()
            }
        };
        let mut fds: Vec<_> = fds
            .into_iter()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let wait = wait.max(Duration::from_millis(1));
        let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        // An interrupted wait is over.
        let _ = poll(&mut fds, wait);
    }
}

impl Connection {
    /// Reads all complete frames. Returns whether the connection is open.
    fn receive(&mut self, packets: &mut Vec<(SocketAddr, Vec<u8>)>) -> bool {
        let mut buffer = [0; LARGEST];
        let is_open = loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break false,
                Ok(length) => self.received.extend(&buffer[..length]),
                Err(error) => break error.kind() == ErrorKind::WouldBlock,
            }
        };
        while let [high, low, rest @ ..] = &self.received[..] {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(packet) = rest.get(..length) else {
                break;
            };
            packets.push((self.from, packet.to_vec()));
            self.received.drain(..2 + length);
        }
        is_open
    }
}
