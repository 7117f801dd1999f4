//! A device without a kernel's network behind it, for tests of everything above.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use super::PacketDevice;

/// One end of a pair of sockets: what the other end sends is read here, and the other way round.
#[derive(Debug)]
pub struct MemoryDevice(UnixDatagram);

impl MemoryDevice {
    /// Makes a device, and the other end of it.
    ///
    /// # Errors
    /// When the kernel gives no sockets.
    pub fn new() -> io::Result<(Self, UnixDatagram)> {
        let (own, other) = UnixDatagram::pair()?;
        own.set_nonblocking(true)?;
        Ok((Self(own), other))
    }
}

impl AsFd for MemoryDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PacketDevice for MemoryDevice {
    fn try_recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }

    fn try_send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.0.send(packet).map(|_| ())
    }
}
