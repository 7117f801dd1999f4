//! A packet socket on an interface that sends and receives many frames with one system call.
#![allow(
    unsafe_code,
    reason = "packet sockets and sendmmsg have no safe wrapper that reuses its buffers"
)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

use libc::{c_int, iovec, mmsghdr};

use crate::frame::LENGTH;

/// Frames of one call.
pub const BURST: usize = 64;

/// Room for what may come but a call's frame.
const ROOM: usize = LENGTH + 42;

/// Receive and send buffer, in bytes of the kernel's own reckoning: a few thousand frames.
const BUFFER: c_int = 32 << 20;

/// A packet socket, the frames that it received last, and those that it is to send.
pub struct Port {
    socket: OwnedFd,
    frames: Box<[[u8; ROOM]; BURST]>,
    lengths: [usize; BURST],
    outgoing: Box<[[u8; LENGTH]; BURST]>,
    /// Of what is sent.
    length: usize,
}

impl Port {
    /// Opens a socket on an interface of this thread's namespace, for frames of this length; what it sends itself it does
    /// not see.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(interface: &str, length: usize) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let flags = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointer; the descriptor is checked before it is owned.
        let socket = unsafe {
            let raw = checked(libc::socket(libc::AF_PACKET, flags, c_int::from(protocol)))?;
            OwnedFd::from_raw_fd(raw)
        };
        // SAFETY: all zeroes are a valid address of no interface.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index.cast_signed();
        let size = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the address is initialised and of this size.
        checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) })?;
        let port = Self {
            socket,
            frames: boxed([0; ROOM]),
            lengths: [0; BURST],
            outgoing: boxed([0; LENGTH]),
            length,
        };
        port.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        port.set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        port.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
        port.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER)?;
        Ok(port)
    }

    fn set(&self, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
        let (value, length) = ((&raw const value).cast(), size_of::<c_int>() as u32);
        // SAFETY: the value is an int of this length.
        checked(unsafe { libc::setsockopt(self.socket.as_raw_fd(), level, name, value, length) })?;
        Ok(())
    }

    /// Receives what is there, at most [`BURST`] frames, and says how many.
    ///
    /// # Errors
    /// What the kernel says, but that nothing is there.
    pub fn receive(&mut self) -> io::Result<usize> {
        let mut vectors = self.frames.each_mut().map(|frame| iovec {
            iov_base: frame.as_mut_ptr().cast(),
            iov_len: ROOM,
        });
        let mut messages = vectors.each_mut().map(message);
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: every message has one vector, every vector a buffer of ours; all outlive the call.
        let taken = unsafe {
            let (first, count) = (messages.as_mut_ptr(), BURST as u32);
            libc::recvmmsg(self.socket.as_raw_fd(), first, count, flags, null_mut())
        };
        match checked(taken) {
            Ok(taken) => {
                for (length, message) in self.lengths.iter_mut().zip(&messages) {
                    *length = message.msg_len as usize;
                }
                Ok(taken as usize)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            // A link that went down and up again.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// A frame that was received last.
    pub fn received(&self, at: usize) -> &[u8] {
        &self.frames[at][..self.lengths[at]]
    }

    /// A frame to be written and sent with the next [`Port::send`].
    pub fn outgoing(&mut self, at: usize) -> &mut [u8] {
        &mut self.outgoing[at][..self.length]
    }

    /// A frame that was received last, and one to be sent.
    pub fn pair(&mut self, received: usize, outgoing: usize) -> (&[u8], &mut [u8]) {
        let length = self.lengths[received];
        (
            &self.frames[received][..length],
            &mut self.outgoing[outgoing][..self.length],
        )
    }

    /// Sends the first `count` outgoing frames.
    ///
    /// # Errors
    /// What the kernel says, but that a queue was full: the frame is lost then, as on a wire.
    pub fn send(&mut self, count: usize) -> io::Result<()> {
        let mut vectors = self.outgoing.each_mut().map(|frame| iovec {
            iov_base: frame.as_mut_ptr().cast(),
            iov_len: self.length,
        });
        self.send_vectors(&mut vectors[..count])
    }

    fn send_vectors(&self, vectors: &mut [iovec]) -> io::Result<()> {
        // SAFETY: all zeroes are a message of nothing.
        let mut messages: [mmsghdr; BURST] = unsafe { zeroed() };
        let count = vectors.len();
        for (place, vector) in messages.iter_mut().zip(vectors) {
            *place = message(vector);
        }
        let mut done = 0;
        while done < count {
            let rest = &mut messages[done..count];
            // SAFETY: every message has one vector, every vector a frame that its owner keeps; the kernel only reads.
            let sent = unsafe {
                let (first, count) = (rest.as_mut_ptr(), rest.len() as u32);
                libc::sendmmsg(self.socket.as_raw_fd(), first, count, libc::MSG_DONTWAIT)
            };
            match checked(sent) {
                Ok(sent) => done += sent as usize,
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENOBUFS | libc::EAGAIN) => done += 1,
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}

/// As many as a call sends, on the heap from the start.
fn boxed<T: Clone>(value: T) -> Box<[T; BURST]> {
    let boxed = vec![value; BURST].into_boxed_slice();
    boxed.try_into().ok().expect("as many")
}

fn message(vector: &mut iovec) -> mmsghdr {
    // SAFETY: all zeroes are a message of nothing, without an address and without control data.
    let mut message: mmsghdr = unsafe { zeroed() };
    message.msg_hdr.msg_iov = vector;
    message.msg_hdr.msg_iovlen = 1;
    message
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
