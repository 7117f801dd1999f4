//! Data for support: the archive of a bug report, and packet captures of the TUN.
//!
//! Both leave out personal data by default. The archive is redacted ([`Redactor`]); a capture has headers and no payload.

mod archive;
mod capture;
mod output;
pub(crate) mod packet_socket;
mod pcap;
mod redact;

pub use archive::{Archive, ArchiveFile};
pub use capture::{CaptureLimits, StopReason, capture};
pub(crate) use output::outputs;
pub use redact::{IdentifyingNames, Redactor};
