//! The TUN device: delivers the packets of applications and accepts the replies.
//!
//! The device is not persistent: it and its routes exist as long as its file descriptor. So after a crash media returns to
//! the VPN.

mod device;

use std::io;
use std::os::fd::AsFd;

pub use device::TunDevice;

/// A source and sink of IP packets without packet information. The descriptor is readable while a packet waits, and when
/// the device is lost.
pub trait PacketDevice: AsFd {
    /// Reads one packet into `buffer`, and returns its length.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if none is waiting; any other error means that the device is lost.
    fn try_recv(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes one packet.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the kernel's queue is full; any other error concerns this packet alone.
    fn try_send(&mut self, packet: &[u8]) -> io::Result<()>;
}
