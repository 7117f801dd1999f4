//! The UDP translator: mappings and filters (RFC 4787).
//!
//! # Theory of operation
//!
//! A **mapping** binds an inside endpoint to an outside endpoint. Its key is the inside endpoint alone, so that every remote
//! sees the same outside endpoint (endpoint-independent mapping, RFC 4787 REQ-1; ICE depends on it). The outside endpoint is
//! that of an unconnected socket. The kernel's port table prevents two mappings from sharing a port (REQ-3).
//!
//! A mapping is *opening* from its first outbound packet until its socket is open. Packets are sent in both states: the
//! outbox opens the socket before its first datagram.
//!
//! ```text
//!   outbound      [`MappingTable::map`]     finds or creates the mapping, permits the remote, refreshes the lifetime
//!   inbound       [`MappingTable::admit`]   the remote must be permitted, as the [`Filtering`](crate::net::Filtering) requires
//!   time          [`MappingTable::expire`]  a mapping without an outbound packet for its lifetime ends (REQ-5, REQ-6)
//! ```
//!
//! Only outbound packets refresh a mapping, so that a remote cannot keep a port open (REQ-6). A setting lets datagrams from
//! permitted remotes refresh it too. [`NatLimits`] bounds the mappings, those of one inside address, and the remotes of
//! each.

mod filter;
mod mapping;

pub use filter::PermittedRemotes;
pub use mapping::{
    AdmitError, MapError, Mapped, Mapping, MappingTable, NatLimits, NatSettings,
    UNANSWERED_LIFETIME,
};
