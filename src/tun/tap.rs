//! The kernel's TUN device, through the `tun-tap` crate.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use tun_tap::{Iface, Mode};

use super::Device;

/// A TUN device of our own.
#[derive(Debug)]
pub struct Tun {
    iface: Iface,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another program holds the name.
    #[error(
        "the interface {name} is in use: another voicelane runs here, or another program took the name; stop it or choose another with --tun"
    )]
    Busy {
        /// The wanted name.
        name: String,
    },
    /// The process may not make devices.
    #[error("no permission to make the interface {name}: run as root or with CAP_NET_ADMIN")]
    Denied {
        /// The wanted name.
        name: String,
    },
    /// The kernel has no TUN driver here.
    #[error(
        "/dev/net/tun is missing: load the tun module (modprobe tun), or give the container the device"
    )]
    NoDriver,
    /// Anything else.
    #[error("could not make the interface {name}")]
    Other {
        /// The wanted name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Tun {
    /// Makes the device `name`. It is down and has no address.
    ///
    /// # Errors
    /// [`OpenError`], with what to do about it.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        let open = || {
            let iface = Iface::without_packet_info(name, Mode::Tun)?;
            iface.set_non_blocking()?;
            Ok(iface)
        };
        let iface = open().map_err(|source: io::Error| {
            let name = name.to_owned();
            match source.kind() {
                io::ErrorKind::ResourceBusy => OpenError::Busy { name },
                io::ErrorKind::PermissionDenied => OpenError::Denied { name },
                io::ErrorKind::NotFound => OpenError::NoDriver,
                _ => OpenError::Other { name, source },
            }
        })?;
        Ok(Self { iface })
    }

    /// The name that the kernel gave it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.iface.name()
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.iface.as_raw_fd()
    }
}

#[allow(unsafe_code)]
impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: an `Iface` owns one open descriptor, and the borrow ends before it.
        unsafe { BorrowedFd::borrow_raw(self.iface.as_raw_fd()) }
    }
}

impl Device for Tun {
    fn try_recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.iface.recv(buffer)
    }

    fn try_send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.iface.send(packet).map(|_| ())
    }
}
