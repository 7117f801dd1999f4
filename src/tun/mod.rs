//! The TUN device: where the application's packets come out of the kernel and the answers go back in.
//!
//! The device is not persistent: it lives as long as its file descriptor, and its routes with it. That is what makes a
//! crash safe: media falls back into the VPN.

mod device;
mod memory_device;

use std::io;
use std::os::fd::AsFd;

pub use device::{TunDevice, TunOpenError};
pub use memory_device::MemoryDevice;

/// A source and sink of IP packets, without packet information before them. Its descriptor is readable while a packet
/// waits, and when the device is lost.
pub trait PacketDevice: AsFd {
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
}
