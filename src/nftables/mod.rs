//! Tables of our own in nftables: reply source substitution, firewall probes and marks, capture of clients.
//!
//! The owner of a table is our netlink socket, so the kernel removes the table when the process ends.

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
