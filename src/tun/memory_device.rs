//! A packet device in memory, for tests.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use super::PacketDevice;

/// One end of a socket pair: packets sent by the other end are read here, and vice versa.
#[derive(Debug)]
pub struct MemoryDevice(UnixDatagram);

impl MemoryDevice {
    /// Creates a device and its other end.
    ///
    /// # Errors
    /// If the kernel refuses the sockets.
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
