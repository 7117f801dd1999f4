//! The control socket: versioned requests and replies over a Unix socket.
//!
//! One connection carries one request and one reply, each a line of JSON. The socket file is 0600, or 0660 with a group
//! of IT's choice, and the peer's credentials are checked again on each connection (a file mode alone would trust
//! whoever was handed an open descriptor).
//!
//! The server knows nothing of what it reports: it hands each request to the service's driver and waits for the reply.

mod client;
mod event;
mod reply;
mod request;
mod server;

pub use client::{AskError, ask};
pub use event::{EVENT_VERSION, Event, EventKind};
pub use reply::{
    Body, ConnectionStatus, Events, FallbackStatus, MappingStatus, Reply, Status, TrafficStatus,
    UplinkStatus,
};
pub use request::Request;
pub use server::{Access, ListenError, Pending, Server};

/// The version of requests and replies. A reply says which version it speaks; within one, fields are only added.
pub const VERSION: u32 = 1;

/// The socket's file name in the runtime directory.
pub const SOCKET: &str = "control.sock";

/// The largest request in bytes, the newline included.
const LARGEST_REQUEST: u64 = 4_096;

/// The largest reply in bytes: room for the status of 32,768 mappings.
const LARGEST_REPLY: u64 = 16 << 20;
