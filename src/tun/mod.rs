//! The TUN device: where the application's packets come out of the kernel and the answers go back in.
//!
//! The device is not persistent: it lives as long as its file descriptor, and its routes with it. That is what makes a
//! crash safe: media falls back into the VPN.

mod memory;
mod tap;

use std::io;

pub use memory::Memory;
pub use tap::{OpenError, Tun};

/// A source and sink of IP packets, without packet information before them.
pub trait Device {
    /// Reads one packet into `buffer` and answers its length.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when none is waiting; anything else means that the device is lost.
    fn try_recv(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes one packet.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when the kernel's queue is full; anything else concerns this packet alone.
    fn try_send(&mut self, packet: &[u8]) -> io::Result<()>;

    /// Waits until a packet may be waiting.
    ///
    /// # Cancel safety
    /// No packet is lost when the future is dropped.
    ///
    /// # Errors
    /// When the runtime cannot watch the device.
    fn readable(&mut self) -> impl Future<Output = io::Result<()>>;
}
