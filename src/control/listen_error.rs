//! The error of a listening socket.

use std::io;
use std::path::PathBuf;

/// The socket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A group of the configuration does not exist.
    #[error(
        "the group {0:?} in [control] does not exist: create it (groupadd --system {0}) or remove the line"
    )]
    NoGroup(String),
    /// The kernel refused.
    #[error("could not create the socket {path}")]
    Socket {
        /// The path or address of the socket.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}
