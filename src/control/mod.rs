//! The control socket: versioned requests and replies, events, and metrics.
//!
//! A connection carries one request and one reply, each a line of JSON. The kernel's credentials of the client decide
//! whether it may read or write. Every user may request a summary without addresses.
//!
//! The server forwards each request to the service and waits for the reply.

mod admission;
mod client;
mod event;
mod exporter;
mod listen_error;
pub mod metrics;
mod peer;
mod reply;
mod request;
mod server;
mod user_rates;

pub use client::{AskError, ask, status};
pub use event::{EVENT_VERSION, Event, EventKind};
#[cfg(feature = "lab")]
pub use exporter::METRICS_SOCKET;
#[cfg(feature = "lab")]
pub use exporter::parse_head;
pub use exporter::{Exporter, MetricsEndpoint};
pub use listen_error::ListenError;
pub use metrics::MetricsInput;
pub use peer::Access;
#[cfg(feature = "lab")]
pub use peer::Privilege;
pub use reply::{
    Body, ConnectionStatus, EndedCallStatus, EventList, FailoverStatus, MappingStatus, MediaStatus,
    Reply, SchedulingStatus, State, StateReason, Status, Summary, TrafficStatus, UplinkStatus,
    VpnStatus,
};
pub use request::{LONGEST_PAUSE, Request};
pub use server::{PendingRequest, Server};

/// The version of requests and replies. Within a version, fields are only added.
pub const VERSION: u32 = 1;

/// The file name of the socket in the runtime directory.
pub const SOCKET: &str = "control.sock";

/// The largest request in bytes, with the newline.
const LARGEST_REQUEST: u64 = 4_096;

/// The largest reply in bytes, enough for 32,768 mappings.
const LARGEST_REPLY: u64 = 16 << 20;
