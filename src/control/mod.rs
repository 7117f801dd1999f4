//! The control socket: versioned requests and replies over a Unix socket.
