//! The outside sockets: unconnected UDP sockets of mappings, TCP sockets of connections.
//!
//! # Theory of operation
//!
//! The relay executes the commands of the engine's outbox and returns received datagrams. It decides nothing. A
//! binding is a socket of a mapping, in the slot of its [`MappingId`](crate::net::MappingId). The id and the egress are the
//! token of its readiness: the return path hashes nothing, and the id's generation reveals events of closed bindings. TCP
//! connections work likewise.
//!
//! All UDP sockets are in one epoll set, on which the driver waits. Its other descriptors are in the same set, so that a
//! datagram costs one `epoll_wait`. The TCP sockets have an epoll set of their own, which is one of those descriptors.
//!
//! Only `socket_factory` creates sockets. The options it sets, and their order, keep a datagram on the direct path and
//! marked.

mod arrival;
mod epoll_set;
mod error;
mod error_queue;
mod ipsec_bypass;
mod socket_factory;
mod socket_lookup;
mod socket_option;
mod tcp;
mod udp;
mod udp_socket;

pub use arrival::TunnelLinks;
pub use epoll_set::{ReadyEvents, Token};
#[cfg(feature = "lab")]
pub use error::NoSocket;
pub use error::{SendError, SocketOpenError};
#[cfg(test)]
pub use socket_factory::SetupStep;
pub use socket_factory::{SocketFactories, SocketFactory, SocketSetupError};
pub use socket_lookup::SocketLookup;
pub use tcp::{Progress, TcpRelay};
pub use udp::UdpRelay;
pub use udp_socket::Received;
