//! Mappings, filters and ports: what RFC 4787 asks of a UDP translator.
//!
//! # Theory of operation
//!
//! A **mapping** ties an inside endpoint to an outside endpoint. It is keyed by the inside endpoint alone, so that every
//! remote sees the same outside endpoint (endpoint-independent mapping, RFC 4787 REQ-1; ICE depends on it). The outside
//! endpoint belongs to one unconnected socket, which the relay opens on our command: the kernel's port table is what
//! keeps two mappings from sharing a port (REQ-3).
//!
//! A mapping is *opening* from its first outbound packet until the relay says which outside endpoint the socket got, and
//! *open* after that. Packets are handed to the relay in both states: commands and transmits go through one outbox in
//! order, so the socket is there before its first datagram.
//!
//! ```text
//!   outbound      [`MappingTable::map`]     finds or makes the mapping, notes the remote as a contact, refreshes the lifetime
//!   inbound       [`MappingTable::admit`]   the remote must be a contact, as far as the [`Filtering`](crate::net::Filtering) asks
//!   time          [`MappingTable::expire`]  a mapping without an outbound packet for its lifetime ends (REQ-5, REQ-6)
//! ```
//!
//! Only outbound packets refresh a mapping: a remote must not be able to keep a port open by itself (REQ-6). By setting,
//! datagrams from contacts do it too, never those from strangers. Nothing here grows without bound: [`NatLimits`] caps the
//! mappings, those of one inside address, and the contacts of each.

mod filter;
mod mapping;

pub use filter::PermittedRemotes;
pub use mapping::{AdmitError, MapError, Mapped, Mapping, MappingTable, NatLimits, NatSettings};
