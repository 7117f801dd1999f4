//! The error of a listening socket.

use std::io;
use std::path::PathBuf;

/// The socket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
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
