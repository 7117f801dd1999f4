//! The control socket: versioned requests and replies over a Unix socket.
//!
//! One connection carries one request and one reply, each a line of JSON. A peer may look or also change, by the
//! credentials that the kernel has of it: root and the members of one group may change, those of another may look. The
//! file's mode is the first hurdle, not the last: it alone would trust whoever was handed an open descriptor.
//!
//! The server knows nothing of what it reports: it hands each request to the service's driver and waits for the reply.

mod client;
mod event;
mod exporter;
pub mod metrics;
mod pace;
mod peer;
mod reply;
mod request;
mod server;

pub use client::{AskError, ask, status};
pub use event::{EVENT_VERSION, Event, EventKind};
pub use exporter::{Exporter, METRICS_SOCKET, Site};
pub use metrics::Measured;
pub use peer::{Access, Privilege};
pub use reply::{
    Body, ConnectionStatus, Events, FallbackStatus, MappingStatus, Reply, SchedulingStatus, State,
    Status, TrafficStatus, UplinkStatus, VpnStatus,
};
pub use request::Request;
pub use server::{ListenError, Pending, Server};

/// The version of requests and replies. A reply says which version it speaks; within one, fields are only added.
pub const VERSION: u32 = 1;

/// The socket's file name in the runtime directory.
pub const SOCKET: &str = "control.sock";

/// The largest request in bytes, the newline included.
const LARGEST_REQUEST: u64 = 4_096;

/// The largest reply in bytes: room for the status of 32,768 mappings.
const LARGEST_REPLY: u64 = 16 << 20;
