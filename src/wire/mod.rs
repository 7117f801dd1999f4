//! Packets: validated once, then read without failing; and the packets that answer them.
//!
//! # Theory of operation
//! Everything that comes out of the TUN passes [`Packet::parse`] first. What it accepts is whole and consistent, and a
//! [`Packet`] is the evidence: its accessors cannot fail. What it refuses has a [`ParseError`], which is a drop reason
//! with a label.
//!
//! What goes into the TUN is written here too. A relayed datagram is received into a buffer behind [`HEADROOM`] free
//! bytes, and [`udp::prepend`] writes the headers there, so that the payload is not copied. Refusals are written by
//! [`icmp::write_error`] and [`tcp::write_reset`], after [`icmp::may_answer`] has said that one is allowed. What is too
//! large for the TUN goes in as the pieces that [`fragment::split`] makes.

mod checksum;
mod error;
pub mod fragment;
pub mod icmp;
mod ip;
mod packet;
#[cfg(test)]
mod sample;
pub mod tcp;
pub mod udp;

pub use error::{ParseError, WriteError};
pub use fragment::Fragment;
pub use icmp::IcmpError;
pub use packet::{Packet, Transport};

/// The bytes that [`udp::prepend`] needs before a payload at most: an IPv6 and a UDP header.
pub const HEADROOM: usize = 48;
