//! What is handed to whoever helps: an archive of how things are, and what passes the TUN.
//!
//! Both leave out what nobody else should know. The archive is redacted ([`Redactor`]); a capture holds headers and no
//! words, unless asked for.

mod archive;
mod capture;
pub(crate) mod packet_socket;
mod pcap;
mod redact;

pub use archive::{Archive, ArchiveFile};
pub use capture::{CaptureLimits, CaptureSummary, StopReason, capture};
pub use redact::{IdentifyingNames, Redactor};
