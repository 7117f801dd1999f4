//! What is handed to whoever helps: an archive of how things are, and what passes the TUN.
//!
//! Both leave out what nobody else should know. The archive is redacted ([`Redactor`]); a capture holds headers and no
//! words, unless asked for.

mod archive;
mod capture;
mod pcap;
mod redact;
pub(crate) mod tap;

pub use archive::{Archive, File};
pub use capture::{Captured, Limits, Stop, capture};
pub use redact::{Redactor, Secrets};
