//! The sockets on the uplink side.
