//! The sockets on the outside: one unconnected UDP socket per mapping and way, one TCP socket per connection.
//!
//! # Theory of operation
//!
//! The relay does what the engine's outbox says and hands back what the sockets say; it decides nothing. A binding is
//! a socket of a mapping, kept in the slot of its [`MappingId`](crate::net::MappingId), which with the way is also the
//! token of its readiness: nothing is hashed on the way back, and an event of a binding that has gone is recognised by its
//! generation. With TCP connections it is the same.
//!
//! All sockets of mappings hang in one epoll set. The driver sleeps in it, with whatever else it waits for as a guest of the
//! set: a datagram is worth a single `epoll_wait`. The sockets of TCP connections hang in another set, which is a guest.
//!
//! Every socket is made in `bind` and nowhere else: what is set there, and in which order, is what keeps a datagram
//! on the direct path and marked.

mod epoll_set;
mod error;
mod error_queue;
mod ipsec_bypass;
mod socket_factory;
mod socket_option;
mod tcp;
mod udp;
mod udp_socket;

pub use epoll_set::{ReadyEvents, Token};
pub use socket_factory::{SetupStep, SocketFactories, SocketFactory, SocketSetupError};
pub use tcp::{ConnectionStream, Progress, TcpRelay};
pub use udp::{Closed, Received, SendError, SocketOpenError, UdpRelay};
