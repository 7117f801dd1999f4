//! The kernel's TUN device, through the `tun-tap` crate.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use tun_tap::{Iface, Mode};

use super::PacketDevice;

/// A TUN device of the kernel.
#[derive(Debug)]
pub struct TunDevice {
    iface: Iface,
}

/// The TUN device could not be created.
#[derive(Debug, thiserror::Error)]
pub enum TunOpenError {
    /// Another program uses the name.
    #[error(
        "the interface {name} is in use: another voicelane runs here, or another program took the name; stop it or choose another with --tun"
    )]
    Busy {
        /// The requested name.
        name: String,
    },
    /// The process lacks the permission to create devices.
    #[error("no permission to create the interface {name}: run as root or with CAP_NET_ADMIN")]
    Denied {
        /// The requested name.
        name: String,
    },
    /// The kernel has no TUN driver.
    #[error(
        "/dev/net/tun is missing: load the tun module (modprobe tun), or give the container the device"
    )]
    NoDriver,
    /// Any other error.
    #[error("could not create the interface {name}")]
    Other {
        /// The requested name.
        name: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}

impl TunDevice {
    /// Creates the device `name`. It is down and has no address.
    ///
    /// # Errors
    /// [`TunOpenError`], which names the remedy.
    pub fn open(name: &str) -> Result<Self, TunOpenError> {
        let open = || {
            let iface = Iface::without_packet_info(name, Mode::Tun)?;
            iface.set_non_blocking()?;
            Ok(iface)
        };
        let iface = open().map_err(|source: io::Error| {
            let name = name.to_owned();
            match source.kind() {
                io::ErrorKind::ResourceBusy => TunOpenError::Busy { name },
                io::ErrorKind::PermissionDenied => TunOpenError::Denied { name },
                io::ErrorKind::NotFound => TunOpenError::NoDriver,
                _ => TunOpenError::Other { name, source },
            }
        })?;
        Ok(Self { iface })
    }

    /// Returns the interface name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.iface.name()
    }
}

impl AsRawFd for TunDevice {
    fn as_raw_fd(&self) -> RawFd {
        self.iface.as_raw_fd()
    }
}

#[allow(unsafe_code)]
impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: an `Iface` owns one open descriptor, which outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.iface.as_raw_fd()) }
    }
}

impl PacketDevice for TunDevice {
    fn try_recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.iface.recv(buffer)
    }

    fn try_send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.iface.send(packet).map(|_| ())
    }
}
