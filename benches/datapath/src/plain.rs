//! The relay that anyone would write first: a TUN, epoll, a connected socket for each flow, a system call a packet.
//!
//! IPv4 and UDP only, no policy, no limits, nothing ends: what a relay of this kind costs at least.
#![allow(unsafe_code, reason = "tun-tap's descriptor is borrowed raw")]

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, Socket, Type};
use tun_tap::{Iface, Mode};

use crate::frame::EF;

/// Events of a wake-up, and packets from the TUN: the same for both directions.
const BUDGET: usize = 64;

/// The token of the TUN; the others are places in the list of flows.
const TUN: u64 = u64::MAX;

/// The length of the headers that are written before a datagram.
const HEADERS: usize = 28;

/// An inside endpoint and its remote, which has a socket of its own.
type Ends = (SocketAddrV4, SocketAddrV4);

/// Relays what comes out of a new TUN of this name to an uplink, until it is killed.
///
/// # Errors
/// When the TUN or a socket cannot be had.
pub fn run(tun: &str, uplink: &str) -> Result<()> {
    let tun = Iface::without_packet_info(tun, Mode::Tun).context("the TUN")?;
    tun.set_non_blocking()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    // SAFETY: the interface lives until the process ends.
    let descriptor = unsafe { BorrowedFd::borrow_raw(tun.as_raw_fd()) };
    epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, TUN))?;
    println!("ready");
    let mut places: HashMap<Ends, usize> = HashMap::new();
    let mut flows: Vec<(Ends, Socket)> = Vec::new();
    let mut events = [EpollEvent::empty(); BUDGET];
    let mut buffer = [0; 2048];
    loop {
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            // A tracer came or went.
            Err(Errno::EINTR) => continue,
            ready => ready?,
        };
        for event in &events[..ready] {
            if event.data() != TUN {
                let (ends, socket) = &flows[event.data() as usize];
                answer(&tun, *ends, socket, &mut buffer);
                continue;
            }
            for _ in 0..BUDGET {
                let Ok(length) = tun.recv(&mut buffer) else {
                    break;
                };
                let Some((ends, payload)) = read(&buffer[..length]) else {
                    continue;
                };
                let place = if let Some(&place) = places.get(&ends) {
                    place
                } else {
                    let socket = open(uplink, ends.1)?;
                    let place = flows.len();
                    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
                    flows.push((ends, socket));
                    places.insert(ends, place);
                    place
                };
                // A full queue drops, as everywhere.
                let _ = flows[place].1.send(payload);
            }
        }
    }
}

/// Carries a datagram back.
fn answer(tun: &Iface, (inside, remote): Ends, socket: &Socket, buffer: &mut [u8]) {
    // Otherwise nothing is there, or ICMP has said something of an earlier one.
    let Ok(length) = io::Read::read(&mut &*socket, &mut buffer[HEADERS..]) else {
        return;
    };
    write_headers(&mut buffer[..HEADERS + length], remote, inside);
    let _ = tun.send(&buffer[..HEADERS + length]);
}

fn open(uplink: &str, remote: SocketAddrV4) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(uplink.as_bytes()))?;
    socket.set_tos_v4(u32::from(EF))?;
    socket.connect(&remote.into())?;
    Ok(socket)
}

fn read(packet: &[u8]) -> Option<(Ends, &[u8])> {
    if packet.len() < HEADERS || packet[0] != 0x45 || packet[9] != 17 {
        return None;
    }
    let end = |address: usize, port: usize| {
        let octets: [u8; 4] = packet[address..address + 4].try_into().expect("4 bytes");
        let port = u16::from_be_bytes([packet[port], packet[port + 1]]);
        SocketAddrV4::new(Ipv4Addr::from(octets), port)
    };
    Some(((end(12, 20), end(16, 22)), &packet[HEADERS..]))
}

fn write_headers(packet: &mut [u8], from: SocketAddrV4, to: SocketAddrV4) {
    let total = packet.len() as u16;
    packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    let sum = checksum(&packet[..20], 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..26].copy_from_slice(&(total - 20).to_be_bytes());
    packet[26..28].fill(0);
    let sum = checksum(&packet[12..], 17 + u64::from(total - 20));
    packet[26..28].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
}

fn checksum(bytes: &[u8], start: u64) -> u16 {
    let words = bytes.chunks(2);
    let mut sum = words.fold(start, |sum, word| {
        sum + u64::from(u16::from_be_bytes([
            word[0],
            word.get(1).copied().unwrap_or(0),
        ]))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
