//! nftables tables of voicelane: reply source substitution, firewall probes, firewall marks, capture of clients.
//!
//! The owner of each table is a netlink socket, so the kernel deletes the table when the process ends. Foreign tables
//! are never changed.

mod blocked_path;
mod client_capture;
mod expression;
mod firewall;
#[cfg(any(feature = "demo", feature = "lab"))]
mod masquerade;
mod reply_source;
mod table;
mod trace;

#[cfg(test)]
pub use blocked_path::MediaPath;
pub use blocked_path::{BLOCKS, BlockedPath, REMEDY};
pub use client_capture::ClientCapture;
pub use firewall::{Firewall, Prober};
#[cfg(any(feature = "demo", feature = "lab"))]
pub use masquerade::masquerade;
pub use reply_source::{ReplySourceTable, reply_sources};
pub use table::NftError;
#[cfg(any(feature = "demo", feature = "lab"))]
pub use table::NftTable;
pub(crate) use table::OURS;
#[cfg(feature = "lab")]
pub use trace::is_trace;
