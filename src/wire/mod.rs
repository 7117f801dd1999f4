//! Packets: validated once, then read without failure; and written.
//!
//! # Theory of operation
//!
//! Every packet from the TUN passes [`Packet::parse`]. A [`Packet`] is complete and consistent, so its accessors cannot
//! fail. A [`ParseError`] is a drop reason with a label.
//!
//! Packets for the TUN are written here too. A datagram is received into a buffer behind [`HEADROOM`] free bytes, and
//! [`udp::prepend`] writes the headers there, so that the payload is not copied. The module [`reply`] writes ICMP errors
//! and TCP resets. [`fragment::split`] fragments packets that exceed the TUN's MTU.

mod addresses;
mod checksum;
mod error;
pub mod fragment;
pub mod icmp;
mod ip;
mod packet;
pub mod reply;
#[cfg(test)]
mod sample;
pub mod tcp;
pub mod udp;

pub use error::{ParseError, WriteError};
pub use fragment::Fragment;
pub use icmp::IcmpError;
pub use packet::{Packet, Transport};

/// The bytes before a payload that [`udp::prepend`] needs at most: an IPv6 and a UDP header.
pub const HEADROOM: usize = 48;
