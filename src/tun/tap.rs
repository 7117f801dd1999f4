//! The kernel's TUN device, through the `tun-tap` crate.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tun_tap::{Iface, Mode};

use super::Device;

/// Packets, and the error that is all that a device tells which another program has deleted.
const WATCHED: Interest = Interest::READABLE.add(Interest::ERROR);

/// A TUN device of our own.
#[derive(Debug)]
pub struct Tun {
    fd: AsyncFd<Iface>,
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
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        let open = || {
            let iface = Iface::without_packet_info(name, Mode::Tun)?;
            iface.set_non_blocking()?;
            watch(iface)
        };
        let fd = open().map_err(|source| {
            let name = name.to_owned();
            match source.kind() {
                io::ErrorKind::ResourceBusy => OpenError::Busy { name },
                io::ErrorKind::PermissionDenied => OpenError::Denied { name },
                io::ErrorKind::NotFound => OpenError::NoDriver,
                _ => OpenError::Other { name, source },
            }
        })?;
        Ok(Self { fd })
    }

    /// The name that the kernel gave it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.fd.get_ref().name()
    }
}

#[allow(unsafe_code)]
fn watch(iface: Iface) -> io::Result<AsyncFd<Iface>> {
    // SAFETY: an `Iface` owns one open descriptor and names the same one as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(iface, WATCHED) }?)
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Device for Tun {
    fn try_recv(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Readiness is edge-triggered: `try_io` clears it when the queue is empty, and only then.
        // It takes one interest at a time.
        match self
            .fd
            .try_io(Interest::READABLE, |iface| iface.recv(buffer))
        {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.fd.try_io(Interest::ERROR, |iface| iface.recv(buffer))
            }
            received => received,
        }
    }

    fn try_send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.fd.get_ref().send(packet).map(|_| ())
    }

    async fn readable(&mut self) -> io::Result<()> {
        self.fd.ready(WATCHED).await?.retain_ready();
        Ok(())
    }
}
