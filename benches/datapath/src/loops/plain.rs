//! The loop that anyone would write first: one epoll set, a system call a packet.
#![allow(unsafe_code, reason = "tun-tap's descriptor is borrowed raw")]

use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tun_tap::Iface;

use super::{BUDGET, Flows, HEADERS, ROOM, read, write_headers};

/// The token of the TUN; the others are places of flows.
const TUN: u64 = u64::MAX;

/// Relays, waiting for the set itself.
pub fn run(tun: Iface, uplink: &str) -> Result<()> {
    let mut set = Set::new(tun, uplink)?;
    println!("ready");
    loop {
        set.turn(EpollTimeout::NONE)?;
    }
}

/// The relay and its epoll set.
pub struct Set {
    tun: Iface,
    epoll: Epoll,
    flows: Flows,
    events: [EpollEvent; BUDGET],
    buffer: [u8; ROOM],
}

impl Set {
    /// The TUN alone, at first.
    pub fn new(tun: Iface, uplink: &str) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // SAFETY: the interface lives as long as the set.
        let descriptor = unsafe { BorrowedFd::borrow_raw(tun.as_raw_fd()) };
        epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, TUN))?;
        Ok(Self {
            tun,
            epoll,
            flows: Flows::new(uplink),
            events: [EpollEvent::empty(); BUDGET],
            buffer: [0; ROOM],
        })
    }

    /// Asks the set once, relays, and says how many were ready.
    pub fn turn(&mut self, timeout: EpollTimeout) -> Result<usize> {
        let ready = match self.epoll.wait(&mut self.events, timeout) {
            // A tracer came or went.
            Err(Errno::EINTR) => return Ok(0),
            ready => ready?,
        };
        for at in 0..ready {
            match self.events[at].data() {
                TUN => self.forward()?,
                place => self.answer(place as usize),
            }
        }
        Ok(ready)
    }

    /// Sends what came from the TUN.
    fn forward(&mut self) -> Result<()> {
        for _ in 0..BUDGET {
            let Ok(length) = self.tun.recv(&mut self.buffer) else {
                break;
            };
            let Some((ends, payload)) = read(&self.buffer[..length]) else {
                continue;
            };
            let place = self.flows.place(ends, |place, socket| {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, place as u64);
                Ok(self.epoll.add(socket, event)?)
            })?;
            let _ = self.flows.sockets[place].1.send(payload);
        }
        Ok(())
    }

    /// Carries a datagram back.
    fn answer(&mut self, place: usize) {
        let (ends, socket) = &self.flows.sockets[place];
        // Otherwise nothing is there, or ICMP has said something of an earlier one.
        let Ok(length) = (&mut &*socket).read(&mut self.buffer[HEADERS..]) else {
            return;
        };
        let packet = &mut self.buffer[..HEADERS + length];
        write_headers(packet, *ends);
        let _ = self.tun.send(packet);
    }
}

impl AsRawFd for Set {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }
}
