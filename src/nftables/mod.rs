//! nftables tables of voicelane: reply source substitution, firewall probes, firewall marks, capture of clients.
//!
//! The owner of each table is a netlink socket, so the kernel deletes the table when the process ends. Foreign tables
//! are never changed.

mod blocked_path;
mod client_capture;
mod expression;
mod firewall;
mod masquerade;
mod reply_source;
mod table;
mod trace;

pub use blocked_path::{BLOCKS, BlockedPath, BlockingRule, MediaPath, REMEDY};
pub use client_capture::ClientCapture;
pub use firewall::{Firewall, Prober};
pub use masquerade::masquerade;
pub use reply_source::{ReplySourceTable, reply_sources};
pub(crate) use table::OURS;
pub use table::{NftError, NftTable};
