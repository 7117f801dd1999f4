//! nftables tables of voicelane: reply source substitution, firewall probes, firewall marks, capture of clients, marks
//! for lookups without ports.
//!
//! The owner of each table is a netlink socket, so the kernel deletes the table when the process ends. Foreign tables
//! are never changed.

mod blocked_path;
mod client_capture;
mod expression;
mod firewall;
mod foreign_hooks;
mod lookup_marks;
#[cfg(any(feature = "demo", feature = "lab"))]
mod masquerade;
mod policy_sets;
mod reply_source;
mod table;
mod trace;

#[cfg(test)]
pub use blocked_path::MediaPath;
pub use blocked_path::{BLOCKS, BlockedPath, REMEDY};
pub use client_capture::ClientCapture;
pub use firewall::{Firewall, Prober};
pub use foreign_hooks::portless_lookups;
pub(crate) use foreign_hooks::{is_foreign, messages};
pub use lookup_marks::LookupMarks;
#[cfg(any(feature = "demo", feature = "lab"))]
pub use masquerade::masquerade;
pub use reply_source::{ReplySourceTable, reply_sources};
pub use table::NftError;
#[cfg(any(feature = "demo", feature = "lab"))]
pub use table::NftTable;
#[cfg(feature = "lab")]
pub use trace::is_trace;
